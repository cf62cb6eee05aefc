// Q4_0 as ggml repacks it.
#include "kernels/cpu/simd.h"

#ifdef PMTP_SIMD

#include "kernels/products/cpu/blocks_8x8.h"

namespace pmtp::products {
namespace {

// Two's complement to values + 8.
struct Q4_0x8 {
    using Dots = NibbleDots;

    PMTP_INLINE static Int both(Int packed) { return xor_bits(packed, broadcast8(0x88)); }
    PMTP_INLINE static Int low(Int packed) { return and_bits(packed, broadcast8(0x0f)); }
    PMTP_INLINE static Int high(Int packed) { return high_nibbles(packed); }
    PMTP_INLINE static Int start(int32_t correction) { return broadcast32(correction); }
};

}  // namespace

void q4_0_8x8(const void * weights, int64_t n_in, const Tile * tiles, int n_tiles, int64_t first, int64_t last) {
    pass<Strips8x8<Q4_0x8>>(weights, n_in, tiles, n_tiles, first, last);
}

}  // namespace pmtp::products

#endif  // PMTP_SIMD
