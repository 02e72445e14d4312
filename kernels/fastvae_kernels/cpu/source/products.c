/* Products in registers: a block of rows by a few panels of weights at a time, of one size for each kind of vector.

   Nothing is packed but the weights. A row's terms are spread over a vector's lanes as they are read, which costs nothing
   beside the multiply-adds of a whole block, and rows may start anywhere: a convolution's are windows of an image. */

#include "products.h"

#define MOST_ROWS 12
#define MOST_PANELS 8
#define MOST_OUTPUTS 4
#define JOINED(a, b) a##_##b

#if defined(__x86_64__) && defined(__GNUC__)
#include <immintrin.h>

/* 32 registers of 16 floats. */
#define TARGET __attribute__((target("avx512f")))
#define NAMED(name) JOINED(name, avx512)
#define VECTOR __m512
#define PARTS 1
#define LOAD _mm512_loadu_ps
#define STORE _mm512_storeu_ps
#define SPREAD _mm512_set1_ps
#define MULTIPLY_ADD _mm512_fmadd_ps
#define ABOVE_ZERO(x) _mm512_max_ps(_mm512_setzero_ps(), x) /* of a NaN and another, the second */
#define GROUP 4
#define ROWS_BY_FOUR 6
#define ROWS_BY_THREE 8
#define ROWS_BY_TWO 12
#define ROWS_BY_ONE 12
#define FEW 6
#define FOUR_PANELS 6
#define TWO_PANELS 8
#define ONE_PANELS 8
#define LINES 8
#define LINES_OF_TWO 8
#define LINES_OF_THREE 8
#define LINES_OF_FOUR 6
#define SIDE 16

/* A square of so many entries: in each step halves, quarters ... of a row are swapped with those of another. */
TARGET static void square_avx512(const float *x, int64_t x_row, float *y, int64_t y_row) {
    const __m512i lane = _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
    __m512 row[SIDE];
    for (int r = 0; r < SIDE; r++) row[r] = LOAD(x + r * x_row);
#pragma GCC unroll 4
    for (int step = 1; step < SIDE; step *= 2) {
        /* Entries 16 and up are the second row's. */
        __mmask16 odd = _mm512_test_epi32_mask(lane, _mm512_set1_epi32(step));
        __m512i first = _mm512_mask_add_epi32(lane, odd, lane, _mm512_set1_epi32(SIDE - step));
        __m512i second = _mm512_add_epi32(first, _mm512_set1_epi32(step));
#pragma GCC unroll 16
        for (int r = 0; r < SIDE; r++) {
            if (r & step) continue;
            __m512 upper = row[r], lower = row[r + step];
            row[r] = _mm512_permutex2var_ps(upper, first, lower);
            row[r + step] = _mm512_permutex2var_ps(upper, second, lower);
        }
    }
    for (int r = 0; r < SIDE; r++) STORE(y + r * y_row, row[r]);
}
#include "products_of.h"
#include "products_end.h"

/* 16 registers of 8 floats. */
#define TARGET __attribute__((target("avx2,fma")))
#define NAMED(name) JOINED(name, avx2)
#define VECTOR __m256
#define PARTS 2
#define LOAD _mm256_loadu_ps
#define STORE _mm256_storeu_ps
#define SPREAD _mm256_set1_ps
#define MULTIPLY_ADD _mm256_fmadd_ps
#define ABOVE_ZERO(x) _mm256_max_ps(_mm256_setzero_ps(), x)
#define GROUP 1
#define ROWS_BY_FOUR 1
#define ROWS_BY_THREE 1
#define ROWS_BY_TWO 1
#define ROWS_BY_ONE 6
#define FEW 4
#define FOUR_PANELS 1
#define TWO_PANELS 2
#define ONE_PANELS 4
#define LINES 4
#define LINES_OF_TWO 2
#define LINES_OF_THREE 2
#define LINES_OF_FOUR 1
#define SIDE 8

