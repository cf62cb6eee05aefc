// Q4_0 as ggml repacks it: 8 weight rows interleaved by 8 bytes.
//
// A 64-bit lane of a decoded vector holds 8 successive values of one weight row. Multiplied with 8 broadcast
// activations, its sum lies in two neighbouring 32-bit lanes, which are added once, at the end.
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

// The scales of V vectors' rows, and their products with the scale of an activation block, each in the two lanes of its
// row.
template <int V> struct Scales {
    Float of_vector[V];
};
template <int V> PMTP_INLINE Scales<V> load_scales(const uint16_t * (&halves)[V]) {
    Scales<V> s;
    for (int v = 0; v < V; v++) {
        s.of_vector[v] = pair_scales(halves[v]);
    }
    return s;
}
template <int V> PMTP_INLINE void multiply_scales(const Scales<V> & s, Float x, Float (&products)[V]) {
    PMTP_UNROLL
    for (int v = 0; v < V; v++) {
        products[v] = s.of_vector[v] * x;
    }
}

#if PMTP_SIMD == 64
// Both vectors' scales in one, as the two halves of each quarter: one multiplication less, which counts.
template <> struct Scales<2> {
    Float of_both;
};
template <> PMTP_INLINE Scales<2> load_scales<2>(const uint16_t * (&halves)[2]) {
    const __m128i a = load_as<__m128i>(halves[0]), b = load_as<__m128i>(halves[1]);
    return { _mm512_cvtph_ps(_mm256_set_m128i(_mm_unpackhi_epi32(a, b), _mm_unpacklo_epi32(a, b))) };
}
template <> PMTP_INLINE void multiply_scales<2>(const Scales<2> & s, Float x, Float (&products)[2]) {
    const Float both = s.of_both * x;
    products[0] = _mm512_unpacklo_ps(both, both);
    products[1] = _mm512_unpackhi_ps(both, both);
}
#endif

template <int V> struct StripQ4_0 {
    static constexpr int kColumns = V * kLaneRows;
    static constexpr int kVectors = V;
    static int64_t bytes(int64_t n_in) { return kColumns * n_in / 32 * (int64_t) sizeof(BlockQ4_0x8) / kGroup; }

    struct Decoded {
        Int w[V][4];  // values + 8
        Scales<V> scales;
    };

    StripQ4_0(const void * weights, int64_t n_in, int64_t column)
        : n_records(n_in / 32),
          blocks((const BlockQ4_0x8 *) weights + column / kGroup * n_records),
          part((int) (column % kGroup) / kLaneRows),
          column(column) {}

    PMTP_INLINE Decoded read(int64_t r) const {
        const Int nibble = broadcast8(0x0f);
        const Int offset = broadcast8(0x08);
        Decoded d;
        const uint16_t * halves[V];
        for (int v = 0; v < V; v++) {
            const int at = part + v;  // parts of a group follow one another
            const BlockQ4_0x8 & block = blocks[at * kLaneRows / kGroup * n_records + r];
            fetch_ahead<sizeof(block), 12 * sizeof(block)>(&block);
            const int p = at % (kGroup / kLaneRows);
            const Int p0 = load(block.packed[0] + p * kBytes);
            const Int p1 = load(block.packed[1] + p * kBytes);
            d.w[v][0] = xor_bits(and_bits(p0, nibble), offset);
            d.w[v][1] = xor_bits(and_bits(p1, nibble), offset);
            d.w[v][2] = xor_bits(high_nibbles(p0), offset);
            d.w[v][3] = xor_bits(high_nibbles(p1), offset);
            halves[v] = block.scales + p * kLaneRows;
        }
        d.scales = load_scales<V>(halves);
        return d;
    }

    template <int N> PMTP_INLINE static void add(const Decoded & d, const Tile & tile, int64_t r, Float (&sums)[V][N]) {
        const int8_t * values = (const int8_t *) tile.values + r * N * 32;
        const float * scales = tile.scales + r * N;
        const int32_t * corrections = tile.corrections + r * N;
        PMTP_UNROLL
        for (int n = 0; n < N; n++) {
            const Float x_scale = broadcast(scales[n]);
            NibbleDots dots[V];
            PMTP_UNROLL
            for (NibbleDots & of_vector : dots) {
                of_vector.begin(broadcast32(corrections[n]));
            }
            PMTP_UNROLL
            for (int i = 0; i < 4; i++) {
                const Int x = broadcast64(values + n * 32 + 8 * i);
                PMTP_UNROLL
                for (int v = 0; v < V; v++) {
                    dots[v].add(d.w[v][i], x);
                }
            }
            Float scales[V];
            multiply_scales<V>(d.scales, x_scale, scales);
            PMTP_UNROLL
            for (int v = 0; v < V; v++) {
                sums[v][n] = fma(to_float(dots[v].total()), scales[v], sums[v][n]);
            }
        }
    }

    template <int N> PMTP_INLINE void finish(const Float (&sums)[V][N], const Tile & tile) const {
        store_pairs_of(sums, tile, column);
    }

    const int64_t n_records;
    const BlockQ4_0x8 * const blocks;
    const int part;
    const int64_t column;
};

// Two groups share the loads of the activations; AVX2 has no registers for it, and one row is bound by memory.
struct Strips {
    template <int N> struct Of {
        using Wide = StripQ4_0<(kBytes == 64 && N > 1) ? 2 : 1>;
        using Narrow = StripQ4_0<1>;
    };
};

}  // namespace

void q4_0_8x8(const void * weights, int64_t n_in, const Tile * tiles, int n_tiles, int64_t first, int64_t last) {
    pass<Strips>(weights, n_in, tiles, n_tiles, first, last);
}

}  // namespace pmtp::products

#endif  // PMTP_SIMD
