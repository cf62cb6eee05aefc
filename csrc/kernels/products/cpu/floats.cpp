// Weights that are floats of some kind. A vector holds successive values of one weight row; activations are not
// rounded, and the lanes are added once, at the end.
#include "kernels/cpu/half.h"
#include "kernels/cpu/simd.h"

#ifdef PMTP_SIMD

#include "kernels/products/cpu/pass.h"

namespace pmtp::products {
namespace {

struct F32 {
    using Value = float;
    PMTP_INLINE static Float load(const float * p) { return load_floats(p); }
};
struct F16 {
    using Value = uint16_t;
    PMTP_INLINE static Float load(const uint16_t * p) { return load_halves(p); }
};
struct BF16 {
    using Value = uint16_t;
    PMTP_INLINE static Float load(const uint16_t * p) { return load_bfloats(p); }
};

constexpr int kVectorsOfRecord = 32 / kLanes;

template <class Type, int C> struct StripFloats {
    static constexpr int kColumns = C;
    static constexpr int kVectors = C;
    static int64_t bytes(int64_t n_in) { return C * n_in * (int64_t) sizeof(typename Type::Value); }

    struct Decoded {
        Float w[C][kVectorsOfRecord];
    };

    StripFloats(const void * weights, int64_t n_in, int64_t column)
        : n_records(n_in / 32),
          values((const typename Type::Value *) weights + column * n_in),
          column(column) {}

    PMTP_INLINE Decoded read(int64_t r) const {
        // One column follows the other; of several at a time each is fetched for the next group.
        const int64_t ahead = C == 1 ? 1024 : C * n_records * 32;
        Decoded d;
        for (int c = 0; c < C; c++) {
            const auto * record = values + (c * n_records + r) * 32;
            fetch_ahead<32 * sizeof(*record), 0>(record + ahead);
            for (int v = 0; v < kVectorsOfRecord; v++) {
                d.w[c][v] = Type::load(record + v * kLanes);
            }
        }
        return d;
    }

    template <int N> PMTP_INLINE static void add(const Decoded & d, const Tile & tile, int64_t r, Float (&sums)[C][N]) {
        PMTP_UNROLL
        for (int n = 0; n < N; n++) {
            PMTP_UNROLL
            for (int v = 0; v < kVectorsOfRecord; v++) {
                const Float x = load_floats((const float *) tile.values + (r * N + n) * 32 + v * kLanes);
                PMTP_UNROLL
                for (int c = 0; c < C; c++) {
                    sums[c][n] = fma(d.w[c][v], x, sums[c][n]);
                }
            }
        }
    }

    template <int N> PMTP_INLINE void finish(const Float (&sums)[C][N], const Tile & tile) const {
        store_totals(sums, tile, column);
    }

    const int64_t n_records;
    const typename Type::Value * const values;
    const int64_t column;
};

// As many columns as there are registers for; one row is bound by memory, which is read best from end to end.
template <class Type> struct Strips {
    static constexpr bool kKeepsDecoded = false;
    template <int N> struct Of {
        using Wide = StripFloats<Type, N == 1 ? 1 : N <= (kBytes == 64 ? 4 : 2) ? 4 : kBytes == 64 ? 2 : 1>;
        using Narrow = StripFloats<Type, 1>;
    };
};

}  // namespace

void f32(const void * weights, int64_t n_in, const Tile * tiles, int n_tiles, int64_t first, int64_t last) {
    pass<Strips<F32>>(weights, n_in, tiles, n_tiles, first, last);
}
void f16(const void * weights, int64_t n_in, const Tile * tiles, int n_tiles, int64_t first, int64_t last) {
    pass<Strips<F16>>(weights, n_in, tiles, n_tiles, first, last);
}
void bf16(const void * weights, int64_t n_in, const Tile * tiles, int n_tiles, int64_t first, int64_t last) {
    pass<Strips<BF16>>(weights, n_in, tiles, n_tiles, first, last);
}

}  // namespace pmtp::products

#endif  // PMTP_SIMD
