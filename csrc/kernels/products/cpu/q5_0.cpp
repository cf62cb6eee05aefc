// Q5_0 in ggml's layout.
#include "kernels/cpu/simd.h"

#ifdef PMTP_SIMD

#include "kernels/products/cpu/blocks.h"
#include "kernels/products/cpu/fifth_bits.h"

namespace pmtp::products {
namespace {

// value = d * (q - 16), q of 5 bits.
struct Q5_0 {
    struct Block {
        uint16_t d;
        uint8_t high[4];
        uint8_t low[16];
    };

    static constexpr bool kHasMins = false;

    PMTP_INLINE static Int decode(const Block & a, const Block & b) {
        return add_where<false, -16>(nibbles(a.low, b.low), a.high, b.high);
    }
};
static_assert(sizeof(Q5_0::Block) == 22, "ggml's block_q5_0");

}  // namespace

void q5_0(const void * weights, int64_t n_in, const Tile * tiles, int n_tiles, int64_t first, int64_t last) {
    pass<StripsOfBlocks<Q5_0>>(weights, n_in, tiles, n_tiles, first, last);
}

}  // namespace pmtp::products

#endif  // PMTP_SIMD
