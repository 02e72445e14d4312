/* The reconstruction that `elbo_loss` adds up, and its gradients, in one pass: `reference/elbo_loss.py` in float. */

#include "elbo_loss.h"
#include "elementary.h"

#include <math.h>

#define BLOCK SCORED /* entries at a time: terms and gradients of so many stay in the first cache; a multiple of SUMMED */

typedef struct {
    float term[BLOCK], output[BLOCK], logvar[BLOCK]; /* scores, and their derivatives */
} entries;

static inline float exponential_of_minus(float size) { return exponential(size > 104.0f ? -104.0f : -size); }

/* softplus(l) - x l, summed so that a confident right answer costs exp(-|l|), not 0; e is exp(-|l|). */
static inline float bernoulli_term(float l, float x, float e) {
    return ((l < 0.0f ? 0.0f : l) - l * x) + log_plus_one(e);
}

WIDEST static void bernoulli(const float *restrict logit, const float *restrict x, int count, entries *restrict own) {
    for (int i = 0; i < count; i++) {
        float l = logit[i], e = exponential_of_minus(fabsf(l)), inverse = 1.0f / (1.0f + e);
        own->output[i] = (l >= 0.0f ? inverse : e * inverse) - x[i];
        own->term[i] = bernoulli_term(l, x[i], e);
    }
}

/* The same where nobody asks for derivatives. */
WIDEST static void bernoulli_terms(const float *restrict logit, const float *restrict x, int count,
                                   entries *restrict own) {
    for (int i = 0; i < count; i++)
        own->term[i] = bernoulli_term(logit[i], x[i], exponential_of_minus(fabsf(logit[i])));
}

WIDE static void squared_error(const float *restrict output, const float *restrict x, int count,
                               entries *restrict own) {
    for (int i = 0; i < count; i++) {
        float d = output[i] - x[i];
        own->output[i] = 2.0f * d;
        own->term[i] = d * d;
    }
}

#define LOG_TWO_PI 1.8378770664093453f
#define PLAIN 80.0f /* exp of up to so much is a normal number */

WIDE static void gaussian(const float *restrict mean, const float *restrict x, const float *restrict v, int count,
                          entries *restrict own) {
    for (int i = 0; i < count; i++) {
        float d = mean[i] - x[i], s = d * exponential(-v[i]), square = d * s;
        own->output[i] = s;
        own->logvar[i] = 0.5f * (1.0f - square);
        own->term[i] = 0.5f * (square + v[i] + LOG_TWO_PI);
    }
}

/* The same where a log-variance is out of the ordinary: by products of d exp(-v / 2), which saturates, so that 0 * inf
   cannot occur. */
static void gaussian_extreme(const float *mean, const float *x, const float *v, int count, entries *own) {
    const float most = 0x1.fffffep127f;
    gaussian(mean, x, v, count, own);
    for (int i = 0; i < count; i++) {
        if (fabsf(v[i]) < PLAIN) continue;
        float d = mean[i] - x[i], half = expf(-0.5f * v[i]);
        half = half > most ? most : half;
        d = d > most ? most : d < -most ? -most : d;
        float z = d * half, square = z * z;
        own->output[i] = z * half;
        own->logvar[i] = 0.5f * (1.0f - square);
        own->term[i] = 0.5f * (square + v[i] + LOG_TWO_PI);
    }
}

WIDE static int plain(const float *v, int count) {
    int found = 1;
    for (int i = 0; i < count; i++) found &= fabsf(v[i]) < PLAIN;
    return found;
}

static void score_entries(const loss *own, const float *output, const float *x, const float *v, int count,
                          entries *found) {
    if (own->likelihood == BERNOULLI)
        (own->to_output ? bernoulli : bernoulli_terms)(output, x, count, found);
    else if (own->likelihood == SQUARED_ERROR)
        squared_error(output, x, count, found);
    else
        (plain(v, count) ? gaussian : gaussian_extreme)(output, x, v, count, found);
}

