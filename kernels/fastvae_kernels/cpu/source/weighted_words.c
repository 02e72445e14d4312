/* Rows of bytes as sums of 32-bit words, each times a number of its place: what a checksum of rows is made of. */

#include "common.h"

#define WORDS 512 /* of a row at a time: their numbers stay in the nearest cache while all rows go by */

/* The finaliser of SplitMix64 (Steele, Lea and Flood, 2014). */
static inline uint64_t mix(uint64_t x) {
    x += 0x9E3779B97F4A7C15u;
    x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9u;
    x = (x ^ (x >> 27)) * 0x94D049BB133111EBu;
    return x ^ (x >> 31);
}

/* Vectors have products of 32 bits by 32, so a number's halves are multiplied each. */
WIDE static uint64_t sum_of(const unsigned char *bytes, const uint32_t *low, const uint32_t *high, int words) {
    uint64_t lows = 0, highs = 0;
    for (int j = 0; j < words; j++) {
        uint32_t word;
        memcpy(&word, bytes + 4 * j, sizeof word);
        lows += (uint64_t)word * low[j];
        highs += (uint64_t)word * high[j];
    }
    return lows + (highs << 32);
}

/* To the sum of each row adds its words times the numbers of the places from `place` on; zeros follow a row's bytes. */
void fastvae_weighted_words(const unsigned char *data, int64_t rows, int64_t bytes, uint64_t place, uint64_t *sums) {
    uint32_t low[WORDS], high[WORDS];
    for (int64_t first = 0; first < bytes; first += 4 * WORDS) {
        int64_t left = bytes - first < 4 * WORDS ? bytes - first : 4 * WORDS;
        int words = (int)(left / 4), rest = (int)(left % 4);
        for (int j = 0; j < words + (rest > 0); j++) {
            uint64_t number = mix((UINT64_C(1) << 63) + place + (uint64_t)(first / 4 + j)) | 1;
            low[j] = (uint32_t)number;
            high[j] = (uint32_t)(number >> 32);
        }
        for (int64_t row = 0; row < rows; row++) {
            const unsigned char *part = data + row * bytes + first;
            sums[row] += sum_of(part, low, high, words);
            if (rest) {
                unsigned char last[4] = {0};
                memcpy(last, part + 4 * words, (size_t)rest);
                sums[row] += sum_of(last, low + words, high + words, 1);
            }
        }
    }
}
