// Q4_K as ggml repacks it: 8 weight rows interleaved by 8 bytes, as in q4_0.cpp.
#include "kernels/cpu/simd.h"

#ifdef PMTP_SIMD

#include "kernels/products/cpu/pass.h"

namespace pmtp::products {
namespace {

// Weight rows in a block.
constexpr int kGroup = 8;
constexpr int kParts = kGroup / kLaneRows;

// Eight sub-blocks of 32 values: value = d * scale * nibble - dmin * min. 32 packed bytes of a row hold two sub-blocks.
struct BlockQ4_Kx8 {
    uint16_t d[kGroup];
    uint16_t dmin[kGroup];
    uint8_t scales[8][12];
    uint8_t packed[16][64];
};
static_assert(sizeof(BlockQ4_Kx8) == 1152, "ggml's block_q4_Kx8");

// The 6-bit scales and mins of one sub-block, a byte a weight row.
PMTP_INLINE void unpack_scales(const uint8_t * packed, uint64_t & scales, uint64_t & mins) {
    const uint32_t a = load_as<uint32_t>(packed);
    const uint32_t b = load_as<uint32_t>(packed + 4);
    const uint32_t c = load_as<uint32_t>(packed + 8);
    const uint32_t scales_high = (c & 0x0f0f0f0f) | ((a >> 2) & 0x30303030);
    const uint32_t mins_high = ((c >> 4) & 0x0f0f0f0f) | ((b >> 2) & 0x30303030);
    scales = (a & 0x3f3f3f3f) | (uint64_t) scales_high << 32;
    mins = (b & 0x3f3f3f3f) | (uint64_t) mins_high << 32;
}

// Two sub-blocks of the rows of a vector; the scale of the second is in the upper halves of the lanes.
struct Two {
    Int w[2][4];
    Int scales;
};

// Of rows kFirst and on: sum + the products with 64 activations, times their scales. Rows are 256 activations apart.
template <int kFirst, int N> PMTP_INLINE void add_two(Int (&sums)[N], const Two & two, const int8_t * x) {
    constexpr int kTurns = (N - kFirst + kRowsInTurn - 1) / kRowsInTurn, kRows = (N - kFirst + kTurns - 1) / kTurns;
    NibbleDots dots[2][kRows];
    PMTP_UNROLL
    for (int s = 0; s < 2; s++) {
        PMTP_UNROLL
        for (int n = 0; n < kRows; n++) {
            dots[s][n].begin(zero());
        }
        PMTP_UNROLL
        for (int i = 0; i < 4; i++) {
            PMTP_UNROLL
            for (int n = 0; n < kRows; n++) {
                dots[s][n].add(two.w[s][i], broadcast64(x + (kFirst + n) * 256 + 32 * s + 8 * i));
            }
        }
#ifndef PMTP_SIMD_VNNI
        const Int scale = s == 0 ? and_bits(two.scales, broadcast32(0xffff)) : shift_right32(two.scales, 16);
        const Int both = or_bits(scale, shift_left32(scale, 16));
        PMTP_UNROLL
        for (int n = 0; n < kRows; n++) {
            sums[kFirst + n] = dot16(sums[kFirst + n], dots[s][n].halves(), both);
        }
#endif
    }
#ifdef PMTP_SIMD_VNNI  // a lane's 16 products of 15 and 127 fit 16 bits
    PMTP_UNROLL
    for (int n = 0; n < kRows; n++) {
        sums[kFirst + n] = dot16(sums[kFirst + n], low_halves(dots[0][n].total(), dots[1][n].total()), two.scales);
    }
#endif
    if constexpr (kFirst + kRows < N) {
        add_two<kFirst + kRows>(sums, two, x);
    }
}

// kFetch: not for a lone activation row, which the hardware's own prefetching serves best, nor for several tiles, of
// which each would fetch the same again.
template <int V, bool kFetch> struct StripQ4_K {
    static constexpr int kColumns = V * kLaneRows;
    static constexpr int kVectors = V;
    static int64_t bytes(int64_t n_in) { return kColumns * n_in / 256 * (int64_t) sizeof(BlockQ4_Kx8) / kGroup; }

    // Of a block and the rows of a vector.
    struct Factors {
        Int mins[2];  // 64-bit lane r: four successive 16-bit mins of row r
        Float d, dmin;
    };

    // A block that is decoded by two sub-blocks at a time.
    class Packed {
      public:
        PMTP_INLINE Packed(const BlockQ4_Kx8 & block, int part) : block_(block), part_(part) {
            Int mins[V][2];
            for (int v = 0; v < V; v++) {
                mins[v][0] = mins[v][1] = zero();
            }
            for (int s = 0; s < 8; s++) {
                uint64_t min_bytes;
                unpack_scales(block.scales[s], scales_[s], min_bytes);
                for (int v = 0; v < V; v++) {
                    const Int wide = widen8to64(min_bytes >> shift(v));
                    mins[v][s / 4] = or_bits(mins[v][s / 4], shift_left64(wide, 16 * (s % 4)));
                }
            }
            for (int v = 0; v < V; v++) {
                factors[v] = { { mins[v][0], mins[v][1] },
                               pair_scales(block.d + (part + v) * kLaneRows),
                               pair_scales(block.dmin + (part + v) * kLaneRows) };
            }
        }

        PMTP_INLINE Two two(int v, int i) const {
            const Int nibble = broadcast8(0x0f);
            Two two;
            for (int j = 0; j < 4; j++) {
                const Int packed = load(block_.packed[i * 4 + j] + (part_ + v) * kBytes);
                two.w[0][j] = and_bits(packed, nibble);
                two.w[1][j] = high_nibbles(packed);
            }
            const Int low = even_lanes_twice(widen8to64(scales_[2 * i] >> shift(v)));
            const Int high = even_lanes_twice(widen8to64(scales_[2 * i + 1] >> shift(v)));
            two.scales = or_bits(low, shift_left32(high, 16));
            return two;
        }

        Factors factors[V];

      private:
        int shift(int v) const { return (part_ + v) * kLaneRows * 8 % 64; }

        const BlockQ4_Kx8 & block_;
        const int part_;
        uint64_t scales_[8];
    };

    StripQ4_K(const void * weights, int64_t n_in, int64_t column)
        : n_records(n_in / 256),
          blocks((const BlockQ4_Kx8 *) weights + column / kGroup * n_records),
          part((int) (column % kGroup) / kLaneRows),
          column(column) {}

    PMTP_INLINE Packed read(int64_t r) const {
        if constexpr (kFetch) {
            fetch_later<sizeof(BlockQ4_Kx8)>(&blocks[r + 8]);
        }
        return { blocks[r], part };
    }

    template <int N>
    PMTP_INLINE static void add(const Packed & block, const Tile & tile, int64_t r, Float (&sums)[V][N]) {
        const int8_t * values = (const int8_t *) tile.values + r * N * 256;
        Int dots[V][N];
        PMTP_UNROLL
        for (auto & of_vector : dots) {
            PMTP_UNROLL
            for (Int & sum : of_vector) {
                sum = zero();
            }
        }
        PMTP_UNROLL
        for (int i = 0; i < 4; i++) {
            PMTP_UNROLL
            for (int v = 0; v < V; v++) {
                const Two two = block.two(v, i);
                add_two<0>(dots[v], two, values + i * 64);
            }
        }
        PMTP_UNROLL
        for (int v = 0; v < V; v++) {
            const Factors & f = block.factors[v];
            PMTP_UNROLL
            for (int n = 0; n < N; n++) {
                const int16_t * sums32 = tile.sums32 + (r * N + n) * 8;
                const Int min =
                    dot16(dot16(zero(), f.mins[0], broadcast64(sums32)), f.mins[1], broadcast64(sums32 + 4));
                const Float scale = broadcast(tile.scales[r * N + n]);
                sums[v][n] = fma(to_float(dots[v][n]), f.d * scale, sums[v][n]);
                sums[v][n] = fnma(to_float(min), f.dmin * scale, sums[v][n]);
            }
        }
    }

    template <int N> PMTP_INLINE void finish(const Float (&sums)[V][N], const Tile & tile) const {
        store_pairs_of(sums, tile, column);
    }

    const int64_t n_records;
    const BlockQ4_Kx8 * const blocks;
    const int part;
    const int64_t column;
};

// As many parts as there are registers for.
struct Strips {
    static constexpr bool kKeepsDecoded = false;
    template <int N> struct Of {
        using Wide = StripQ4_K<N <= 2 ? kParts : 1, (N > 1 && N < kTileRows)>;
        using Narrow = Wide;
    };
};

}  // namespace

void q4_K_8x8(const void * weights, int64_t n_in, const Tile * tiles, int n_tiles, int64_t first, int64_t last) {
    pass<Strips>(weights, n_in, tiles, n_tiles, first, last);
}

}  // namespace pmtp::products

#endif  // PMTP_SIMD