WIDE static void leave_out(const uint8_t *mask, int count, entries *restrict own) {
    for (int i = 0; i < count; i++) {
        own->term[i] = mask[i] ? own->term[i] : 0.0f;
        own->output[i] = mask[i] ? own->output[i] : 0.0f;
    }
}

WIDE static void leave_out_logvar(const uint8_t *mask, int count, entries *restrict own) {
    for (int i = 0; i < count; i++) own->logvar[i] = mask[i] ? own->logvar[i] : 0.0f;
}

WIDE static void write(float *restrict to, const float *restrict from, float weight, int count) {
    for (int i = 0; i < count; i++) to[i] = from[i] * weight;
}

WIDE static void add(double *restrict to, const float *restrict from, float weight, int count) {
    for (int i = 0; i < count; i++) to[i] += (double)(from[i] * weight);
}

/* Columns `first` .. `last` - 1 of a row; its score. */
static double score_row(const loss *own, int64_t row, int64_t first, int64_t last, double *shared) {
    entries found;
    float constant[BLOCK];
    double sum = 0;
    int64_t data_row = row % own->data_rows;
    float weight = own->weight ? own->weight[row] : own->scale;
    if (own->logvar_kind == OF_ALL)
        for (int i = 0; i < BLOCK; i++) constant[i] = own->logvar[0];
    for (int64_t column = first; column < last; column += BLOCK) {
        int count = last - column < BLOCK ? (int)(last - column) : BLOCK;
        int64_t place = row * own->columns + column, data_place = data_row * own->columns + column;
        const float *v = own->logvar_kind == OF_ENTRY    ? own->logvar + place
                         : own->logvar_kind == OF_COLUMN ? own->logvar + column
                                                         : constant;
        score_entries(own, own->output + place, own->data + data_place, v, count, &found);
        if (own->mask) leave_out(own->mask + data_place, count, &found);
        if (own->mask && own->logvar) leave_out_logvar(own->mask + data_place, count, &found);
        if (own->to_output) write(own->to_output + place, found.output, weight, count);
        if (own->to_logvar) write(own->to_logvar + place, found.logvar, weight, count);
        if (shared) add(shared + column, found.logvar, weight, count);
        if (own->sums) sum += fastvae_sum(found.term, count);
    }
    return sum;
}

void fastvae_score_terms(int likelihood, const float *output, const float *data, const float *logvar, int count,
                         float *term) {
    entries found;
    loss own = {.likelihood = likelihood};
    score_entries(&own, output, data, logvar, count, &found);
    memcpy(term, found.term, (size_t)count * sizeof(float));
}

static void score_tiles(const void *context, int64_t first, int64_t last) {
    const loss *own = context;
    int64_t across = (own->columns + own->tile_columns - 1) / own->tile_columns;
    for (int64_t tile = first; tile < last; tile++) {
        int64_t row_tile = tile / across, column_tile = tile % across;
        int64_t row = row_tile * own->tile_rows, column = column_tile * own->tile_columns;
        int64_t end = row + own->tile_rows < own->rows ? row + own->tile_rows : own->rows;
        int64_t last_column = column + own->tile_columns < own->columns ? column + own->tile_columns : own->columns;
        double *shared = own->to_shared ? own->to_shared + row_tile * own->columns : 0;
        if (shared) memset(shared + column, 0, (size_t)(last_column - column) * sizeof *shared);
        for (; row < end; row++) {
            double sum = score_row(own, row, column, last_column, shared);
            if (own->sums) own->sums[column_tile * own->rows + row] = sum;
        }
    }
}

/* That the caller's `loss` is this one. */
int fastvae_loss_size(void) { return (int)sizeof(loss); }

void fastvae_elbo_loss(const loss *own, int threads) {
    int64_t down = (own->rows + own->tile_rows - 1) / own->tile_rows;
    int64_t across = (own->columns + own->tile_columns - 1) / own->tile_columns;
    fastvae_parallel(score_tiles, own, down * across, threads);
}
