/* Sums whose order does not depend on the width of vectors. */

#include "elementary.h"

#define LANES 16

/* Sixteen partial sums of eight terms each, then in double. */
WIDE double fastvae_sum(const float *term, int count) {
    double sums[LANES] = {0}, sum = 0;
    for (int i = 0; i < count; i += SUMMED) {
        float part[LANES] = {0};
        int end = count - i < SUMMED ? count : i + SUMMED, j = i;
        for (; j + LANES <= end; j += LANES)
            for (int lane = 0; lane < LANES; lane++) part[lane] += term[j + lane];
        for (int lane = 0; lane < end - j; lane++) part[lane] += term[j + lane];
        for (int lane = 0; lane < LANES; lane++) sums[lane] += part[lane];
    }
    for (int lane = 0; lane < LANES && lane < count; lane++) sum += sums[lane];
    return sum;
}
