/* What elbo_loss.c takes. */

#ifndef FASTVAE_ELBO_LOSS_H
#define FASTVAE_ELBO_LOSS_H

#include <stdint.h>

enum likelihood { BERNOULLI, GAUSSIAN, SQUARED_ERROR };
enum of_logvar { NONE, OF_ENTRY, OF_COLUMN, OF_ALL };

/* Rows of `output` in order; row r is scored against row r % data_rows of data and mask. Tiles of `tile_rows` rows and
   `tile_columns` columns are units of work. Pointers may be null where nothing is given or wanted. */
typedef struct {
    const float *output, *data, *logvar, *weight; /* weight: of a row's score in the loss; else `scale` is everyone's */
    const uint8_t *mask;
    float *to_output, *to_logvar;
    double *to_shared; /* [row tiles, columns]: the gradient by a logvar that rows share */
    double *sums;      /* [column tiles, rows] */
    int64_t rows, columns, data_rows, tile_rows, tile_columns;
    int likelihood, logvar_kind;
    float scale;
} loss;

#define SCORED 512 /* entries at most of `fastvae_score_terms` */

/* What each of `count` entries adds to a score; `logvar` of each, for the likelihood that has one. */
void fastvae_score_terms(int likelihood, const float *output, const float *data, const float *logvar, int count,
                         float *term);

/* None of the sizes is 0. */
void fastvae_elbo_loss(const loss *own, int threads);

#endif
