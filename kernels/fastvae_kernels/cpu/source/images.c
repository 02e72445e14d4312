/* Steps on one image. Images that are convolved have zeros around them: no window has to know where it is. */

#include "images.h"

#define BLOCK 96 /* windows at a time: any number of whole blocks of products */
#define PIECES 8 /* of lines, LANES entries each */

void fastvae_arrange(const arrangement *own, const float *x, float *y) {
    const int64_t *sizes = own->sizes, *from = own->from, *to = own->to;
    if (from[1] == 1 && to[2] == 1) {
        for (int64_t i = 0; i < sizes[0]; i++)
            fastvae_transpose(sizes[2], sizes[1], x + i * from[0], from[2], y + i * to[0], to[1]);
        return;
    }
    for (int64_t i = 0; i < sizes[0]; i++)
        for (int64_t j = 0; j < sizes[1]; j++) {
            const float *source = x + i * from[0] + j * from[1];
            float *target = y + i * to[0] + j * to[1];
            if (from[2] == 1 && to[2] == 1) {
                memcpy(target, source, (size_t)sizes[2] * sizeof(float));
                continue;
            }
            for (int64_t k = 0; k < sizes[2]; k++) target[k * to[2]] = source[k * from[2]];
        }
}

static void convolve(const windows *own, const float *x, float *y) {
    const float *from[BLOCK];
    float *to[BLOCK];
    int count = 0;
    for (int64_t line = 0; line < own->lines; line++)
        for (int64_t column = 0; column < own->columns; column++) {
            from[count] = x + own->x_first + line * own->x_line + column * own->x_column;
            to[count++] = y + own->y_first + line * own->y_line + column * own->y_column;
            int last = line == own->lines - 1 && column == own->columns - 1;
            if (count < BLOCK && !last) continue;
            fastvae_products(&own->sums, count, from, to);
            count = 0;
        }
}

void fastvae_convolve(const windows *own, int64_t kinds, const float *x, float *y) {
    for (int64_t kind = 0; kind < kinds; kind++) convolve(own + kind, x, y);
}

/* The results of some pieces of lines, `left` entries of each, which begin at `from` and are wanted at `to`. */
static void make_planes(const windows *own, int count, const float *const *from, float *const *to, const int64_t *left) {
    const float *first[PIECES] = {0};
    float found[PIECES * MOST_PLANES][LANES];
    int64_t outputs = own->sums.outputs, step = own->y_column;
    for (int i = 0; i < count; i++) first[i] = from[i] + own->x_first;
    fastvae_planes(&own->sums, count, first, found);
    for (int i = 0; i < count; i++)
        for (int64_t o = 0; o < outputs; o++) {
            float *y = to[i] + own->y_first + o * own->y_channel;
            for (int64_t j = 0; j < left[i]; j++) y[j * step] = found[i * outputs + o][j];
        }
}

/* A few pieces are made by all kinds of windows while the first cache has what those read. */
void fastvae_convolve_planes(const windows *own, int64_t kinds, const float *x, float *y) {
    const float *from[PIECES];
    float *to[PIECES];
    int64_t left[PIECES];
    int count = 0;
    for (int64_t line = 0; line < own->lines; line++)
        for (int64_t column = 0; column < own->columns; column += LANES) {
            from[count] = x + line * own->x_line + column;
            to[count] = y + line * own->y_line + column * own->y_column;
            left[count++] = own->columns - column < LANES ? own->columns - column : LANES;
            int last = line == own->lines - 1 && column + LANES >= own->columns;
            if (count < PIECES && !last) continue;
            for (int64_t kind = 0; kind < kinds; kind++) make_planes(own + kind, count, from, to, left);
            count = 0;
        }
}
