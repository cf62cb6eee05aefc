#include "kernels/rows/cpu/gelu.h"

#include "kernels/cpu/simd.h"

#include <algorithm>

#ifdef PMTP_SIMD

namespace pmtp::rows {
namespace {

using namespace cpu;

// The table ends for ggml at 10, where gelu(x) is x, and at -10, where a product is 0 whatever its gate is.
Float gated_lanes(Float x, Float gate, const uint16_t * table) {
    const Int half = half_bits(x);
    // Two numbers of 16 bits lie in a word.
    const Int word = gather32(table, shift_right32(half, 1));
    const Int shift = shift_left32(and_bits(half, broadcast32(1)), 4);
    const Float looked_up = of_half_bits(and_bits(shift_right32(word, shift), broadcast32(0xffff)));
    const Float product = (x >= broadcast(10.0f) ? x : looked_up) * gate;
    return x <= broadcast(-10.0f) ? zero_float() : product;
}

}  // namespace

void gelu_gated(const float * x, const float * gate, float * result, int64_t n, const uint16_t * table) {
    int64_t i = 0;
    for (; i + kLanes <= n; i += kLanes) {
        store(result + i, gated_lanes(load_floats(x + i), load_floats(gate + i), table));
    }
    if (i < n) {
        float rest[kLanes] = {}, rest_of_gate[kLanes] = {};
        std::copy(x + i, x + n, rest);
        std::copy(gate + i, gate + n, rest_of_gate);
        store(rest, gated_lanes(load_floats(rest), load_floats(rest_of_gate), table));
        std::copy(rest, rest + (n - i), result + i);
    }
}

}  // namespace pmtp::rows

#endif  // PMTP_SIMD
