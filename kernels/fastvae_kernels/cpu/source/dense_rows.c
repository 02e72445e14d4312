/* Steps of a plan on rows, all of them in one call: dense layers on a few rows, or the scores that end a plan.

   Where layers are small most of a call is what lies between them: finding a kernel, a new tensor, Python. Here steps are
   a table, and what they make lies side by side on the stack. Products are summed in an order that knows neither the
   number of rows nor the width of vectors: the bits of a row are the same in any call. */

#include "activation.h"
#include "divergence.h"
#include "elbo_loss.h"
#include "elementary.h"

#define LANES 16    /* outputs of a panel: weights are packed [panels, inputs, LANES], so are sums in registers */
#define ROWS 2      /* at a time: sums of two rows by one panel, or of one row by two, leave no register unused */
#define ROOM 8192   /* floats that the steps of a row may make */
/* Places are offsets into a row's room; below zero they are the caller's arrays, of which -1 is the first. */

typedef float vector __attribute__((vector_size(4 * LANES), aligned(4), may_alias));

enum kind { LINEAR, AFFINE, ADD, CLAMP, SCORE, DIVERGENCE };
enum values { ANY, FINITE, UNIT_INTERVAL };

/* One step, from the entries at `x`, and for some those at `other`, to those at `to`. */
typedef struct {
    const float *weight, *bias; /* LINEAR's in panels, AFFINE's scale and shift; weight: SCORE's constant logvar */
    int64_t x, other, to, logvar;
    int64_t inputs, outputs;
    int kind, function, logvar_kind; /* function: an activation, or SCORE's likelihood */
    float alpha, least, most;        /* CLAMP's bounds */
} dense_step;

/* All steps, and the call: from the arrays `given` to `outputs` arrays of `rows` rows of `width` at `out`. Of fewer rows
   than that, `given_rows` each, the first comes again after the last: data of which there are several samples. */
typedef struct {
    const dense_step *steps;
    const int64_t *places; /* of the outputs */
    const float *const *given;
    const int64_t *given_rows, *columns; /* of each of the given */
    float *out;
    int64_t count, outputs, rows, width, room;
    int values; /* what those of the first of the given have to be */
} row_call;

static inline __attribute__((always_inline)) void sum_products(int rows, int panels, const dense_step *own,
                                                               int64_t panel, const float *x, int64_t x_stride,
                                                               float *y, int64_t y_stride) {
    const float *weight = own->weight + panel * own->inputs * LANES;
    int64_t next = own->inputs * LANES, i = 0;
    vector even[ROWS][ROWS], odd[ROWS][ROWS];
    for (int r = 0; r < rows; r++)
        for (int p = 0; p < panels; p++) even[r][p] = odd[r][p] = (vector){0};
    for (; i + 1 < own->inputs; i += 2, weight += 2 * LANES)
        for (int p = 0; p < panels; p++)
            for (int r = 0; r < rows; r++) {
                even[r][p] += *(const vector *)(weight + p * next) * x[r * x_stride + i];
                odd[r][p] += *(const vector *)(weight + p * next + LANES) * x[r * x_stride + i + 1];
            }
    for (int p = 0; p < panels; p++)
        for (int r = 0; r < rows; r++) {
            if (i < own->inputs) even[r][p] += *(const vector *)(weight + p * next) * x[r * x_stride + i];
            *(vector *)(y + r * y_stride + p * LANES) =
                (even[r][p] + odd[r][p]) + *(const vector *)(own->bias + (panel + p) * LANES);
        }
}

WIDEST static void linear(const dense_step *own, int rows, const float *x, int64_t x_stride, float *y,
                          int64_t y_stride) {
    int64_t panels = (own->outputs + LANES - 1) / LANES, panel = 0;
    if (rows == 2) {
        for (; panel < panels; panel++) sum_products(2, 1, own, panel, x, x_stride, y + panel * LANES, y_stride);
        return;
    }
    for (; panel + 1 < panels; panel += 2) sum_products(1, 2, own, panel, x, x_stride, y + panel * LANES, y_stride);
    if (panel < panels) sum_products(1, 1, own, panel, x, x_stride, y + panel * LANES, y_stride);
}

WIDE static void affine(const dense_step *own, const float *x, float *y) {
    for (int64_t i = 0; i < own->outputs; i++) y[i] = x[i] * own->weight[i] + own->bias[i];
}

WIDE static void add(const float *x, const float *other, float *y, int64_t count) {
    for (int64_t i = 0; i < count; i++) y[i] = x[i] + other[i];
}

