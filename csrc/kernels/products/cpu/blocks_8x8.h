// Types of 4 bits as ggml repacks them: 8 weight rows interleaved by 8 bytes. A type has
//
//   low(packed), high(packed)  the values of the nibbles, as bytes plus a number
//   start(correction)          minus that number times the sum of 32 activations, from an activation row's correction
//   Dots                       the products of such bytes with activations (NibbleDots)
//
// A weight row has a 32-bit lane, in which the products of a block add up to a whole number; that of the block's scale
// and this is added to a float.
#pragma once

#include "kernels/products/cpu/pass.h"

namespace pmtp::products {

// Weight rows in a block.
constexpr int kGroup = 8;
// Low nibbles: values 0..15 of a row, high ones 16..31.
struct Block8x8 {
    uint16_t scales[kGroup];
    uint8_t packed[2][64];
};
static_assert(sizeof(Block8x8) == 144, "ggml's block_q4_0x8 and block_iq4_nlx8");

// Several activation rows: the weights are brought into the order of the sums once for all of them.
// C: kLanes weight rows, or fewer, then the other lanes do the same work again.
template <class Type, int C> struct Strip8x8 {
    static constexpr int kColumns = C;
    static constexpr int kVectors = 1;
    static int64_t bytes(int64_t n_in) { return kColumns * n_in / 32 * (int64_t) sizeof(Block8x8) / kGroup; }

    Strip8x8(const void * weights, int64_t n_in, int64_t column)
        : n_records(n_in / 32),
          first((const Block8x8 *) weights + column / kGroup * n_records),
          second(C > kGroup ? first + n_records : first),
          column(column) {}

    struct Decoded {
        Int w[8];  // values 4i..4i + 3 of each row
        Float scales;
    };

    PMTP_INLINE Decoded read(int64_t r) const {
        if constexpr (C > kGroup) {
            // The hardware sees two streams that end where others begin, so the next two groups are fetched in the
            // order in which they lie.
            fetch_later<2 * sizeof(Block8x8)>(first + 2 * n_records + 2 * r);
        } else {
            fetch_ahead<sizeof(Block8x8), 12 * sizeof(Block8x8)>(&first[r]);
        }
        Decoded d;
        for (int p = 0; p < 2; p++) {
            const Int lower = Type::both(load(first[r].packed[p]));
            const Int upper = Type::both(load(kBytes == 64 ? second[r].packed[p] : first[r].packed[p] + 32));
            const Int quads[] = { even_lanes(lower, upper), odd_lanes(lower, upper) };
            for (int i = 0; i < 2; i++) {
                d.w[2 * p + i] = Type::low(quads[i]);
                d.w[2 * p + i + 4] = Type::high(quads[i]);
            }
        }
        d.scales = mixed_halves(first[r].scales, second[r].scales);
        return d;
    }

    template <int N> PMTP_INLINE static void add(const Decoded & d, const Tile & tile, int64_t r, Float (&sums)[1][N]) {
        const int8_t * values = (const int8_t *) tile.values + r * N * 32;
        typename Type::Dots dots[N];
        PMTP_UNROLL
        for (int n = 0; n < N; n++) {
            dots[n].begin(Type::start(tile.corrections[r * N + n]));
        }
        // A row's products wait for one another: those of the other rows lie between them.
        PMTP_UNROLL
        for (int i = 0; i < 8; i++) {
            PMTP_UNROLL
            for (int n = 0; n < N; n++) {
                dots[n].add_quad(d.w[i], values + n * 32 + 4 * i);
            }
        }
        PMTP_UNROLL
        for (int n = 0; n < N; n++) {
            const Float scale = d.scales * broadcast(tile.scales[r * N + n]);
            sums[0][n] = fma(to_float(dots[n].total()), scale, sums[0][n]);
        }
    }

    template <int N> PMTP_INLINE void finish(const Float (&sums)[1][N], const Tile & tile) const {
        PMTP_UNROLL
        for (int n = 0; n < N; n++) {
            const Float sum = unmixed(sums[0][n]);
            std::memcpy(tile.row(n) + column, &sum, C * sizeof(float));
        }
    }

    const int64_t n_records;
    const Block8x8 * const first;
    const Block8x8 * const second;
    const int64_t column;
};

// One activation row waits for memory, which one block after another and the hardware's own prefetching bring fastest:
// no group beside another, and values in the block's order, so that a row has two lanes. A column's sum is the same
// whole number.
template <class Type> struct LoneStrip8x8 {
    static constexpr int kColumns = kGroup;
    static constexpr int kVectors = kGroup / kLaneRows;
    static int64_t bytes(int64_t n_in) { return n_in / 32 * (int64_t) sizeof(Block8x8); }

    LoneStrip8x8(const void * weights, int64_t n_in, int64_t column)
        : n_records(n_in / 32),
          blocks((const Block8x8 *) weights + column / kGroup * n_records),
          column(column) {}

    struct Decoded {
        Int w[kVectors][4];  // values 8i..8i + 7 of each row
        Float scales[kVectors];
    };

    PMTP_INLINE Decoded read(int64_t r) const {
        const Block8x8 & block = blocks[r];
        Decoded d;
        for (int v = 0; v < kVectors; v++) {
            for (int p = 0; p < 2; p++) {
                const Int packed = Type::both(load(block.packed[p] + v * kBytes));
                d.w[v][p] = Type::low(packed);
                d.w[v][p + 2] = Type::high(packed);
            }
            d.scales[v] = pair_scales(block.scales + v * kLaneRows);
        }
        return d;
    }

    template <int N>
    PMTP_INLINE static void add(const Decoded & d, const Tile & tile, int64_t r, Float (&sums)[kVectors][N]) {
        static_assert(N == 1);
        const Float x_scale = broadcast(tile.scales[r]);
        const Int correction = Type::start(tile.corrections[r]);
        for (int v = 0; v < kVectors; v++) {
            typename Type::Dots dots;
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
            store_even_lanes(tile.row(0) + column + v * kLaneRows, sums[v][0]);
        }
    }

    const int64_t n_records;
    const Block8x8 * const blocks;
    const int64_t column;
};

template <class Type> struct Strips8x8 {
    // With narrower vectors a tile has more to do, in fewer registers, and reading again measured slower.
    static constexpr bool kKeepsDecoded = kBytes == 64;
    template <int N> struct Of {
        using Wide = std::conditional_t<N == 1, LoneStrip8x8<Type>, Strip8x8<Type, kLanes>>;
        using Narrow = std::conditional_t<N == 1, LoneStrip8x8<Type>, Strip8x8<Type, kGroup>>;
    };
};

}  // namespace pmtp::products
