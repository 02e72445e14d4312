/* Noise as a function of seed, row, dimension and stream: `reference/sample_normal.py`, bit for bit.

   Only IEEE operations, each rounded once, in the reference's order: additions, multiplications, divisions, square
   roots and conversions have the same results in every instruction set and every compiler that fuses none of them. */

#include "philox.h"

#include <math.h>

typedef struct {
    void *out;
    int64_t dim, quads, rows;
    uint64_t start;
    uint32_t key[2], stream;
    int uniform, is_double;
} noise;

/* (w + 1/2) / 2**32, every step rounded to float. */
static inline float unit(uint32_t word) { return (float)word * 0x1p-32f + 0x1p-33f; }

/* log of a positive normal float, in double. FDLIBM's reduction and polynomial, e_log.c. */
static inline double logarithm(float u) {
    uint32_t bits = bits_of(u), shifted = bits - 0x3F3504F3u;
    int32_t exponent = (int32_t)shifted >> 23;
    double f = (double)float_of(bits - ((uint32_t)exponent << 23)) - 1.0, k = exponent;
    double s = f / (2.0 + f), z = s * s, half = 0.5 * f * f;
    double p = 1.479819860511658591e-01;
    p = p * z + 1.531383769920937332e-01;
    p = p * z + 1.818357216161805012e-01;
    p = p * z + 2.222219843214978396e-01;
    p = p * z + 2.857142874366239149e-01;
    p = p * z + 3.999999999940941908e-01;
    p = p * z + 6.666666666666735130e-01;
    double rest = (p * z + half) * s + k * 1.90821492927058770002e-10;
    return k * 6.93147180369123816490e-01 - (half - rest - f);
}

/* sin of x in [-pi/2, pi/2]: x + x^3 times a minimax polynomial in x^2, within 2**-60 of it. */
static inline double sine(double x) {
    double z = x * x, p = 2.73144475909634e-15;
    p = p * z + -7.643970296165793e-13;
    p = p * z + 1.6058977312444268e-10;
    p = p * z + -2.5052107616995878e-08;
    p = p * z + 2.755731921916323e-06;
    p = p * z + -0.00019841269841254974;
    p = p * z + 0.008333333333333316;
    p = p * z + -0.16666666666666666;
    return p * (x * z) + x;
}

/* Box-Muller pairs; the angle is folded into [-pi/2, pi/2] while it is an exact integer. */
WIDE static void box_muller(const uint32_t *restrict radius_word, const uint32_t *restrict angle_word, int count,
                            double *restrict first, double *restrict second) {
    for (int i = 0; i < count; i++) {
        double radius = sqrt(-2.0 * logarithm(unit(radius_word[i])));
        double b = (double)(int32_t)(angle_word[i] ^ 0x80000000u) + 0x1p31;
        double of_cosine = fabs(b - 0x1p31) - 0x1p30, of_sine = fabs(fabs(b - 0x1p30) - 0x1p31) - 0x1p30;
        first[i] = sine(of_cosine * 0x1.921fb54442d18p-30) * radius;
        second[i] = sine(of_sine * 0x1.921fb54442d18p-30) * radius;
    }
}

WIDE static void uniforms(const uint32_t *restrict word, int count, double *restrict out) {
    for (int i = 0; i < count; i++) {
        float u = unit(word[i]);
        out[i] = u < 0x1.fffffep-1f ? u : 0x1.fffffep-1f;
    }
}

/* The first `count` counters' numbers, four each, as they lie in rows of which every one is whole. */
WIDE static void write_floats(float *out, double values[4][BLOCK], int count) {
    for (int i = 0; i < count; i++)
        for (int j = 0; j < 4; j++) out[4 * i + j] = (float)values[j][i];
}

WIDE static void write_doubles(double *out, double values[4][BLOCK], int count) {
    for (int i = 0; i < count; i++)
        for (int j = 0; j < 4; j++) out[4 * i + j] = values[j][i];
}

/* Where rows end within a counter: number by number, from a counter on that is the quad-th of its lane. */
static void write_ragged(const noise *own, int64_t lane, int64_t quad, double values[4][BLOCK], int count) {
    float *floats = (float *)own->out + lane * own->dim;
    double *doubles = (double *)own->out + lane * own->dim;
    for (int i = 0; i < count; i++) {
        int64_t column = 4 * quad, wide = own->dim - column < 4 ? own->dim - column : 4;
        if (own->is_double)
            for (int64_t j = 0; j < wide; j++) doubles[column + j] = values[j][i];
        else
            for (int64_t j = 0; j < wide; j++) floats[column + j] = (float)values[j][i];
        if (++quad == own->quads) quad = 0, floats += own->dim, doubles += own->dim;
    }
}

/* Counters first .. last - 1, of which `quads` make a lane: a sample of a row. */
static void fill(const void *context, int64_t first, int64_t last) {
    const noise *own = context;
    uint32_t words[4][BLOCK];
    double values[4][BLOCK];
    int64_t lane = first / own->quads, quad = first % own->quads, sample = lane / own->rows, row = lane % own->rows;
    memset(words, 0, sizeof words);
    memset(values, 0, sizeof values);
    for (int64_t counter = first; counter < last; counter += BLOCK) {
        int count = last - counter < BLOCK ? (int)(last - counter) : BLOCK;
        for (int i = 0; i < count; i++) {
            uint64_t index = own->start + (uint64_t)row;
            words[0][i] = (uint32_t)index;
            words[1][i] = (uint32_t)(index >> 32);
            words[2][i] = (uint32_t)quad;
            words[3][i] = own->stream + (uint32_t)sample;
            if (++quad == own->quads) {
                quad = 0;
                if (++row == own->rows) row = 0, sample++;
            }
        }
        int whole = (count + 7) & ~7; /* of vectors; what lies beyond is computed and not written */
        fastvae_philox(words, whole, own->key[0], own->key[1]);
        if (own->uniform) {
            for (int j = 0; j < 4; j++) uniforms(words[j], whole, values[j]);
        } else {
            box_muller(words[0], words[1], whole, values[0], values[1]);
            if (own->dim > 2) box_muller(words[2], words[3], whole, values[2], values[3]);
        }
        if (own->dim % 4)
            write_ragged(own, counter / own->quads, counter % own->quads, values, count);
        else if (own->is_double)
            write_doubles((double *)own->out + 4 * counter, values, count);
        else
            write_floats((float *)own->out + 4 * counter, values, count);
    }
}

/* out [samples, rows, dim], float or double: normals or, if `uniform`, uniforms in (0, 1). None of the sizes is 0. */
void fastvae_noise(void *out, int64_t samples, int64_t rows, int64_t dim, uint64_t seed, uint64_t start,
                   uint32_t stream, int uniform, int is_double, int threads) {
    noise own = {out, dim, (dim + 3) / 4, rows, start, {(uint32_t)seed, (uint32_t)(seed >> 32)}, stream, uniform,
                 is_double};
    fastvae_parallel(fill, &own, samples * rows * own.quads, threads);
}