TARGET static void square_avx2(const float *x, int64_t x_row, float *y, int64_t y_row) {
    __m256 row[SIDE], pair[SIDE];
    for (int r = 0; r < SIDE; r++) row[r] = LOAD(x + r * x_row);
    for (int r = 0; r < SIDE; r += 2) {
        pair[r] = _mm256_unpacklo_ps(row[r], row[r + 1]);
        pair[r + 1] = _mm256_unpackhi_ps(row[r], row[r + 1]);
    }
    for (int r = 0; r < SIDE; r += 4) {
        row[r] = _mm256_shuffle_ps(pair[r], pair[r + 2], 0x44);
        row[r + 1] = _mm256_shuffle_ps(pair[r], pair[r + 2], 0xee);
        row[r + 2] = _mm256_shuffle_ps(pair[r + 1], pair[r + 3], 0x44);
        row[r + 3] = _mm256_shuffle_ps(pair[r + 1], pair[r + 3], 0xee);
    }
    for (int r = 0; r < 4; r++) {
        STORE(y + r * y_row, _mm256_permute2f128_ps(row[r], row[r + 4], 0x20));
        STORE(y + (r + 4) * y_row, _mm256_permute2f128_ps(row[r], row[r + 4], 0x31));
    }
}
#include "products_of.h"
#include "products_end.h"
#endif

/* Whatever vectors the compiler makes of four floats; products are rounded before they are added. */
typedef float four __attribute__((vector_size(16), aligned(4), may_alias));
typedef int32_t mask __attribute__((vector_size(16)));
#define TARGET
#define NAMED(name) JOINED(name, any)
#define VECTOR four
#define PARTS 4
#define LOAD(from) (*(const four *)(from))
#define STORE(to, x) (*(four *)(to) = (x))
#define SPREAD(x) ((four){x, x, x, x})
#define MULTIPLY_ADD(x, by, sum) ((sum) + (x) * (by))
#define ABOVE_ZERO(x) ((four)((mask)(x) & ~((x) < 0)))
#define GROUP 1
#define ROWS_BY_FOUR 1
#define ROWS_BY_THREE 1
#define ROWS_BY_TWO 1
#define ROWS_BY_ONE 2
#define FEW 2
#define FOUR_PANELS 1
#define TWO_PANELS 1
#define ONE_PANELS 2
#define LINES 2
#define LINES_OF_TWO 1
#define LINES_OF_THREE 1
#define LINES_OF_FOUR 1
#define SIDE 1

static void square_any(const float *x, int64_t x_row, float *y, int64_t y_row) {
    (void)x_row, (void)y_row;
    *y = *x;
}
#include "products_of.h"

enum vectors { UNKNOWN, ANY, AVX2, AVX512 };

static enum vectors known = UNKNOWN; /* threads that look at once find the same */

/* The best that this processor has. */
static enum vectors kind(void) {
    if (known == UNKNOWN) {
        enum vectors found = ANY;
#if defined(__x86_64__) && defined(__GNUC__)
        __builtin_cpu_init();
        if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) found = AVX2;
        if (__builtin_cpu_supports("avx512f")) found = AVX512;
#endif
        known = found;
    }
    return known;
}

/* Takes other vectors from now on, no better ones than this processor's: for tests of what other processors run. */
void fastvae_use_vectors(int other) {
    known = UNKNOWN;
    if ((enum vectors)other < kind()) known = (enum vectors)other;
}

/* Whether they are multiply-adds of wide vectors, and so the same bits as anywhere else that has them. */
int fastvae_has_wide_products(void) { return kind() >= AVX2; }

void fastvae_products(const products *own, int rows, const float *const *x, float *const *y) {
#if defined(__x86_64__) && defined(__GNUC__)
    if (kind() == AVX512) return products_avx512(own, rows, x, y);
    if (kind() == AVX2) return products_avx2(own, rows, x, y);
#endif
    products_any(own, rows, x, y);
}

void fastvae_planes(const products *own, int rows, const float *const *x, float (*y)[LANES]) {
#if defined(__x86_64__) && defined(__GNUC__)
    if (kind() == AVX512) return planes_avx512(own, rows, x, y);
    if (kind() == AVX2) return planes_avx2(own, rows, x, y);
#endif
    planes_any(own, rows, x, y);
}

void fastvae_transpose(int64_t rows, int64_t columns, const float *x, int64_t x_row, float *y, int64_t y_row) {
#if defined(__x86_64__) && defined(__GNUC__)
    if (kind() == AVX512) return transpose_avx512(rows, columns, x, x_row, y, y_row);
    if (kind() == AVX2) return transpose_avx2(rows, columns, x, x_row, y, y_row);
#endif
    transpose_any(rows, columns, x, x_row, y, y_row);
}
