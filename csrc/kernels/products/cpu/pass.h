// A pass over weights, the same for all their types. A type is given by strips: a few weight rows ("columns" of the
// result) that are multiplied together. A strip has
//
//   kColumns               weight rows
//   kVectors               vectors of sums for an activation row
//   Strip(weights, n_in, column)
//   n_records              records of activations in a row
//   read(r)                what add() multiplies record r of a tile with, decoded when it is used
//   Decoded                the same, decoded: made from what read() returns
//   add(w, tile, r, sums)  adds the products with record r to the sums [kVectors][rows of the tile]
//   finish(sums, tile)     stores the results
//
// A lone tile meets weights that are decoded into registers. For several tiles a run of decoded records is kept in the
// first-level cache, and the tiles' sums beside it.
#pragma once

#include "kernels/cpu/simd.h"
#include "kernels/products/cpu/kernels.h"

#include <algorithm>
#include <utility>

namespace pmtp::products {

using namespace cpu;

template <class Strip, int N>
void one_tile(const void * weights, int64_t n_in, const Tile & tile, int64_t & column, int64_t last) {
    for (; column + Strip::kColumns <= last; column += Strip::kColumns) {
        const Strip strip(weights, n_in, column);
        Float sums[Strip::kVectors][N];
        for (auto & of_vector : sums) {
            for (Float & sum : of_vector) {
                sum = zero_float();
            }
        }
        for (int64_t r = 0; r < strip.n_records; r++) {
            strip.template add<N>(strip.read(r), tile, r, sums);
        }
        strip.template finish<N>(sums, tile);
    }
}

template <class Strip, int N>
void add_run(const typename Strip::Decoded * run, int n, const Tile & tile, int64_t first, Float * kept) {
    Float sums[Strip::kVectors][N];
    std::memcpy(sums, kept, sizeof(sums));
    for (int i = 0; i < n; i++) {
        Strip::template add<N>(run[i], tile, first + i, sums);
    }
    std::memcpy(kept, sums, sizeof(sums));
}

template <class Strip, int N> void finish_kept(const Strip & strip, const Tile & tile, const Float * kept) {
    Float sums[Strip::kVectors][N];
    std::memcpy(sums, kept, sizeof(sums));
    strip.template finish<N>(sums, tile);
}

// f with the width of a tile as a constant. Where there are several tiles none has fewer rows than kMin.
template <int kMin, class F> PMTP_INLINE void with_width(int n_rows, F f) {
    switch (n_rows) {
#define PMTP_WIDTH(n)                            \
    case n:                                      \
        if constexpr (n >= kMin) {               \
            f(std::integral_constant<int, n>()); \
        }                                        \
        break;
        PMTP_WIDTH(1)
        PMTP_WIDTH(2)
        PMTP_WIDTH(3)
        PMTP_WIDTH(4)
        PMTP_WIDTH(5)
        PMTP_WIDTH(6)
        PMTP_WIDTH(7)
        PMTP_WIDTH(8)
        PMTP_WIDTH(9)
#undef PMTP_WIDTH
    }
}
constexpr int kLeastOfSeveral = (kTileRows + 1) / 2;

template <class Strip> void several_tiles(const void * weights, int64_t n_in, const Tile * tiles, int n_tiles,
                                          int64_t & column, int64_t last) {
    using Decoded = typename Strip::Decoded;
    constexpr int kRun = std::max<int>(1, 16384 / sizeof(Decoded));
    Decoded run[kRun];
    Float sums[kTiles][Strip::kVectors * kTileRows];
    for (; column + Strip::kColumns <= last; column += Strip::kColumns) {
        const Strip strip(weights, n_in, column);
        std::memset(sums, 0, sizeof(sums));
        for (int64_t first = 0; first < strip.n_records; first += kRun) {
            const int n = (int) std::min<int64_t>(kRun, strip.n_records - first);
            for (int i = 0; i < n; i++) {
                run[i] = Decoded(strip.read(first + i));
            }
            for (int t = 0; t < n_tiles; t++) {
                with_width<kLeastOfSeveral>(
                    tiles[t].n_rows, [&](auto width) { add_run<Strip, width()>(run, n, tiles[t], first, sums[t]); });
            }
        }
        for (int t = 0; t < n_tiles; t++) {
            with_width<kLeastOfSeveral>(tiles[t].n_rows,
                                        [&](auto width) { finish_kept<Strip, width()>(strip, tiles[t], sums[t]); });
        }
    }
}

// With strips Choice::Of<N>::Wide as far as they go, then ::Narrow. N: the width of a lone tile, kTileRows for several.
template <class Choice>
void pass(const void * weights, int64_t n_in, const Tile * tiles, int n_tiles, int64_t first, int64_t last) {
    int64_t column = first;
    if (n_tiles > 1) {
        several_tiles<typename Choice::template Of<kTileRows>::Wide>(weights, n_in, tiles, n_tiles, column, last);
        several_tiles<typename Choice::template Of<kTileRows>::Narrow>(weights, n_in, tiles, n_tiles, column, last);
        return;
    }
    with_width<1>(tiles[0].n_rows, [&](auto width) {
        one_tile<typename Choice::template Of<width()>::Wide, width()>(weights, n_in, tiles[0], column, last);
        one_tile<typename Choice::template Of<width()>::Narrow, width()>(weights, n_in, tiles[0], column, last);
    });
}

}  // namespace pmtp::products
