/* What divergence.c takes. */

#ifndef FASTVAE_DIVERGENCE_H
#define FASTVAE_DIVERGENCE_H

#include <stdint.h>

/* Rows of `columns` entries without gaps. Pointers may be null where nothing is wanted. */
typedef struct {
    const float *mean, *logvar, *weight; /* weight: of a row's divergence in what is differentiated */
    float *to_mean, *to_logvar, *rows;   /* gradients, and the divergence of each row */
    int64_t columns;
} divergence;

void fastvae_divergence(const divergence *own, int64_t rows, int threads);

/* What each of `count` entries adds to a divergence. */
void fastvae_divergence_terms(const float *mean, const float *logvar, int count, float *term);

#endif
