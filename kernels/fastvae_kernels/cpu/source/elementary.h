/* Functions of floats, in the operations that vectors have. */

#ifndef FASTVAE_ELEMENTARY_H
#define FASTVAE_ELEMENTARY_H

#include "common.h"

#define SUMMED 128 /* terms at a time in `fastvae_sum` */

/* The sum of `count` terms. */
double fastvae_sum(const float *term, int count);

/* x as k log 2 + r with r within half of log 2, and exp(r) - 1; for x in [-104, 89]. */
static inline float reduced(float x, int32_t *k) {
    float shifted = x * 1.44269504088896341f + 0x1.8p23f, whole = shifted - 0x1.8p23f;
    float r = x - whole * 0.693359375f - whole * -2.12194440e-4f;
    float p = 0.0013926926614021907f;
    p = p * r + 0.008363773874405574f;
    p = p * r + 0.04166655011030512f;
    p = p * r + 0.16666573381900845f;
    p = p * r + 0.5f;
    *k = (int32_t)(bits_of(shifted) - bits_of(0x1.8p23f));
    return r + r * r * p;
}

/* 2**k for k from -127, which gives 0, to 127. */
static inline float power_of_two(int32_t k) { return float_of(((uint32_t)k + 127u) << 23); }

/* exp(x) for x in [-104, 88], and NaN for NaN; to about a unit in the last place. */
static inline float exponential(float x) {
    int32_t k;
    float y = 1.0f + reduced(x, &k);
    int32_t half = k >> 1; /* two factors, so that results below the normal numbers come out right */
    return y * power_of_two(half) * power_of_two(k - half);
}

/* exp(x) - 1 for any x, to about a unit in the last place. */
static inline float exponential_minus_one(float x) {
    int32_t k;
    float q = reduced(x > 89.0f ? 89.0f : x < -80.0f ? -80.0f : x, &k), half = power_of_two(k - 1);
    return 2.0f * (half * q + (half - 0.5f)); /* half, so that the largest finite numbers come out right */
}

/* log(1 + e) for e in [0, 1]: 2 artanh(e / (2 + e)). */
static inline float log_plus_one(float e) {
    float s = e / (2.0f + e), z = s * s;
    float p = 0.26856791406586006f;
    p = p * z + 0.28235887907430435f;
    p = p * z + 0.40007584873115865f;
    p = p * z + 0.6666664022583143f;
    return 2.0f * s + s * z * p;
}

#endif
