/* A plan as a table of steps, all of them in one call.

   Rows go through it a tile at a time, and what a tile's steps make stays in the caches: dense layers take all rows of the
   tile at once, everything else one row after the other. A row's bits know neither the tile nor the call. */

#include "activation.h"
#include "divergence.h"
#include "elbo_loss.h"
#include "elementary.h"
#include "images.h"

#include <math.h>

#define MOST_ROWS 192 /* of a tile */
/* Places are offsets into a thread's room: scratch, which every row uses anew, and behind it each row's own part. Those
   below zero are the caller's arrays: -1 is the first of the given ones, MADE that of the results, and the next entry of
   each result lies MOST_MADE further down. */
#define MADE (-64)
#define MOST_MADE 64

enum kind { LINEAR, AFFINE, ADD, CLAMP, SCORE, DIVERGENCE, ARRANGE, CONVOLVE, PLANES, ACTIVATE, PIXELS };
enum values { ANY, FINITE, UNIT_INTERVAL };

/* One step, from the entries at `x`, and for some those at `other`, to those at `to`. */
typedef struct {
    const float *weight, *bias; /* AFFINE's scale and shift; weight: SCORE's constant logvar */
    const windows *windows;     /* CONVOLVE's and PLANES' kinds; LINEAR has one, of which the sums count */
    arrangement moved;          /* ARRANGE's; `sizes` and `to` of ACTIVATE: lines, which lie so far apart */
    int64_t x, other, to, logvar;
    int64_t inputs, outputs, kinds;
    int kind, function, logvar_kind; /* function: an activation, or SCORE's likelihood */
    float alpha, least, most;        /* CLAMP's bounds; PIXELS' scale and shift */
} row_step;

/* All steps, and the call: from the arrays `given` to those `made`, of `rows` rows. Of fewer rows than that, `given_rows`
   each, the first comes again after the last: data of which there are several samples. */
typedef struct {
    const row_step *steps;
    const float *const *given;
    const int64_t *given_rows, *columns; /* of each of the given */
    char *const *made;
    const int64_t *places, *bytes; /* of each result: where it lies, if not at MADE, and the bytes of a row */
    float *const *rooms;           /* of each thread, zeros before the first call */
    int64_t count, outputs, rows, scratch, room, tile; /* room: floats of a row; tile: rows at most */
    int values, threads, apart;    /* values: what those of the first of the given have to be; apart: see common.h */
} row_call;

WIDE static void affine(const row_step *own, const float *x, float *y) {
    for (int64_t i = 0; i < own->outputs; i++) y[i] = x[i] * own->weight[i] + own->bias[i];
}

WIDE static void add(const float *x, const float *other, float *y, int64_t count) {
    for (int64_t i = 0; i < count; i++) y[i] = x[i] + other[i];
}

WIDE static void clamp(const row_step *own, const float *x, float *y) {
    for (int64_t i = 0; i < own->outputs; i++) {
        float above = x[i] < own->least ? own->least : x[i];
        y[i] = above > own->most ? own->most : above;
    }
}

/* 255 (x scale + shift) as bytes, images [channels, entries] as [entries, channels]; NaN as 0. Whether there is any. */
WIDE static char pixels(const row_step *own, const float *x, uint8_t *to) {
    int64_t channels = own->inputs, entries = own->outputs;
    int nan = 0;
    for (int64_t channel = 0; channel < channels; channel++)
        for (int64_t i = 0; i < entries; i++) {
            float y = x[channel * entries + i] * own->least + own->most;
            nan |= y != y;
            y = y > 0.0f ? y : 0.0f;
            y = (y < 1.0f ? y : 1.0f) * 255.0f;
            to[i * channels + channel] = (uint8_t)(bits_of(y + 0x1.8p23f) & 0xff); /* to the nearest, ties to even */
        }
    return (char)nan;
}

typedef struct {
    const row_call *own;
    float *room;
    int64_t first; /* row */
} tile;

static float *at(const tile *of, int row, int64_t place) {
    const row_call *own = of->own;
    if (place >= own->scratch) return of->room + place + row * own->room;
    if (place >= 0) return of->room + place;
    if (place <= MADE) {
        int64_t index = (MADE - place) % MOST_MADE, entry = (MADE - place) / MOST_MADE;
        return (float *)(own->made[index] + (of->first + row) * own->bytes[index]) + entry;
    }
    int64_t given = -1 - place, index = (of->first + row) % own->given_rows[given];
    return (float *)own->given[given] + index * own->columns[given]; /* which no step writes to */
}

static void linear(const tile *of, const row_step *step, int rows) {
    const float *x[MOST_ROWS];
    float *y[MOST_ROWS];
    int row = 0;
    x[0] = at(of, 0, step->x), y[0] = at(of, 0, step->to);
    if (rows > 1) {
        int64_t apart = at(of, 1, step->to) - y[0];
        for (row = 1; row < rows; row++) x[row] = at(of, row, step->x), y[row] = y[row - 1] + apart;
    }
    fastvae_products(&step->windows->sums, rows, x, y);
    for (row = 0; row < rows && step->function; row++) fastvae_activate(step->function, step->alpha, y[row], (int)step->outputs);
}

/* Of SCORE and DIVERGENCE: the terms of some of a row's entries, or of all entries of several rows, whose numbers are then
   put side by side. Few entries are most of a function's work for nothing. */
static void terms_of(const row_step *step, const float *x, const float *other, const float *logvar, int count,
                     float *term) {
    if (step->kind == DIVERGENCE) fastvae_divergence_terms(x, other, count, term);
    else fastvae_score_terms(step->function, x, other, logvar, count, term);
}

