// Q4_1 in ggml's layout.
#include "kernels/cpu/simd.h"

#ifdef PMTP_SIMD

#include "kernels/products/cpu/blocks.h"

namespace pmtp::products {
namespace {

// value = d * q + min.
struct Q4_1 {
    struct Block {
        uint16_t d, min;
        uint8_t packed[16];
    };

    static constexpr bool kHasMins = true;

    PMTP_INLINE static Int decode(const Block & a, const Block & b) { return nibbles(a.packed, b.packed); }
};
static_assert(sizeof(Q4_1::Block) == 20, "ggml's block_q4_1");

}  // namespace

void q4_1(const void * weights, int64_t n_in, const Tile * tiles, int n_tiles, int64_t first, int64_t last) {
    pass<StripsOfBlocks<Q4_1>>(weights, n_in, tiles, n_tiles, first, last);
}

}  // namespace pmtp::products

#endif  // PMTP_SIMD