WIDE static void clamp(const dense_step *own, const float *x, float *y) {
    for (int64_t i = 0; i < own->outputs; i++) {
        float above = x[i] < own->least ? own->least : x[i];
        y[i] = above > own->most ? own->most : above;
    }
}

static float score(const dense_step *own, const float *output, const float *data, const float *logvar) {
    double sum;
    int64_t columns = own->inputs;
    loss call = {.output = output, .data = data, .logvar = logvar, .sums = &sum, .rows = 1, .columns = columns,
                 .data_rows = 1, .tile_rows = 1, .tile_columns = columns, .likelihood = own->function,
                 .logvar_kind = own->logvar_kind, .scale = 1.0f};
    fastvae_elbo_loss(&call, 1);
    return (float)sum;
}

typedef struct {
    const row_call *own;
    int64_t first; /* row */
    float *room;
} rows_block;

static const float *at(const rows_block *block, int row, int64_t place) {
    const row_call *own = block->own;
    int64_t given = -1 - place;
    if (given < 0) return block->room + row * own->room + place;
    return own->given[given] + (block->first + row) % own->given_rows[given] * own->columns[given];
}

static void step_of_row(const rows_block *block, const dense_step *step, int row) {
    const float *x = at(block, row, step->x), *other = at(block, row, step->other);
    float *y = block->room + row * block->own->room + step->to;
    divergence kl = {.mean = x, .logvar = other, .rows = y, .columns = step->inputs};
    switch (step->kind) {
        case AFFINE: affine(step, x, y); break;
        case ADD: add(x, other, y, step->outputs); break;
        case CLAMP: clamp(step, x, y); break;
        case SCORE: *y = score(step, x, other, step->weight ? step->weight : at(block, row, step->logvar)); break;
        case DIVERGENCE: fastvae_divergence(&kl, 1, 1); break;
    }
    int64_t whole = (step->outputs + LANES - 1) / LANES * LANES; /* LINEAR makes whole panels */
    if (step->kind == LINEAR || step->kind == AFFINE)
        fastvae_activate(step->function, step->alpha, y, (int)(step->kind == LINEAR ? whole : step->outputs));
}

static void run_block(const rows_block *block, int rows) {
    const row_call *own = block->own;
    for (const dense_step *step = own->steps; step < own->steps + own->count; step++) {
        if (step->kind == LINEAR) {
            const float *x = at(block, 0, step->x);
            linear(step, rows, x, at(block, rows - 1, step->x) - x, block->room + step->to, own->room);
        }
        for (int row = 0; row < rows; row++) step_of_row(block, step, row);
    }
}

WIDE static int all_finite(const float *x, int64_t count) {
    uint32_t most = 0;
    for (int64_t i = 0; i < count; i++) {
        uint32_t size = bits_of(x[i]) & 0x7fffffffu;
        most = size > most ? size : most;
    }
    return most < 0x7f800000u;
}

/* In bits, floats from 0 to 1 are those up to 1; negative ones, -0 too, infinities and NaN are all beyond. */
WIDE static int all_in_unit_interval(const float *x, int64_t count) {
    uint32_t most = 0;
    for (int64_t i = 0; i < count; i++) most = bits_of(x[i]) > most ? bits_of(x[i]) : most;
    return most <= bits_of(1.0f);
}

/* That the caller's structures are these. */
int fastvae_dense_step_size(void) { return (int)sizeof(dense_step); }
int fastvae_row_call_size(void) { return (int)sizeof(row_call); }

/* Whether the rows are what they have to be; else nothing is computed. */
int fastvae_dense_rows(const row_call *own) {
    _Alignas(64) float room[ROWS * ROOM];
    int64_t entries = own->given_rows[0] * own->columns[0];
    if (own->values == FINITE && !all_finite(own->given[0], entries)) return 0;
    if (own->values == UNIT_INTERVAL && !all_in_unit_interval(own->given[0], entries)) return 0;
    for (int64_t first = 0; first < own->rows; first += ROWS) {
        int rows = own->rows - first < ROWS ? (int)(own->rows - first) : ROWS;
        rows_block block = {own, first, room};
        run_block(&block, rows);
        for (int64_t output = 0; output < own->outputs; output++)
            for (int row = 0; row < rows; row++)
                memcpy(own->out + (output * own->rows + first + row) * own->width,
                       at(&block, row, own->places[output]), (size_t)own->width * sizeof(float));
    }
    return 1;
}
