// Q8_0 in ggml's layout. A weight row has a 32-bit lane, in which the products of a block add up to a whole number, as
// in blocks_8x8.h: so the blocks of as many rows as there are lanes are transposed in registers, once for all
// activation rows of a tile.
#include "kernels/cpu/half.h"
#include "kernels/cpu/simd.h"

#ifdef PMTP_SIMD

#include "kernels/products/cpu/bytes.h"
#include "kernels/products/cpu/pass.h"

namespace pmtp::products {
namespace {

struct Block {
    uint16_t d;
    int8_t values[32];
};
static_assert(sizeof(Block) == 34, "ggml's block_q8_0");

// 32 bytes, and where a vector has room behind them those of b.
PMTP_INLINE Int load32(const int8_t * a, const int8_t * b) {
#if PMTP_SIMD == 64
    return _mm512_inserti64x4(_mm512_castsi256_si512(load_as<__m256i>(a)), load_as<__m256i>(b), 1);
#else
    (void) b;
    return load(a);
#endif
}

// In each 256 bits, the lower and the upper halves of a and b.
#if PMTP_SIMD == 64
PMTP_INLINE Int low_fours(Int a, Int b) {
    return _mm512_permutex2var_epi64(a, _mm512_setr_epi64(0, 1, 8, 9, 4, 5, 12, 13), b);
}
PMTP_INLINE Int high_fours(Int a, Int b) {
    return _mm512_permutex2var_epi64(a, _mm512_setr_epi64(2, 3, 10, 11, 6, 7, 14, 15), b);
}
#else
PMTP_INLINE Int low_fours(Int a, Int b) { return _mm256_permute2x128_si256(a, b, 0x20); }
PMTP_INLINE Int high_fours(Int a, Int b) { return _mm256_permute2x128_si256(a, b, 0x31); }
#endif

// Word j of w[i]'s 256 bits becomes word i of w[j]'s.
PMTP_INLINE void transpose(Int (&w)[8]) {
    Int fours[8];  // of rows 0..3 and 4..7: columns j and j + 4
    for (int i = 0; i < 8; i += 4) {
        const Int low[] = { low_lanes(w[i], w[i + 1]), low_lanes(w[i + 2], w[i + 3]) };
        const Int high[] = { high_lanes(w[i], w[i + 1]), high_lanes(w[i + 2], w[i + 3]) };
        fours[i] = low_pairs(low[0], low[1]);
        fours[i + 1] = high_pairs(low[0], low[1]);
        fours[i + 2] = low_pairs(high[0], high[1]);
        fours[i + 3] = high_pairs(high[0], high[1]);
    }
    for (int j = 0; j < 4; j++) {
        w[j] = low_fours(fours[j], fours[j + 4]);
        w[j + 4] = high_fours(fours[j], fours[j + 4]);
    }
}

// Records of a row that are on their way from memory.
constexpr int kAhead = 32;

// C: kLanes weight rows, or one, then all lanes do the same work.
template <int C> struct Strip {
    static constexpr int kColumns = C;
    static constexpr int kVectors = 1;
    static int64_t bytes(int64_t n_in) { return C * n_in / 32 * (int64_t) sizeof(Block); }

    Strip(const void * weights, int64_t n_in, int64_t column)
        : n_records(n_in / 32),
          blocks((const Block *) weights + column * n_records),
          column(column) {}

    struct Decoded {
        Int w[8];  // values 4i..4i + 3 of each row
        Float scales;
    };

    PMTP_INLINE Decoded read(int64_t r) const {
        const Int offset = broadcast8(kByteOffset);
        Decoded d;
        if constexpr (C == 1) {
            for (int i = 0; i < 8; i++) {
                d.w[i] = xor_bits(broadcast32(load_as<int32_t>(blocks[r].values + 4 * i)), offset);
            }
            d.scales = broadcast(half_to_float(blocks[r].d));
            return d;
        }
        fetch_ahead_of(r);
        uint16_t scales[kLanes];
        for (int c = 0; c < kLanes; c++) {
            scales[c] = blocks[c * n_records + r].d;
        }
        for (int i = 0; i < 8; i++) {
            d.w[i] = xor_bits(load32(blocks[i * n_records + r].values, blocks[(i + kLanes - 8) * n_records + r].values),
                              offset);
        }
        transpose(d.w);
        d.scales = load_halves(scales);
        return d;
    }

    // What follows in each row, then in the next strip's, is fetched into the second-level cache: the first one takes
    // too few lines at a time to keep memory busy.
    PMTP_INLINE void fetch_ahead_of(int64_t r) const {
        const int64_t ahead = r + kAhead + (r + kAhead < n_records ? 0 : (C - 1) * n_records);
        for (int c = 0; c < C; c++) {
            fetch_later<sizeof(Block)>(blocks + c * n_records + ahead);
        }
    }

    template <int N> PMTP_INLINE static void add(const Decoded & d, const Tile & tile, int64_t r, Float (&sums)[1][N]) {
        const int8_t * values = (const int8_t *) tile.values + r * N * 32;
        const float * scales = tile.scales + r * N;
        const int32_t * corrections = tile.corrections + r * N;
        PMTP_UNROLL
        for (int first = 0; first < N; first += kRowsInTurn) {
            const int last = std::min(first + kRowsInTurn, N);
            ByteDots dots[std::min(kRowsInTurn, N)];
            PMTP_UNROLL
            for (int n = first; n < last; n++) {
                dots[n - first].begin(byte_start(corrections[n]));
            }
            PMTP_UNROLL
            for (int i = 0; i < 8; i++) {
                PMTP_UNROLL
                for (int n = first; n < last; n++) {
                    dots[n - first].add_quad(d.w[i], values + n * 32 + 4 * i);
                }
            }
            PMTP_UNROLL
            for (int n = first; n < last; n++) {
                sums[0][n] = fma(to_float(dots[n - first].total()), d.scales * broadcast(scales[n]), sums[0][n]);
            }
        }
    }

    template <int N> PMTP_INLINE void finish(const Float (&sums)[1][N], const Tile & tile) const {
        PMTP_UNROLL
        for (int n = 0; n < N; n++) {
            std::memcpy(tile.row(n) + column, &sums[0][n], C * sizeof(float));
        }
    }

    const int64_t n_records;
    const Block * const blocks;
    const int64_t column;
};

struct Strips {
    static constexpr bool kKeepsDecoded = true;
    template <int N> struct Of {
        using Wide = Strip<kLanes>;
        using Narrow = Strip<1>;
    };
};

}  // namespace

void q8_0(const void * weights, int64_t n_in, const Tile * tiles, int n_tiles, int64_t first, int64_t last) {
    pass<Strips>(weights, n_in, tiles, n_tiles, first, last);
}

}  // namespace pmtp::products

#endif  // PMTP_SIMD