static void sum_terms(const tile *of, const row_step *step, int rows) {
    float side[3][SCORED], term[SCORED];
    int64_t columns = step->inputs;
    int together = columns > SCORED / 2 ? 1 : (int)(SCORED / columns);
    for (int first = 0; first < rows; first += together) {
        int count = rows - first < together ? rows - first : together;
        const float *from[3] = {0};
        for (int r = 0; r < count; r++) {
            int row = first + r;
            from[0] = at(of, row, step->x), from[1] = at(of, row, step->other);
            if (step->logvar_kind != NONE) from[2] = step->weight ? step->weight : at(of, row, step->logvar);
            for (int i = 0; i < 3 && together > 1; i++)
                if (from[i]) memcpy(side[i] + r * columns, from[i], (size_t)columns * sizeof(float));
        }
        for (int i = 0; i < 3 && together > 1; i++) from[i] = side[i];
        if (together > 1) terms_of(step, from[0], from[1], from[2], (int)(count * columns), term);
        for (int r = 0; r < count; r++) {
            double sum = 0;
            for (int64_t column = 0; column < columns; column += SCORED) {
                int some = columns - column < SCORED ? (int)(columns - column) : SCORED;
                if (together == 1)
                    terms_of(step, from[0] + column, from[1] + column, from[2] ? from[2] + column : 0, some, term);
                sum += fastvae_sum(term + r * columns, some);
            }
            *at(of, first + r, step->to) = (float)sum;
        }
    }
}

static void step_of_row(const tile *of, const row_step *step, int row) {
    const float *x = at(of, row, step->x), *other = at(of, row, step->other);
    float *y = at(of, row, step->to);
    switch (step->kind) {
        case AFFINE: affine(step, x, y); break;
        case ADD: add(x, other, y, step->outputs); break;
        case CLAMP: clamp(step, x, y); break;
        case ARRANGE: fastvae_arrange(&step->moved, x, y); break;
        case CONVOLVE: fastvae_convolve(step->windows, step->kinds, x, y); break;
        case PLANES: fastvae_convolve_planes(step->windows, step->kinds, x, y); break;
        case PIXELS: *(char *)at(of, row, step->other) = pixels(step, x, (uint8_t *)y); break;
    }
    if (step->kind == AFFINE) fastvae_activate(step->function, step->alpha, y, (int)step->outputs);
    if (step->kind != ACTIVATE) return;
    for (int64_t line = 0; line < step->moved.sizes[0]; line++)
        fastvae_activate(step->function, step->alpha, y + line * step->moved.to[0], (int)step->moved.sizes[1]);
}

static int is_of_tile(const row_step *step) {
    return step->kind == LINEAR || step->kind == SCORE || step->kind == DIVERGENCE;
}

/* Steps between those of a whole tile are done with a row before the next one: an image's are in the caches. */
static void run_tile(const tile *of, int rows) {
    const row_step *step = of->own->steps, *end = step + of->own->count, *next;
    for (; step < end; step = next) {
        next = step + 1;
        if (step->kind == LINEAR) linear(of, step, rows);
        else if (is_of_tile(step)) sum_terms(of, step, rows);
        else {
            while (next < end && !is_of_tile(next)) next++;
            for (int row = 0; row < rows; row++)
                for (const row_step *own = step; own < next; own++) step_of_row(of, own, row);
        }
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

typedef struct {
    const row_call *own;
    int64_t *next; /* the first tile that nobody has taken */
    int *wrong;    /* whether a row's values are not what they have to be */
} rows_call;

static int is_right(const row_call *own, int64_t first, int64_t rows) {
    int64_t columns = own->columns[0], left = own->given_rows[0] - first;
    if (own->values == ANY || left <= 0) return 1;
    const float *x = own->given[0] + first * columns;
    int64_t entries = (left < rows ? left : rows) * columns;
    return own->values == FINITE ? all_finite(x, entries) : all_in_unit_interval(x, entries);
}

/* Tiles, one after the other, in the room of thread `first`, until none is left: a thread that is kept from its work does
   fewer of them. A tile's rows are looked at just before they are read. */
static void run_tiles(const void *context, int64_t first, int64_t last) {
    const rows_call *call = context;
    const row_call *own = call->own;
    (void)last;
    for (;;) {
        tile of = {own, own->rooms[first], __atomic_fetch_add(call->next, 1, __ATOMIC_RELAXED) * own->tile};
        if (of.first >= own->rows) return;
        int64_t rows = own->rows - of.first < own->tile ? own->rows - of.first : own->tile;
        if (__atomic_load_n(call->wrong, __ATOMIC_RELAXED)) return;
        if (!is_right(own, of.first, rows)) {
            __atomic_store_n(call->wrong, 1, __ATOMIC_RELAXED);
            return;
        }
        run_tile(&of, (int)rows);
        for (int64_t output = 0; output < own->outputs; output++)
            for (int row = 0; row < rows && own->places[output] > MADE; row++)
                memcpy(own->made[output] + (of.first + row) * own->bytes[output], at(&of, row, own->places[output]),
                       (size_t)own->bytes[output]);
    }
}

/* That the caller's structures are these. */
int fastvae_row_step_size(void) { return (int)sizeof(row_step); }
int fastvae_row_call_size(void) { return (int)sizeof(row_call); }

/* Whether the rows are what they have to be; else what is made is to be thrown away. */
int fastvae_row_steps(const row_call *own) {
    int wrong = 0;
    int64_t next = 0;
    rows_call call = {own, &next, &wrong};
    (own->apart ? fastvae_parallel_apart : fastvae_parallel)(run_tiles, &call, own->threads, own->threads);
    return !wrong;
}
