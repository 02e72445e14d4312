#include "philox.h"

#define MULTIPLIER_0 0xD2511F53u
#define MULTIPLIER_1 0xCD9E8D57u
#define WEYL_0 0x9E3779B9u
#define WEYL_1 0xBB67AE85u
#define ROUNDS 10

static void plain(uint32_t c[4][BLOCK], int count, uint32_t key0, uint32_t key1) {
    for (int i = 0; i < count; i++) {
        uint32_t c0 = c[0][i], c1 = c[1][i], c2 = c[2][i], c3 = c[3][i], k0 = key0, k1 = key1;
        for (int round = 0; round < ROUNDS; round++) {
            uint64_t low = (uint64_t)c0 * MULTIPLIER_0, high = (uint64_t)c2 * MULTIPLIER_1;
            c0 = (uint32_t)(high >> 32) ^ c1 ^ k0;
            c1 = (uint32_t)high;
            c2 = (uint32_t)(low >> 32) ^ c3 ^ k1;
            c3 = (uint32_t)low;
            k0 += WEYL_0;
            k1 += WEYL_1;
        }
        c[0][i] = c0, c[1][i] = c1, c[2][i] = c2, c[3][i] = c3;
    }
}

#if defined(__x86_64__) && defined(__GNUC__)

#include <immintrin.h>

/* Words are kept in the lower halves of 64 bits, where a multiplication finds them; what the upper halves hold is left
   there. Compilers move words between halves in every round. */
__attribute__((target("avx2"))) static void wide(uint32_t c[4][BLOCK], int count, uint32_t key0, uint32_t key1) {
    const __m256i m0 = _mm256_set1_epi64x(MULTIPLIER_0), m1 = _mm256_set1_epi64x(MULTIPLIER_1);
    const __m256i lower = _mm256_setr_epi32(0, 2, 4, 6, 0, 0, 0, 0);
    for (int i = 0; i < count; i += 8) {
        __m256i w[4][2]; /* two vectors of four counters, so that one multiplies while the other waits */
        for (int j = 0; j < 4; j++)
            for (int h = 0; h < 2; h++)
                w[j][h] = _mm256_cvtepu32_epi64(_mm_loadu_si128((const __m128i *)&c[j][i + 4 * h]));
        uint32_t k0 = key0, k1 = key1;
        for (int round = 0; round < ROUNDS; round++, k0 += WEYL_0, k1 += WEYL_1) {
            const __m256i x = _mm256_set1_epi64x(k0), y = _mm256_set1_epi64x(k1);
            for (int h = 0; h < 2; h++) {
                __m256i low = _mm256_mul_epu32(w[0][h], m0), high = _mm256_mul_epu32(w[2][h], m1);
                w[0][h] = _mm256_xor_si256(_mm256_xor_si256(_mm256_srli_epi64(high, 32), w[1][h]), x);
                w[2][h] = _mm256_xor_si256(_mm256_xor_si256(_mm256_srli_epi64(low, 32), w[3][h]), y);
                w[1][h] = high;
                w[3][h] = low;
            }
        }
        for (int j = 0; j < 4; j++)
            for (int h = 0; h < 2; h++) {
                __m256i packed = _mm256_permutevar8x32_epi32(w[j][h], lower);
                _mm_storeu_si128((__m128i *)&c[j][i + 4 * h], _mm256_castsi256_si128(packed));
            }
    }
}

void fastvae_philox(uint32_t c[4][BLOCK], int count, uint32_t key0, uint32_t key1) {
    (__builtin_cpu_supports("avx2") ? wide : plain)(c, count, key0, key1);
}

#else

void fastvae_philox(uint32_t c[4][BLOCK], int count, uint32_t key0, uint32_t key1) { plain(c, count, key0, key1); }

#endif
