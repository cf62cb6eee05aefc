// Q8_0 in ggml's layout.
#include "kernels/cpu/simd.h"

#ifdef PMTP_SIMD

#include "kernels/products/cpu/blocks.h"

namespace pmtp::products {
namespace {

struct Q8_0 {
    struct Block {
        uint16_t d;
        int8_t values[32];
    };

    static constexpr bool kHasMins = false;

    PMTP_INLINE static Int decode(const Block & a, const Block & b) {
#if PMTP_SIMD == 64
        const __m256i low = load_as<__m256i>(a.values), high = load_as<__m256i>(b.values);
        return _mm512_inserti64x4(_mm512_castsi256_si512(low), high, 1);
#else
        (void) b;
        return load(a.values);
#endif
    }
};
static_assert(sizeof(Q8_0::Block) == 34, "ggml's block_q8_0");

}  // namespace

void q8_0(const void * weights, int64_t n_in, const Tile * tiles, int n_tiles, int64_t first, int64_t last) {
    pass<StripsOfBlocks<Q8_0>>(weights, n_in, tiles, n_tiles, first, last);
}

}  // namespace pmtp::products

#endif  // PMTP_SIMD
