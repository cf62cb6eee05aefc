// Q4_0 as ggml repacks it: 8 weight rows interleaved by 8 bytes.
//
// A weight row has a 32-bit lane, in which the products of a block add up to a whole number; that of the block's scale
// and this is added to a float.
#include "kernels/cpu/simd.h"

#ifdef PMTP_SIMD

#include "kernels/products/cpu/pass.h"

namespace pmtp::products {
namespace {

// Weight rows in a block.
constexpr int kGroup = 8;
// Low nibbles: values 0..15 of a row, high ones 16..31, in two's complement.
struct BlockQ4_0x8 {
    uint16_t scales[kGroup];
    uint8_t packed[2][64];
};
static_assert(sizeof(BlockQ4_0x8) == 144, "ggml's block_q4_0x8");

// Two's complement to values + 8.
PMTP_INLINE Int low_values(Int packed) { return xor_bits(and_bits(packed, broadcast8(0x0f)), broadcast8(0x08)); }
PMTP_INLINE Int high_values(Int packed) { return xor_bits(high_nibbles(packed), broadcast8(0x08)); }

// Several activation rows: the weights are brought into the order of the sums once for all of them.
// C: kLanes weight rows, or fewer, then the other lanes do the same work again.
template <int C> struct StripQ4_0 {
    static constexpr int kColumns = C;
    static constexpr int kVectors = 1;
    static int64_t bytes(int64_t n_in) { return kColumns * n_in / 32 * (int64_t) sizeof(BlockQ4_0x8) / kGroup; }

    StripQ4_0(const void * weights, int64_t n_in, int64_t column)
        : n_records(n_in / 32),
          first((const BlockQ4_0x8 *) weights + column / kGroup * n_records),
          second(C > kGroup ? first + n_records : first),
          column(column) {}

    struct Decoded {
        Int w[8];  // values 4i..4i + 3 of each row, + 8
        Float scales;
    };

    PMTP_INLINE Decoded read(int64_t r) const {
        fetch_ahead<sizeof(BlockQ4_0x8), 12 * sizeof(BlockQ4_0x8)>(&first[r]);
        if (C > kGroup) {
            fetch_ahead<sizeof(BlockQ4_0x8), 12 * sizeof(BlockQ4_0x8)>(&second[r]);
        }
        Decoded d;
        for (int p = 0; p < 2; p++) {
            const Int lower = load(first[r].packed[p]);
            const Int upper = load(kBytes == 64 ? second[r].packed[p] : first[r].packed[p] + 32);
            const Int quads[] = { even_lanes(lower, upper), odd_lanes(lower, upper) };
            for (int i = 0; i < 2; i++) {
                d.w[2 * p + i] = low_values(quads[i]);
                d.w[2 * p + i + 4] = high_values(quads[i]);
            }
        }
        d.scales = load_halves(first[r].scales, second[r].scales);
        return d;
    }

    template <int N> PMTP_INLINE static void add(const Decoded & d, const Tile & tile, int64_t r, Float (&sums)[1][N]) {
        const int8_t * values = (const int8_t *) tile.values + r * N * 32;
        const float * scales = tile.scales + r * N;
        const int32_t * corrections = tile.corrections + r * N;
        PMTP_UNROLL
        for (int n = 0; n < N; n++) {
            NibbleDots dots;
            dots.begin(broadcast32(corrections[n]));
            PMTP_UNROLL
            for (int i = 0; i < 8; i++) {
                dots.add_quad(d.w[i], values + n * 32 + 4 * i);
            }
            sums[0][n] = fma(to_float(dots.total()), d.scales * broadcast(scales[n]), sums[0][n]);
        }
    }

    template <int N> PMTP_INLINE void finish(const Float (&sums)[1][N], const Tile & tile) const {
        PMTP_UNROLL
        for (int n = 0; n < N; n++) {
            std::memcpy(tile.result + n * tile.stride + column, &sums[0][n], C * sizeof(float));
        }
    }

    const int64_t n_records;
    const BlockQ4_0x8 * const first;
    const BlockQ4_0x8 * const second;
    const int64_t column;
};

// One activation row waits for memory, which one block after another brings fastest: no group beside another, and
// values in the block's order, so that a row has two lanes. A column's sum is the same whole number.
struct LoneStripQ4_0 {
    static constexpr int kColumns = kGroup;
    static constexpr int kVectors = kGroup / kLaneRows;
    static int64_t bytes(int64_t n_in) { return n_in / 32 * (int64_t) sizeof(BlockQ4_0x8); }

    LoneStripQ4_0(const void * weights, int64_t n_in, int64_t column)
        : n_records(n_in / 32),
          blocks((const BlockQ4_0x8 *) weights + column / kGroup * n_records),
          column(column) {}

    struct Decoded {
        Int w[kVectors][4];  // values 8i..8i + 7 of each row, + 8
        Float scales[kVectors];
    };

    PMTP_INLINE Decoded read(int64_t r) const {
        const BlockQ4_0x8 & block = blocks[r];
        fetch_ahead<sizeof(block), 12 * sizeof(block)>(&block);
        Decoded d;
        for (int v = 0; v < kVectors; v++) {
            for (int p = 0; p < 2; p++) {
                const Int packed = load(block.packed[p] + v * kBytes);
                d.w[v][p] = low_values(packed);
                d.w[v][p + 2] = high_values(packed);
            }
            d.scales[v] = pair_scales(block.scales + v * kLaneRows);
        }
        return d;
    }

    template <int N>
    PMTP_INLINE static void add(const Decoded & d, const Tile & tile, int64_t r, Float (&sums)[kVectors][N]) {
        static_assert(N == 1);
        const Float x_scale = broadcast(tile.scales[r]);
        const Int correction = broadcast32(tile.corrections[r]);
        for (int v = 0; v < kVectors; v++) {
            NibbleDots dots;
            dots.begin(zero());
            for (int i = 0; i < 4; i++) {
                dots.add(d.w[v][i], broadcast64((const int8_t *) tile.values + r * 32 + 8 * i));
            }
            const Int total = add32(add_neighbours(dots.total()), correction);
            sums[v][0] = fma(to_float(total), d.scales[v] * x_scale, sums[v][0]);
        }
    }

    template <int N> PMTP_INLINE void finish(const Float (&sums)[kVectors][N], const Tile & tile) const {
        for (int v = 0; v < kVectors; v++) {
            store_even_lanes(tile.result + column + v * kLaneRows, sums[v][0]);
        }
    }

    const int64_t n_records;
    const BlockQ4_0x8 * const blocks;
    const int64_t column;
};

struct Strips {
    template <int N> struct Of {
        using Wide = std::conditional_t<N == 1, LoneStripQ4_0, StripQ4_0<kLanes>>;
        using Narrow = std::conditional_t<N == 1, LoneStripQ4_0, StripQ4_0<kGroup>>;
    };
};

}  // namespace

void q4_0_8x8(const void * weights, int64_t n_in, const Tile * tiles, int n_tiles, int64_t first, int64_t last) {
    pass<Strips>(weights, n_in, tiles, n_tiles, first, last);
}

}  // namespace pmtp::products

#endif  // PMTP_SIMD
