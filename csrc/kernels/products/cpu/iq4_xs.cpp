// IQ4_XS in ggml's layout.
#include "kernels/cpu/simd.h"

#ifdef PMTP_SIMD

#include "kernels/products/cpu/iq4.h"
#include "kernels/products/cpu/super_lanes.h"

namespace pmtp::products {
namespace {

// value = d * (scale - 32) * codebook[nibble], scales of 6 bits, those of 32 values.
struct IQ4_XS {
    struct Block {
        uint16_t d;
        uint8_t scales_high[2];
        uint8_t scales_low[4];
        uint8_t packed[8][16];
    };

    static constexpr bool kHasMins = false;
    static constexpr int kScaled = 32;
    static constexpr int kZeroPoint = kByteOffset;
    static constexpr int kQuadsIn16 = 1;

    PMTP_INLINE static Int pairs(Int w, Int x) { return pairs16(absolute8(w), signed8(x, w)); }

    struct Rows {
        PMTP_INLINE Rows(const Block * first, int64_t step) : first(first), step(step) {
            Int words[4];
            transpose_words(first, step, words);
            d = low_half_numbers(words[0]);
            PMTP_UNROLL
            for (int i = 0; i < 8; i++) {
                const Int low = and_bits(shift_right32(words[1], 4 * i), broadcast32(0x0f));
                const Int high = and_bits(shift_right32(words[0], 12 + 2 * i), broadcast32(0x30));
                scales[i] = lane_scale(sub32(or_bits(low, high), broadcast32(32)));
            }
            PMTP_UNROLL
            for (int i = 0; i < 4; i++) {
                offsets[i] = low_halves(scales[2 * i], scales[2 * i + 1]);
            }
        }

        template <class F> PMTP_INLINE void for_each(F f) const {
            Int packed[4], w[8];
            transpose_words(first->packed[0], step, packed);
            for (int i = 0; i < 8; i++) {
                PMTP_UNROLL
                for (int j = 0; j < 4; j++) {
                    w[j] = iq4_values<kByteOffset>(and_bits(packed[j], broadcast8(0x0f)));
                    w[j + 4] = iq4_values<kByteOffset>(high_nibbles(packed[j]));
                }
                // What comes next is ready when the products before it, which wait for one another, are.
                transpose_words(first->packed[std::min(i + 1, 7)], step, packed);
                f(i, w);
            }
        }

        const Block * first;
        int64_t step;
        Float d;
        Int scales[8];
        Int offsets[4];
    };
};
static_assert(sizeof(IQ4_XS::Block) == 136, "ggml's block_iq4_xs");

}  // namespace

void iq4_xs(const void * weights, int64_t n_in, const Tile * tiles, int n_tiles, int64_t first, int64_t last) {
    pass<StripsOfLanes<IQ4_XS>>(weights, n_in, tiles, n_tiles, first, last);
}

}  // namespace pmtp::products

#endif  // PMTP_SIMD
