// The activation between two products.
#pragma once

// x / 2 (1 + tanh(u)) = x / (1 + exp(-2 u)), u = sqrt(2 / pi) (x + 0.044715 x^3) (Hendrycks, Gimpel, arXiv 1606.08415).
// The device's tanh is good for 11 bits.
__device__ __forceinline__ float gelu(float x) {
    return x / (1.0f + __expf(-1.5957691216057308f * x * (1.0f + 0.044715f * x * x)));
}
