/* The pointwise activations: `reference/activation.py` in float. Comparisons are written so that NaN stays NaN. */

#include "activation.h"
#include "elementary.h"

#include <math.h>

/* In the order of `ACTIVATIONS` in checks.py. */
enum activation { IDENTITY, RELU, LEAKY_RELU, ELU, SELU, GELU, GELU_TANH, SILU, TANH, SIGMOID, SOFTPLUS };

#define SELU_ALPHA 1.6732632423543772f
#define SELU_SCALE 1.0507009873554805f

/* exp(-|x|), which is 0 in float from 104 on. */
static inline float tail(float x) {
    float size = fabsf(x);
    return exponential(size > 104.0f ? -104.0f : -size);
}

static inline float sigmoid_of(float x) {
    float e = tail(x), inverse = 1.0f / (1.0f + e);
    return x < 0.0f ? e * inverse : inverse;
}

/* tanh |x| = t / (t + 2) with t = exp(2 |x|) - 1, which is 1 in float from 10 on. */
static inline float tanh_of(float x) {
    float size = fabsf(x), t = exponential_minus_one(2.0f * (size > 10.0f ? 10.0f : size)), y = t / (t + 2.0f);
    return x < 0.0f ? -y : y;
}

WIDE static void relu(float *y, int count) {
    for (int i = 0; i < count; i++) y[i] = y[i] < 0.0f ? 0.0f : y[i];
}

WIDE static void leaky_relu(float *y, int count, float slope) {
    for (int i = 0; i < count; i++) y[i] = y[i] < 0.0f ? y[i] * slope : y[i];
}

WIDE static void elu(float *y, int count, float alpha, float scale) {
    for (int i = 0; i < count; i++) {
        float below = exponential_minus_one(y[i]) * alpha;
        y[i] = (y[i] < 0.0f ? below : y[i]) * scale;
    }
}

/* x erfc(-x / sqrt 2) / 2, accurate in the lower tail too. */
static void gelu(float *y, int count) {
    for (int i = 0; i < count; i++) y[i] = y[i] * (0.5f * erfcf(y[i] * -0.70710678118654752f));
}

/* x (1 + tanh u) / 2 = x sigmoid(2 u), which does not cancel in the lower tail. */
WIDE static void gelu_tanh(float *y, int count) {
    for (int i = 0; i < count; i++) {
        float u = 0.7978845608028654f * (y[i] + 0.044715f * (y[i] * y[i] * y[i]));
        y[i] = y[i] * sigmoid_of(2.0f * u);
    }
}

WIDE static void silu(float *y, int count) {
    for (int i = 0; i < count; i++) y[i] = y[i] * sigmoid_of(y[i]);
}

WIDE static void hyperbolic_tangent(float *y, int count) {
    for (int i = 0; i < count; i++) y[i] = tanh_of(y[i]);
}

WIDEST static void sigmoid(float *y, int count) {
    for (int i = 0; i < count; i++) y[i] = sigmoid_of(y[i]);
}

WIDE static void softplus(float *y, int count) {
    for (int i = 0; i < count; i++) y[i] = (y[i] < 0.0f ? 0.0f : y[i]) + log_plus_one(tail(y[i]));
}

void fastvae_activate(int activation, float alpha, float *y, int count) {
    switch (activation) {
        case RELU: relu(y, count); break;
        case LEAKY_RELU: leaky_relu(y, count, alpha); break;
        case ELU: elu(y, count, alpha, 1.0f); break;
        case SELU: elu(y, count, SELU_ALPHA, SELU_SCALE); break;
        case GELU: gelu(y, count); break;
        case GELU_TANH: gelu_tanh(y, count); break;
        case SILU: silu(y, count); break;
        case TANH: hyperbolic_tangent(y, count); break;
        case SIGMOID: sigmoid(y, count); break;
        case SOFTPLUS: softplus(y, count); break;
        default: break;
    }
}
