// Q5_K in ggml's layout.
#include "kernels/cpu/simd.h"

#ifdef PMTP_SIMD

#include "kernels/products/cpu/super_lanes.h"

namespace pmtp::products {
namespace {

// value = d * scale * q - dmin * min, q of 5 bits; scales and mins, of 6 bits, are those of 32 values.
struct Q5_K {
    struct Block {
        uint16_t d, dmin;
        uint8_t scales[12];
        uint8_t high[32];
        uint8_t low[4][32];
    };

    static constexpr bool kHasMins = true;
    static constexpr int kZeroPoint = 0;
    static constexpr int kScaled = 32;
    static constexpr int kQuadsIn16 = 4;

    PMTP_INLINE static Int pairs(Int w, Int x) { return pairs16(w, x); }

    struct Rows {
        PMTP_INLINE Rows(const Block * first, int64_t step) : first(first), step(step) {
            Int words[4];
            transpose_words(first, step, words);
            d = low_half_numbers(words[0]);
            dmin = -high_half_numbers(words[0]);
            // Bytes of the scales, then the mins of sub-blocks 0 to 3 and 4 to 7: the low six bits of four bytes, then
            // nibbles of the last four bytes under the high bits of those four.
            const Int six = broadcast8(0x3f), four = broadcast8(0x0f), two = broadcast8(0x30);
            const Int bytes[2][2] = {
                { and_bits(words[1], six),
                  or_bits(and_bits(words[3], four), and_bits(shift_right32(words[1], 2), two)) },
                { and_bits(words[2], six), or_bits(high_nibbles(words[3]), and_bits(shift_right32(words[2], 2), two)) },
            };
            PMTP_UNROLL
            for (int i = 0; i < 8; i++) {
                scales[i] = lane_scale(byte_of(bytes[0][i / 4], i % 4));
            }
            PMTP_UNROLL
            for (int i = 0; i < 4; i++) {
                const Int mins = bytes[1][i / 2];
                offsets[i] = low_halves(byte_of(mins, i % 2 * 2), byte_of(mins, i % 2 * 2 + 1));
            }
            transpose_words(first->high, step, high);
        }

        // Byte l of low[i] holds the low bits of values l and l + 32 of a quarter of the block, byte l of `high` the
        // high bits of values l, l + 32, ..., l + 224.
        template <class F> PMTP_INLINE void for_each(F f) const {
            for (int i = 0; i < 4; i++) {
                Int low[8], w[8];
                transpose_words(first->low[i], step, low);
                const Int bit = broadcast8(1 << 2 * i), next = broadcast8(2 << 2 * i);
                PMTP_UNROLL
                for (int j = 0; j < 8; j++) {
                    w[j] = add_where_set(and_bits(low[j], broadcast8(0x0f)), high[j], bit);
                }
                f(2 * i, w);
                PMTP_UNROLL
                for (int j = 0; j < 8; j++) {
                    w[j] = add_where_set(high_nibbles(low[j]), high[j], next);
                }
                f(2 * i + 1, w);
            }
        }

        // 16 in each byte of 4 bits in which `bits` has this bit.
        PMTP_INLINE static Int add_where_set(Int values, Int bits, Int bit) {
#if PMTP_SIMD == 64
            return _mm512_mask_add_epi8(values, _mm512_test_epi8_mask(bits, bit), values, broadcast8(16));
#else
            return or_bits(values, and_bits(_mm256_cmpeq_epi8(and_bits(bits, bit), bit), broadcast8(16)));
#endif
        }

        const Block * first;
        int64_t step;
        Float d, dmin;
        Int scales[8];
        Int offsets[4];
        Int high[8];
    };
};
static_assert(sizeof(Q5_K::Block) == 176, "ggml's block_q5_K");

}  // namespace

void q5_K(const void * weights, int64_t n_in, const Tile * tiles, int n_tiles, int64_t first, int64_t last) {
    pass<StripsOfLanes<Q5_K>>(weights, n_in, tiles, n_tiles, first, last);
}

}  // namespace pmtp::products

#endif  // PMTP_SIMD
