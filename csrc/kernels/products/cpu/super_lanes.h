// Types of blocks of 256 values whose sub-blocks have whole numbers for scales, in ggml's layout. A weight row has a
// 32-bit lane, in which the products of a block add up to a whole number: so the blocks of as many rows as there are
// lanes are transposed in registers, once for all activation rows of a tile. A type has
//
//   Block              in ggml's layout
//   kHasMins           value = d * scale * q - dmin * min, otherwise d * scale * (q - kZeroPoint)
//   kScaled            values of a sub-block: 16 or 32
//   pairs(w, x)        without VNNI: sums of two products of q and an activation, of which
//   kQuadsIn16         add up in 16 bits
//   Rows(block, step)  what the blocks of a vector's rows, `step` bytes apart, share
//     d, dmin          a float a row; the second is minus the f16 number
//     scales           a vector for a sub-block, made by lane_scale()
//     offsets          mins, or without them scales, of two successive sub-blocks in a lane
//     for_each(f)      f(i, w) for every 32 values: w[j] holds q of values 32 * i + 4 * j and on of each row
#pragma once

#include "kernels/cpu/half.h"
#include "kernels/products/cpu/bytes.h"
#include "kernels/products/cpu/pass.h"

namespace pmtp::products {

// 16 bytes of each row, `step` bytes apart: word j of row c becomes lane c of w[j].
PMTP_INLINE void transpose_words(const void * first, int64_t step, Int (&w)[4]) {
    Int rows[4];  // i, i + 4, i + 8, i + 12
    PMTP_UNROLL
    for (int i = 0; i < 4; i++) {
        const char * row = (const char *) first + i * step;
#if PMTP_SIMD == 64
        const __m256i lo = _mm256_set_m128i(load_as<__m128i>(row + 4 * step), load_as<__m128i>(row));
        const __m256i hi = _mm256_set_m128i(load_as<__m128i>(row + 12 * step), load_as<__m128i>(row + 8 * step));
        rows[i] = _mm512_inserti64x4(_mm512_castsi256_si512(lo), hi, 1);
#else
        rows[i] = _mm256_set_m128i(load_as<__m128i>(row + 4 * step), load_as<__m128i>(row));
#endif
    }
    const Int low[] = { low_lanes(rows[0], rows[1]), low_lanes(rows[2], rows[3]) };
    const Int high[] = { high_lanes(rows[0], rows[1]), high_lanes(rows[2], rows[3]) };
    w[0] = low_pairs(low[0], low[1]);
    w[1] = high_pairs(low[0], low[1]);
    w[2] = low_pairs(high[0], high[1]);
    w[3] = high_pairs(high[0], high[1]);
}
PMTP_INLINE void transpose_words(const void * first, int64_t step, Int (&w)[8]) {
    Int half[4];
    for (int i = 0; i < 8; i += 4) {
        transpose_words((const char *) first + 4 * i, step, half);
        for (int j = 0; j < 4; j++) {
            w[i + j] = half[j];
        }
    }
}

// The f16 numbers in the lower, and in the upper halves of the lanes.
PMTP_INLINE Float low_half_numbers(Int a) { return of_half_bits(and_bits(a, broadcast32(0xffff))); }
PMTP_INLINE Float high_half_numbers(Int a) { return of_half_bits(shift_right32(a, 16)); }

// Byte i of each lane.
PMTP_INLINE Int byte_of(Int a, int i) { return and_bits(shift_right32(a, 8 * i), broadcast32(0xff)); }

// Of a scale in each lane, what dots are multiplied with: without VNNI the scale in both halves of the lane.
#ifdef PMTP_SIMD_VNNI
PMTP_INLINE Int lane_scale(Int scales) { return scales; }
#else
PMTP_INLINE Int lane_scale(Int scales) { return low_halves(scales, scales); }
#endif

// sums[n] + scale * the products of kQuads vectors with four times as many values of activation row n; rows are 256
// bytes apart.
template <class Type, int kQuads, int N>
PMTP_INLINE void add_scaled(Int (&sums)[N], const Int * w, const int8_t * x, Int scale) {
#ifdef PMTP_SIMD_VNNI
    NibbleDots dots[N];
    PMTP_UNROLL
    for (int n = 0; n < N; n++) {
        dots[n].begin(zero());
    }
    PMTP_UNROLL
    for (int j = 0; j < kQuads; j++) {
        PMTP_UNROLL
        for (int n = 0; n < N; n++) {
            dots[n].add_quad(w[j], x + n * 256 + 4 * j);
        }
    }
    PMTP_UNROLL
    for (int n = 0; n < N; n++) {
        sums[n] = add32(sums[n], mul32(dots[n].total(), scale));
    }
#else
    PMTP_UNROLL
    for (int n = 0; n < N; n++) {
        PMTP_UNROLL
        for (int first = 0; first < kQuads; first += Type::kQuadsIn16) {
            Int pairs = Type::pairs(w[first], broadcast32(load_as<int32_t>(x + n * 256 + 4 * first)));
            PMTP_UNROLL
            for (int j = first + 1; j < first + Type::kQuadsIn16; j++) {
                pairs = add16(pairs, Type::pairs(w[j], broadcast32(load_as<int32_t>(x + n * 256 + 4 * j))));
            }
            sums[n] = dot16(sums[n], pairs, scale);
        }
    }
#endif
}

// Blocks of a row that are on their way from memory.
constexpr int kBlocksAhead = 6;

// C: kLanes weight rows, or one, then all lanes do the same work.
template <class Type, int C> struct StripOfLanes {
    using Block = typename Type::Block;

    static constexpr int kColumns = C;
    static constexpr int kVectors = 1;
    static int64_t bytes(int64_t n_in) { return C * n_in / 256 * (int64_t) sizeof(Block); }

    StripOfLanes(const void * weights, int64_t n_in, int64_t column)
        : n_records(n_in / 256),
          blocks((const Block *) weights + column * n_records),
          column(column) {}

    // Those of the rows lie `step` bytes apart.
    struct Blocks {
        const Block * first;
        const Block * later;
        int64_t step;

        // An eighth of what will be read later: all at once would keep what is read now waiting.
        PMTP_INLINE void fetch_eighth(int i) const {
            PMTP_UNROLL
            for (int c = 0; c < C / 8; c++) {
                fetch_later<sizeof(Block)>((const char *) later + (i * (C / 8) + c) * step);
            }
        }
    };

    PMTP_INLINE Blocks read(int64_t r) const {
        // What follows in each row, then in the next strip's.
        const int64_t ahead = r + kBlocksAhead + (r + kBlocksAhead < n_records ? 0 : (C - 1) * n_records);
        return { blocks + r, blocks + ahead, C == 1 ? 0 : n_records * (int64_t) sizeof(Block) };
    }

    template <int N> PMTP_INLINE static void add(const Blocks & of, const Tile & tile, int64_t r, Float (&sums)[1][N]) {
        constexpr int kQuads = Type::kScaled / 4;
        const int8_t * values = (const int8_t *) tile.values + r * N * 256;
        const int16_t * x_sums = Type::kScaled == 16 ? tile.sums16 + r * N * 16 : tile.sums32 + r * N * 8;
        const typename Type::Rows rows(of.first, of.step);
        const auto add_offsets = [&](int n) __attribute__((always_inline)) {
            Int sum = zero();
            PMTP_UNROLL
            for (int i = 0; i < 128 / Type::kScaled; i++) {
                sum = dot16(sum, rows.offsets[i],
                            broadcast32(load_as<int32_t>(x_sums + n * (256 / Type::kScaled) + 2 * i)));
            }
            return sum;
        };
        Int dots[N];
        PMTP_UNROLL
        for (int n = 0; n < N; n++) {
            dots[n] = Type::kZeroPoint == 0 ? zero() : mul32(add_offsets(n), broadcast32(-Type::kZeroPoint));
        }
        rows.for_each([&](int i, const Int(&w)[8]) __attribute__((always_inline)) {
            of.fetch_eighth(i);
            PMTP_UNROLL
            for (int j = 0; j < 8; j += kQuads) {
                add_scaled<Type, kQuads>(dots, w + j, values + 32 * i + 4 * j, rows.scales[(8 * i + j) / kQuads]);
            }
        });
        PMTP_UNROLL
        for (int n = 0; n < N; n++) {
            const Float scale = broadcast(tile.scales[r * N + n]);
            sums[0][n] = fma(to_float(dots[n]), rows.d * scale, sums[0][n]);
            if constexpr (Type::kHasMins) {
                sums[0][n] = fma(to_float(add_offsets(n)), rows.dmin * scale, sums[0][n]);
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

template <class Type> struct StripsOfLanes {
    static constexpr bool kKeepsDecoded = false;
    template <int N> struct Of {
        using Wide = StripOfLanes<Type, kLanes>;
        using Narrow = StripOfLanes<Type, 1>;
    };
};

}  // namespace pmtp::products
