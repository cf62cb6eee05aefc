// Prints whether gelu_gated has the bits of ggml's loop for every f16 number, for numbers between them and beyond the
// table, and at every place in a vector; exits with 77 without kernels.
#include "kernels/cpu/half.h"
#include "kernels/cpu/simd.h"
#include "kernels/rows/cpu/gelu.h"

#include <cmath>
#include <cstdio>
#include <cstring>
#include <limits>
#include <vector>

#ifdef PMTP_SIMD

namespace {

alignas(4) uint16_t table[1 << 16];

uint16_t half_of(float x) { return (uint16_t) _cvtss_sh(x, _MM_FROUND_TO_NEAREST_INT); }

float expected(float x, float gate) {
    if (x <= -10.0f) {
        return 0.0f;
    }
    return (x >= 10.0f ? x : pmtp::cpu::half_to_float(table[half_of(x)])) * gate;
}

bool same_bits(float a, float b) { return std::memcmp(&a, &b, sizeof(a)) == 0 || (std::isnan(a) && std::isnan(b)); }

}  // namespace

int main() {
    std::vector<float> x;
    for (int bits = 0; bits < 1 << 16; bits++) {
        const float value = pmtp::cpu::half_to_float((uint16_t) bits);
        table[bits] =
            half_of(0.5f * value * (1.0f + std::tanh(0.79788456f * value * (1.0f + 0.044715f * value * value))));
        x.push_back(value);
        x.push_back(value * 1.0003f);
    }
    const float inf = std::numeric_limits<float>::infinity();
    for (const float value : { 10.0f, -10.0f, std::nextafter(10.0f, 0.0f), std::nextafter(-10.0f, 0.0f), inf, -inf }) {
        x.push_back(value);
    }
    std::vector<float> gate(x.size()), result(x.size());
    for (size_t i = 0; i < x.size(); i++) {
        gate[i] = i % 97 == 0 ? inf : i % 89 == 0 ? NAN : std::sin((float) i);
    }
    pmtp::rows::gelu_gated(x.data(), gate.data(), result.data(), (int64_t) x.size(), table);
    bool right = true;
    for (size_t i = 0; i < x.size(); i++) {
        right = right && same_bits(result[i], expected(x[i], gate[i]));
    }
    bool anywhere = true;
    for (size_t n = 1; n < 40; n++) {
        std::vector<float> part(n);
        const size_t first = 30000 + n;
        pmtp::rows::gelu_gated(&x[first], &gate[first], part.data(), (int64_t) n, table);
        for (size_t i = 0; i < n; i++) {
            anywhere = anywhere && same_bits(part[i], result[first + i]);
        }
    }
    std::printf("%d %d\n", right, anywhere);
    return 0;
}

#else

int main() { return 77; }

#endif
