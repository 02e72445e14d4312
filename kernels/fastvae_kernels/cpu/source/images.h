/* Steps on one image: what row_steps.c has for those of convolutional layers. */

#ifndef FASTVAE_IMAGES_H
#define FASTVAE_IMAGES_H

#include "products.h"

#define MOST_PLANES 4

/* Where entries [0], [1], [2] lie, counted from the first: channel, line and column, or line, column and channel. */
typedef struct {
    int64_t sizes[3], from[3], to[3];
} arrangement;

/* Copies entries; a copy's last axis is best without gaps on both sides. */
void fastvae_arrange(const arrangement *own, const float *x, float *y);

/* Windows of an image whose products are some entries of another: of each line and column of them the products that
   `sums` says. The first begins `x_first` entries from where the image does, and makes what lies at `y_first`. */
typedef struct {
    products sums;
    int64_t x_first, y_first, lines, columns, x_line, x_column, y_line, y_column, y_channel;
} windows;

/* Results of many channels, which lie side by side; of so many kinds of windows. */
void fastvae_convolve(const windows *own, int64_t kinds, const float *x, float *y);

/* Results of at most MOST_PLANES channels, line by line: `x_column` is 1, terms and weights are as `fastvae_planes` has them,
   all kinds have as many lines and columns, and LANES entries behind the last window may be read. */
void fastvae_convolve_planes(const windows *own, int64_t kinds, const float *x, float *y);

#endif
