// Weights that ggml has repacked: 8 rows interleaved by 8 bytes.
//
// A 64-bit lane of a decoded vector holds 8 successive values of one weight row. Multiplied with 8 broadcast
// activations, its sum lies in two neighbouring 32-bit lanes, which are added once, at the end.
#include "kernels/cpu/simd.h"
#include "kernels/products/cpu/kernels.h"

#include <cstddef>

#ifdef PMTP_SIMD

namespace pmtp::products {
namespace {

using namespace cpu;

// Weight rows in a block.
constexpr int kColumns = 8;
// Vectors that hold one group of values of all of them.
constexpr int kParts = kColumns / kLaneRows;

// Low nibbles: values 0..15 of a row, high ones 16..31, in two's complement.
struct BlockQ4_0x8 {
    uint16_t scales[kColumns];
    uint8_t packed[2][64];
};
static_assert(sizeof(BlockQ4_0x8) == 144, "ggml's block_q4_0x8");

template <int G, int N>
void q4_0_groups(const BlockQ4_0x8 * weights, int part, int64_t n_blocks, const Row * rows, int64_t column) {
    const Int nibble = broadcast8(0x0f);
    const Int offset = broadcast8(0x08);
    Float sums[G][N];
    for (auto & group : sums) {
        for (Float & sum : group) {
            sum = zero_float();
        }
    }
    for (int64_t b = 0; b < n_blocks; b++) {
        Int w[G][4];
        Float scale[G];
        for (int g = 0; g < G; g++) {
            const BlockQ4_0x8 & block = weights[g * n_blocks + b];
            fetch_ahead<sizeof(block), 12 * sizeof(block)>(&block);
            const Int p0 = load(block.packed[0] + part * kBytes);
            const Int p1 = load(block.packed[1] + part * kBytes);
            w[g][0] = xor_bits(and_bits(p0, nibble), offset);
            w[g][1] = xor_bits(and_bits(p1, nibble), offset);
            w[g][2] = xor_bits(high_nibbles(p0), offset);
            w[g][3] = xor_bits(high_nibbles(p1), offset);
            scale[g] = pair_scales(block.scales + part * kLaneRows);
        }
        for (int n = 0; n < N; n++) {
            const int8_t * values = rows[n].values + b * 32;
            const Float d = broadcast(rows[n].scales[b]);
            Int dots[G];
            for (Int & sum : dots) {
                sum = broadcast32(rows[n].corrections[b]);
            }
            for (int i = 0; i < 4; i++) {
                const Int v = broadcast64(values + 8 * i);
                for (int g = 0; g < G; g++) {
                    dots[g] = dot(dots[g], w[g][i], v);
                }
            }
            for (int g = 0; g < G; g++) {
                sums[g][n] = fma(to_float(dots[g]), scale[g] * d, sums[g][n]);
            }
        }
    }
    for (int g = 0; g < G; g++) {
        for (int n = 0; n < N; n++) {
            store_pairs(rows[n].result + column + g * kColumns + part * kLaneRows, sums[g][n]);
        }
    }
}

template <int N> void q4_0_rows(const void * weights, int64_t n_in, const Row * rows, int64_t first, int64_t last) {
    const int64_t n_blocks = n_in / 32;
    const BlockQ4_0x8 * blocks = (const BlockQ4_0x8 *) weights;
    // Two groups share the loads of the activations; AVX2 has no registers for it, and one row is bound by memory.
    constexpr int kGroups = kBytes == 64 && N > 1 ? 2 : 1;
    int64_t column = first;
    for (; column + kGroups * kColumns <= last; column += kGroups * kColumns) {
        for (int part = 0; part < kParts; part++) {
            q4_0_groups<kGroups, N>(blocks + column / kColumns * n_blocks, part, n_blocks, rows, column);
        }
    }
    for (; column < last; column += kColumns) {
        for (int part = 0; part < kParts; part++) {
            q4_0_groups<1, N>(blocks + column / kColumns * n_blocks, part, n_blocks, rows, column);
        }
    }
}

// Eight sub-blocks of 32 values: value = d * scale * nibble - dmin * min. 32 packed bytes of a row hold two sub-blocks.
struct BlockQ4_Kx8 {
    uint16_t d[kColumns];
    uint16_t dmin[kColumns];
    uint8_t scales[8][12];
    uint8_t packed[16][64];
};
static_assert(sizeof(BlockQ4_Kx8) == 1152, "ggml's block_q4_Kx8");

// The 6-bit scales and mins of one sub-block, a byte a weight row.
void unpack_scales(const uint8_t * packed, uint64_t & scales, uint64_t & mins) {
    const uint32_t a = load_as<uint32_t>(packed);
    const uint32_t b = load_as<uint32_t>(packed + 4);
    const uint32_t c = load_as<uint32_t>(packed + 8);
    const uint32_t scales_high = (c & 0x0f0f0f0f) | ((a >> 2) & 0x30303030);
    const uint32_t mins_high = ((c >> 4) & 0x0f0f0f0f) | ((b >> 2) & 0x30303030);
    scales = (a & 0x3f3f3f3f) | (uint64_t) scales_high << 32;
    mins = (b & 0x3f3f3f3f) | (uint64_t) mins_high << 32;
}

// P vectors' worth of the rows, from `part` on, in one pass.
template <int P, int N>
void q4_K_parts(const BlockQ4_Kx8 * weights, int part, int64_t n_blocks, const Row * rows, int64_t column) {
    const Int nibble = broadcast8(0x0f);
    Float sums[P][N];
    for (auto & of_part : sums) {
        for (Float & sum : of_part) {
            sum = zero_float();
        }
    }
    for (int64_t b = 0; b < n_blocks; b++) {
        const BlockQ4_Kx8 & block = weights[b];
        fetch_ahead<sizeof(block), 2 * sizeof(block)>(&block);
        Int dots[P][N];
        Int mins[P][2];  // 64-bit lane r: four successive 16-bit mins of row r
        for (int p = 0; p < P; p++) {
            for (Int & sum : dots[p]) {
                sum = zero();
            }
            mins[p][0] = mins[p][1] = zero();
        }
        for (int s = 0; s < 8; s++) {
            uint64_t scale_bytes, min_bytes;
            unpack_scales(block.scales[s], scale_bytes, min_bytes);
            for (int p = 0; p < P; p++) {
                const int shift = (part + p) * 32;
                const Int scale = dots_scale(even_lanes_twice(widen8to64(scale_bytes >> shift)));
                mins[p][s / 4] = or_bits(mins[p][s / 4], shift_left64(widen8to64(min_bytes >> shift), 16 * (s % 4)));
                Int w[4];
                for (int i = 0; i < 4; i++) {
                    const Int packed = load(block.packed[s / 2 * 4 + i] + (part + p) * kBytes);
                    w[i] = s % 2 == 0 ? and_bits(packed, nibble) : high_nibbles(packed);
                }
                for (int n = 0; n < N; n++) {
                    dots[p][n] = add_scaled_dots(dots[p][n], w, rows[n].values + b * 256 + s * 32, scale);
                }
            }
        }
        for (int p = 0; p < P; p++) {
            const Float d = pair_scales(block.d + (part + p) * kLaneRows);
            const Float dmin = pair_scales(block.dmin + (part + p) * kLaneRows);
            for (int n = 0; n < N; n++) {
                const int16_t * sums32 = rows[n].sums32 + b * 8;
                const Int min =
                    dot16(dot16(zero(), mins[p][0], broadcast64(sums32)), mins[p][1], broadcast64(sums32 + 4));
                const Float scale = broadcast(rows[n].scales[b]);
                sums[p][n] = fma(to_float(dots[p][n]), d * scale, sums[p][n]);
                sums[p][n] = fnma(to_float(min), dmin * scale, sums[p][n]);
            }
        }
    }
    for (int p = 0; p < P; p++) {
        for (int n = 0; n < N; n++) {
            store_pairs(rows[n].result + column + (part + p) * kLaneRows, sums[p][n]);
        }
    }
}

template <int N> void q4_K_rows(const void * weights, int64_t n_in, const Row * rows, int64_t first, int64_t last) {
    const int64_t n_blocks = n_in / 256;
    // Parts at once, as far as there are registers.
    constexpr int kAtOnce = N <= 2 ? kParts : 1;
    for (int64_t column = first; column < last; column += kColumns) {
        for (int part = 0; part < kParts; part += kAtOnce) {
            q4_K_parts<kAtOnce, N>((const BlockQ4_Kx8 *) weights + column / kColumns * n_blocks, part, n_blocks, rows,
                                   column);
        }
    }
}

}  // namespace

Kernel q4_0_8x8(int n_rows) {
    static constexpr Kernel by_rows[kMaxRows] = { q4_0_rows<1>, q4_0_rows<2>, q4_0_rows<3>, q4_0_rows<4>, q4_0_rows<5>,
                                                  q4_0_rows<6>, q4_0_rows<7>, q4_0_rows<8>, q4_0_rows<9> };
    return by_rows[n_rows - 1];
}

Kernel q4_K_8x8(int n_rows) {
    static constexpr Kernel by_rows[kMaxRows] = { q4_K_rows<1>, q4_K_rows<2>, q4_K_rows<3>, q4_K_rows<4>, q4_K_rows<5>,
                                                  q4_K_rows<6>, q4_K_rows<7>, q4_K_rows<8>, q4_K_rows<9> };
    return by_rows[n_rows - 1];
}

}  // namespace pmtp::products

#endif  // PMTP_SIMD
