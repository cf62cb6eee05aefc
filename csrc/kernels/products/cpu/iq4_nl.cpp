// IQ4_NL in ggml's layout, and as ggml repacks it.
#include "kernels/cpu/simd.h"

#ifdef PMTP_SIMD

#include "kernels/products/cpu/blocks.h"
#include "kernels/products/cpu/blocks_8x8.h"
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

#ifdef PMTP_SIMD_VNNI

// As unsigned bytes, 128 more.
struct IQ4_NLx8 {
    using Dots = NibbleDots;

    PMTP_INLINE static Int low(Int packed) { return iq4_values<128>(and_bits(packed, broadcast8(0x0f))); }
    PMTP_INLINE static Int high(Int packed) { return iq4_values<128>(high_nibbles(packed)); }
    PMTP_INLINE static Int start(int32_t correction) { return broadcast32(16 * correction); }
};

#else

// |w| * (x with w's sign): two of these products fit 16 bits.
class SignedDots {
  public:
    PMTP_INLINE void begin(Int start) { sum_ = start; }
    PMTP_INLINE void add(Int w, Int x) { sum_ = dot(sum_, absolute8(w), signed8(x, w)); }
    PMTP_INLINE void add_quad(Int w, const int8_t * x) { add(w, broadcast32(load_as<int32_t>(x))); }
    PMTP_INLINE Int total() const { return sum_; }

  private:
    Int sum_;
};

struct IQ4_NLx8 {
    using Dots = SignedDots;

    PMTP_INLINE static Int low(Int packed) { return iq4_values<0>(and_bits(packed, broadcast8(0x0f))); }
    PMTP_INLINE static Int high(Int packed) { return iq4_values<0>(high_nibbles(packed)); }
    PMTP_INLINE static Int start(int32_t) { return zero(); }
};

#endif

}  // namespace

void iq4_nl(const void * weights, int64_t n_in, const Tile * tiles, int n_tiles, int64_t first, int64_t last) {
    pass<StripsOfBlocks<IQ4_NL>>(weights, n_in, tiles, n_tiles, first, last);
}
void iq4_nl_8x8(const void * weights, int64_t n_in, const Tile * tiles, int n_tiles, int64_t first, int64_t last) {
    pass<Strips8x8<IQ4_NLx8>>(weights, n_in, tiles, n_tiles, first, last);
}

}  // namespace pmtp::products

#endif  // PMTP_SIMD
