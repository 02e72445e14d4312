/* What the CPU kernels share: a version of each loop for wider vectors, and ranges of work on several threads. */

#ifndef FASTVAE_COMMON_H
#define FASTVAE_COMMON_H

/* From a user's CFLAGS, say. The package's build then leaves the kernels out. */
#if defined(__FAST_MATH__) || __FLT_EVAL_METHOD__ == 2
#error "these kernels need operations that are rounded one by one: neither -ffast-math nor the x87"
#endif

#include <stdint.h>
#include <string.h>

/* Compiled once more for AVX2, some for AVX-512, and chosen when the library is loaded. Results are the same bits: nothing here is
   contracted to fused multiply-adds (-ffp-contract=off), and no sum's order depends on the width of a vector. */
#if defined(__x86_64__) && defined(__GLIBC__) && defined(__GNUC__) && !defined(__clang__)
#define WIDE __attribute__((target_clones("avx2", "default")))
#define WIDEST __attribute__((target_clones("avx512f", "avx2", "default"))) /* where that measured faster */
#else
#define WIDE
#define WIDEST
#endif

/* Does what `context` describes, for the units of work first .. last - 1. */
typedef void (*work)(const void *context, int64_t first, int64_t last);

/* Calls `run` for 0 .. count - 1, in as many ranges as there are threads; the caller's own thread takes the first. */
void fastvae_parallel(work run, const void *context, int64_t count, int threads);

/* The same on threads that sleep in between, and do not keep the processors from others: for work far longer than waking. */
void fastvae_parallel_apart(work run, const void *context, int64_t count, int threads);

static inline uint32_t bits_of(float x) {
    uint32_t bits;
    memcpy(&bits, &x, sizeof bits);
    return bits;
}

static inline float float_of(uint32_t bits) {
    float x;
    memcpy(&x, &bits, sizeof x);
    return x;
}

#endif
