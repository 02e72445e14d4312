/* Sums of products of rows by packed weights: what dense layers and convolutions are made of. */

#ifndef FASTVAE_PRODUCTS_H
#define FASTVAE_PRODUCTS_H

#include "common.h"

#define LANES 16 /* outputs of a panel, and entries of a line that `fastvae_planes` makes at a time */

/* Weights are packed in panels, [panels, terms, LANES], and zero behind the last output; so is the bias. The terms of a
   row lie in `segments` pieces of `length`, each so far from the row's start. */
typedef struct {
    const float *weight, *bias;
    const int64_t *offsets;
    int64_t segments, length, outputs;
    int relu; /* whether negative results become 0 */
} products;

/* y[r][o] = bias[o] + the sum over t of x[r][t] weight[o][t], for `rows` rows, in the order of the terms: the bits of a row
   are the same in any call, and on any machine that has fused multiply-adds. */
void fastvae_products(const products *own, int rows, const float *const *x, float *const *y);

/* y[r outputs + o][i] = bias[o] + the sum over t of x[r][offsets[t] + i] weight[t outputs + o] for LANES entries i: of at most
   four outputs, `segments` terms and a length of 1. */
void fastvae_planes(const products *own, int rows, const float *const *x, float (*y)[LANES]);

/* y[c y_row + r] = x[r x_row + c]. */
void fastvae_transpose(int64_t rows, int64_t columns, const float *x, int64_t x_row, float *y, int64_t y_row);

#endif
