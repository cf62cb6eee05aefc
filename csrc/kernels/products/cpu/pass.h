// A pass over weights, the same for all their types. A type is given by strips: a few weight rows ("columns" of the
// result) that are multiplied together, block by block. A strip has
//
//   kColumns               weight rows
//   kVectors               vectors of sums for an activation row
//   bytes(n_in)            of weights in a strip
//   Strip(weights, n_in, column)
//   n_records              records of activations in a row
//   read(r)                what record r of a tile is multiplied with, decoded into registers
//   add(w, tile, r, sums)  adds its products to the sums [kVectors][rows of the tile]
//   finish(sums, tile)     stores the results
//
// and a choice of strips, besides Of<N> (pass()), kKeepsDecoded: whether several tiles read what was decoded for the
// first of them (Decoded, of read(), is then plain vectors), which pays where decoding takes long beside a tile's
// products. Else each decodes for itself.
//
// Tiles take turns at a strip, so memory is read once; only the first-level cache is read again for each.
#pragma once

#include "kernels/cpu/simd.h"
#include "kernels/products/cpu/kernels.h"

#include <algorithm>
#include <cstdint>
#include <type_traits>
#include <utility>

namespace pmtp::products {

using namespace cpu;

// Activation rows whose products are added in turn where a type leaves few registers: one after the other they wait for
// their own sums.
#if PMTP_SIMD == 64 && defined(PMTP_SIMD_VNNI)
constexpr int kRowsInTurn = kTileRows;
#else
constexpr int kRowsInTurn = 1;
#endif

// The results of a strip: each vector's sum is one, or its neighbouring lanes' sums are.
template <int C, int N> PMTP_INLINE void store_totals(const Float (&sums)[C][N], const Tile & tile, int64_t column) {
    PMTP_UNROLL
    for (int c = 0; c < C; c++) {
        PMTP_UNROLL
        for (int n = 0; n < N; n++) {
            tile.row(n)[column + c] = total(sums[c][n]);
        }
    }
}
template <int V, int N> PMTP_INLINE void store_pairs_of(const Float (&sums)[V][N], const Tile & tile, int64_t column) {
    PMTP_UNROLL
    for (int v = 0; v < V; v++) {
        PMTP_UNROLL
        for (int n = 0; n < N; n++) {
            store_pairs(tile.row(n) + column + v * kLaneRows, sums[v][n]);
        }
    }
}

template <class Strip, int N> PMTP_INLINE void add_strip(const Strip & strip, const Tile & tile) {
    Float sums[Strip::kVectors][N];
    PMTP_UNROLL
    for (auto & of_vector : sums) {
        PMTP_UNROLL
        for (Float & sum : of_vector) {
            sum = zero_float();
        }
    }
    for (int64_t r = 0; r < strip.n_records; r++) {
        strip.template add<N>(strip.read(r), tile, r, sums);
    }
    strip.template finish<N>(sums, tile);
}

// The strips between two columns. Not inlined: beside other widths the compiler runs out of registers.
template <class Strip, int N> __attribute__((noinline)) void add_strips(const void * weights, int64_t n_in,
                                                                        const Tile & tile, int64_t column,
                                                                        int64_t behind) {
    for (; column < behind; column += Strip::kColumns) {
        add_strip<Strip, N>({ weights, n_in, column }, tile);
    }
}

// f with the width of a tile, kMin or more, as a constant.
template <int kMin, class F, int... I> PMTP_INLINE void with_width(int n_rows, F f, std::integer_sequence<int, I...>) {
    (void) ((n_rows == kMin + I && (f(std::integral_constant<int, kMin + I>()), true)) || ...);
}
template <int kMin, class F> PMTP_INLINE void with_width(int n_rows, F f) {
    with_width<kMin>(n_rows, f, std::make_integer_sequence<int, kTileRows - kMin + 1>());
}

// Where there are several tiles none has fewer rows.
constexpr int kLeastOfSeveral = (kTileRows + 1) / 2;

// Of the weights that a tile meets before the next one does: about half of a first-level cache.
constexpr int64_t kGroupBytes = 16 << 10;

// As many strips as fit between column and last; column is then behind them.
template <class Strip, int kMin>
void strips(const void * weights, int64_t n_in, const Tile * tiles, int n_tiles, int64_t & column, int64_t last) {
    const int64_t n_strips = (last - column) / Strip::kColumns;
    const int64_t in_group = std::max<int64_t>(1, kGroupBytes / Strip::bytes(n_in));
    for (int64_t first = 0; first < n_strips; first += in_group) {
        const int64_t behind = column + std::min(first + in_group, n_strips) * Strip::kColumns;
        for (int t = 0; t < n_tiles; t++) {
            with_width<kMin>(tiles[t].n_rows, [&](auto width) {
                add_strips<Strip, width()>(weights, n_in, tiles[t], column + first * Strip::kColumns, behind);
            });
        }
    }
    column += n_strips * Strip::kColumns;
}

// Records that are decoded at a time where several tiles meet them: they and a tile's activations fit a first-level
// cache.
constexpr int64_t kRecordsKept = 32;

// A tile's sums, kept between calls, + the products of n records from r on.
template <class Strip, int N> __attribute__((noinline)) void add_decoded(const typename Strip::Decoded * decoded,
                                                                         int64_t r, int64_t n, const Tile & tile,
                                                                         Float (*kept)[N]) {
    Float sums[Strip::kVectors][N];
    PMTP_UNROLL
    for (int v = 0; v < Strip::kVectors; v++) {
        PMTP_UNROLL
        for (int i = 0; i < N; i++) {
            sums[v][i] = r == 0 ? zero_float() : kept[v][i];
        }
    }
    for (int64_t i = 0; i < n; i++) {
        Strip::template add<N>(decoded[i], tile, r + i, sums);
    }
    PMTP_UNROLL
    for (int v = 0; v < Strip::kVectors; v++) {
        PMTP_UNROLL
        for (int i = 0; i < N; i++) {
            kept[v][i] = sums[v][i];
        }
    }
}

// As strips() does, but weights are decoded once for all tiles.
template <class Strip, int kMin> void decoded_strips(const void * weights, int64_t n_in, const Tile * tiles,
                                                     int n_tiles, int64_t & column, int64_t last) {
    typename Strip::Decoded decoded[kRecordsKept];
    Float sums[kMaxTiles][Strip::kVectors * kTileRows];
    for (; column + Strip::kColumns <= last; column += Strip::kColumns) {
        const Strip strip(weights, n_in, column);
        for (int64_t r = 0; r < strip.n_records; r += kRecordsKept) {
            const int64_t n = std::min(kRecordsKept, strip.n_records - r);
            for (int64_t i = 0; i < n; i++) {
                decoded[i] = strip.read(r + i);
            }
            for (int t = 0; t < n_tiles; t++) {
                with_width<kMin>(tiles[t].n_rows, [&](auto width) {
                    add_decoded<Strip, width()>(decoded, r, n, tiles[t], (Float(*)[width()]) sums[t]);
                });
            }
        }
        for (int t = 0; t < n_tiles; t++) {
            with_width<kMin>(tiles[t].n_rows, [&](auto width) {
                strip.template finish<width()>(*(const Float(*)[Strip::kVectors][width()]) sums[t], tiles[t]);
            });
        }
    }
}

// With strips Choice::Of<N>::Wide as far as they go, then ::Narrow. N: the width of a lone tile, kTileRows for several.
template <class Choice>
void pass(const void * weights, int64_t n_in, const Tile * tiles, int n_tiles, int64_t first, int64_t last) {
    int64_t column = first;
    if (n_tiles > 1) {
        using Strips = typename Choice::template Of<kTileRows>;
        if constexpr (Choice::kKeepsDecoded) {
            decoded_strips<typename Strips::Wide, kLeastOfSeveral>(weights, n_in, tiles, n_tiles, column, last);
            decoded_strips<typename Strips::Narrow, kLeastOfSeveral>(weights, n_in, tiles, n_tiles, column, last);
        } else {
            strips<typename Strips::Wide, kLeastOfSeveral>(weights, n_in, tiles, n_tiles, column, last);
            strips<typename Strips::Narrow, kLeastOfSeveral>(weights, n_in, tiles, n_tiles, column, last);
        }
        return;
    }
    with_width<1>(tiles[0].n_rows, [&](auto width) {
        using Strips = typename Choice::template Of<width()>;
        const int64_t narrow = last - (last - first) % Strips::Wide::kColumns;
        add_strips<typename Strips::Wide, width()>(weights, n_in, tiles[0], first, narrow);
        add_strips<typename Strips::Narrow, width()>(weights, n_in, tiles[0], narrow, last);
    });
}

}  // namespace pmtp::products
