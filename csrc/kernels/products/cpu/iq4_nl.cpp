// IQ4_NL in ggml's layout, and as ggml repacks it.
#include "kernels/cpu/simd.h"

#ifdef PMTP_SIMD

#include "kernels/products/cpu/blocks.h"
#include "kernels/products/cpu/blocks_8x8.h"
#include "kernels/products/cpu/bytes.h"
#include "kernels/products/cpu/iq4.h"

namespace pmtp::products {
namespace {

struct IQ4_NL {
    struct Block {
        uint16_t d;
        uint8_t packed[16];
    };

    static constexpr bool kHasMins = false;

    PMTP_INLINE static Int decode(const Block & a, const Block & b) {
        return iq4_values<0>(nibbles(a.packed, b.packed));
    }
};
static_assert(sizeof(IQ4_NL::Block) == 18, "ggml's block_iq4_nl");

struct IQ4_NLx8 {
    using Dots = ByteDots;

    PMTP_INLINE static Int both(Int packed) { return packed; }
    PMTP_INLINE static Int low(Int packed) { return iq4_values<kByteOffset>(and_bits(packed, broadcast8(0x0f))); }
    PMTP_INLINE static Int high(Int packed) { return iq4_values<kByteOffset>(high_nibbles(packed)); }
    PMTP_INLINE static Int start(int32_t correction) { return byte_start(correction); }
};

}  // namespace

void iq4_nl(const void * weights, int64_t n_in, const Tile * tiles, int n_tiles, int64_t first, int64_t last) {
    pass<StripsOfBlocks<IQ4_NL>>(weights, n_in, tiles, n_tiles, first, last);
}
void iq4_nl_8x8(const void * weights, int64_t n_in, const Tile * tiles, int n_tiles, int64_t first, int64_t last) {
    pass<Strips8x8<IQ4_NLx8>>(weights, n_in, tiles, n_tiles, first, last);
}

}  // namespace pmtp::products

#endif  // PMTP_SIMD
