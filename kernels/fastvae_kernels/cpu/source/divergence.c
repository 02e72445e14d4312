/* KL(N(mean, exp logvar) || N(0, I)) of rows, and its gradients: `reference/posterior.py` in float. */

#include "divergence.h"
#include "elementary.h"

#include <math.h>

#define BLOCK 512 /* entries at a time; a multiple of SUMMED */

WIDE static void terms(const float *restrict mean, const float *restrict logvar, int count, float *restrict term) {
    for (int i = 0; i < count; i++) {
        float m = mean[i], v = logvar[i];
        term[i] = (exponential_minus_one(v) * 0.5f - v * 0.5f) + m * 0.5f * m;
    }
}

/* expm1(v) / 2 saturates, so that 0 * inf cannot occur. */
WIDE static void gradients(const float *restrict mean, const float *restrict logvar, float weight, int64_t count,
                           float *restrict to_mean, float *restrict to_logvar) {
    const float most = 0x1.fffffep127f, half = weight * 0.5f;
    for (int64_t i = 0; i < count; i++) {
        float excess = exponential_minus_one(logvar[i]);
        to_mean[i] = mean[i] * weight;
        to_logvar[i] = (excess > most ? most : excess) * half;
    }
}

static void rows_of(const void *context, int64_t first, int64_t last) {
    const divergence *own = context;
    float term[BLOCK];
    for (int64_t row = first; row < last; row++) {
        int64_t place = row * own->columns;
        double sum = 0;
        for (int64_t column = 0; own->rows && column < own->columns; column += BLOCK) {
            int count = own->columns - column < BLOCK ? (int)(own->columns - column) : BLOCK;
            terms(own->mean + place + column, own->logvar + place + column, count, term);
            sum += fastvae_sum(term, count);
        }
        if (own->rows) own->rows[row] = (float)sum;
        if (own->to_mean)
            gradients(own->mean + place, own->logvar + place, own->weight[row], own->columns, own->to_mean + place,
                      own->to_logvar + place);
    }
}

void fastvae_divergence_terms(const float *mean, const float *logvar, int count, float *term) {
    terms(mean, logvar, count, term);
}

/* That the caller's `divergence` is this one. */
int fastvae_divergence_size(void) { return (int)sizeof(divergence); }

void fastvae_divergence(const divergence *own, int64_t rows, int threads) {
    fastvae_parallel(rows_of, own, rows, threads);
}
