// Random weights of every format that the kernels of products.cuh multiply, and what their values are: written after
// ggml-quants.c, not after the kernels' own decoders.
#pragma once

#include "kernels/products/cuda/products.cuh"

#include <cstring>
#include <random>
#include <vector>

// value = scaled - offset; a product takes the offsets out of the sum, times the sum of 32 activations.
struct WeightValue {
    double scaled;
    double offset;
};

struct WeightBlocks {
    WeightFormat format;
    const char * name;
    int n_bytes;              // of 256 values
    std::vector<int> halves;  // where its numbers in f16 are,
    float spread;             // and what they multiply, about
    WeightValue (*value)(const uint8_t * stage, int i);
    bool is_loose = false;  // whether rows are any number of 64 values long
};

namespace weight_blocks {

inline double half_at(const uint8_t * p) {
    half h;
    std::memcpy(&h, p, sizeof(h));
    return __half2float(h);
}

inline int nibble(const uint8_t * quants, int i) { return i < 16 ? quants[i] & 15 : quants[i - 16] >> 4; }

inline WeightValue q4_0(const uint8_t * stage, int i) {
    const uint8_t * block = stage + i / 32 * 18;
    const double d = half_at(block);
    return { d * nibble(block + 2, i % 32), d * 8 };
}

inline WeightValue q4_1(const uint8_t * stage, int i) {
    const uint8_t * block = stage + i / 32 * 20;
    return { half_at(block) * nibble(block + 4, i % 32), -half_at(block + 2) };
}

inline int five_bits(const uint8_t * fifths, const uint8_t * quants, int i) {
    return nibble(quants, i) + 16 * (fifths[i / 8] >> i % 8 & 1);
}

inline WeightValue q5_0(const uint8_t * stage, int i) {
    const uint8_t * block = stage + i / 32 * 22;
    const double d = half_at(block);
    return { d * five_bits(block + 2, block + 6, i % 32), d * 16 };
}

inline WeightValue q5_1(const uint8_t * stage, int i) {
    const uint8_t * block = stage + i / 32 * 24;
    return { half_at(block) * five_bits(block + 4, block + 8, i % 32), -half_at(block + 2) };
}

inline WeightValue q8_0(const uint8_t * stage, int i) {
    const uint8_t * block = stage + i / 32 * 34;
    return { half_at(block) * (int8_t) block[2 + i % 32], 0.0 };
}

constexpr int kLevels[16] = { -127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113 };

inline WeightValue iq4_nl(const uint8_t * stage, int i) {
    const uint8_t * block = stage + i / 32 * 18;
    return { half_at(block) * kLevels[nibble(block + 2, i % 32)], 0.0 };
}

inline WeightValue iq4_xs(const uint8_t * stage, int i) {
    const int group = i / 32;
    const int high = (stage[2] | stage[3] << 8) >> 2 * group & 3;
    const int scale = (stage[4 + group / 2] >> group % 2 * 4 & 15) + 16 * high - 32;
    return { half_at(stage) * scale * kLevels[nibble(stage + 8 + 16 * group, i % 32)], 0.0 };
}

inline WeightValue of_k(const uint8_t * stage, int group, int quant) {
    const uint8_t * s = stage + 4;
    const int scale = group < 4 ? s[group] & 63 : (s[group + 4] & 15) | s[group - 4] >> 6 << 4;
    const int least = group < 4 ? s[group + 4] & 63 : s[group + 4] >> 4 | s[group] >> 6 << 4;
    return { half_at(stage) * scale * quant, half_at(stage + 2) * least };
}

inline WeightValue q4_K(const uint8_t * stage, int i) {
    const int group = i / 32;
    return of_k(stage, group, stage[16 + group / 2 * 32 + i % 32] >> group % 2 * 4 & 15);
}

inline WeightValue q5_K(const uint8_t * stage, int i) {
    const int group = i / 32;
    const int low = stage[48 + group / 2 * 32 + i % 32] >> group % 2 * 4 & 15;
    return of_k(stage, group, low + 16 * (stage[16 + i % 32] >> group & 1));
}

inline WeightValue q6_K(const uint8_t * stage, int i) {
    const int half = i / 128;
    const int quarter = i % 128 / 32;
    const int j = i % 32;
    const int low = stage[64 * half + 32 * (quarter % 2) + j] >> (quarter < 2 ? 0 : 4) & 15;
    const int high = stage[128 + 32 * half + j] >> 2 * quarter & 3;
    return { half_at(stage + 208) * (int8_t) stage[192 + i / 16] * (low + 16 * high - 32), 0.0 };
}

inline WeightValue f16(const uint8_t * stage, int i) { return { half_at(stage + 2 * i), 0.0 }; }

inline WeightValue bf16(const uint8_t * stage, int i) {
    const uint32_t bits = (uint32_t) (stage[2 * i] | stage[2 * i + 1] << 8) << 16;
    float value;
    std::memcpy(&value, &bits, sizeof(value));
    return { value, 0.0 };
}

inline std::vector<int> every(int n) {
    std::vector<int> out;
    for (int i = 0; i < (n == 2 ? 256 : 8); i++) {
        out.push_back(i * n);
    }
    return out;
}

// And the numbers behind those.
inline std::vector<int> twice(std::vector<int> halves) {
    for (size_t i = 0, n = halves.size(); i < n; i++) {
        halves.push_back(halves[i] + 2);
    }
    return halves;
}

}  // namespace weight_blocks

inline const std::vector<WeightBlocks> & all_weight_blocks() {
    using namespace weight_blocks;
    static const std::vector<WeightBlocks> all = {
        { WeightFormat::q4_0, "q4_0", 144, every(18), 5, q4_0, true },
        { WeightFormat::q4_1, "q4_1", 160, twice(every(20)), 9, q4_1, true },
        { WeightFormat::q5_0, "q5_0", 176, every(22), 9, q5_0, true },
        { WeightFormat::q5_1, "q5_1", 192, twice(every(24)), 18, q5_1, true },
        { WeightFormat::q8_0, "q8_0", 272, every(34), 74, q8_0, true },
        { WeightFormat::iq4_nl, "iq4_nl", 144, every(18), 68, iq4_nl, true },
        { WeightFormat::iq4_xs, "iq4_xs", 136, { 0 }, 18 * 68, iq4_xs },
        { WeightFormat::q4_K, "q4_K", 144, { 0, 2 }, 36 * 9, q4_K },
        { WeightFormat::q5_K, "q5_K", 176, { 0, 2 }, 36 * 18, q5_K },
        { WeightFormat::q6_K, "q6_K", 210, { 208 }, 74 * 18, q6_K },
        { WeightFormat::f16, "f16", 512, every(2), 1, f16 },
        { WeightFormat::bf16, "bf16", 512, every(2), 1, bf16 },
    };
    return all;
}

// n stages, of values about .1 large.
inline std::vector<uint8_t> draw_weights(const WeightBlocks & blocks, size_t n, std::mt19937 & random) {
    std::normal_distribution<float> normal(0, 0.1f / blocks.spread);
    std::vector<uint8_t> out(n * blocks.n_bytes);
    for (uint8_t & byte : out) {
        byte = (uint8_t) random();
    }
    for (size_t stage = 0; stage < n; stage++) {
        for (int at : blocks.halves) {
            const float value = normal(random);
            const half h = __float2half(value);
            const void * bits = blocks.format == WeightFormat::bf16 ? (const char *) &value + 2 : (const void *) &h;
            std::memcpy(&out[stage * blocks.n_bytes + at], bits, sizeof(h));
        }
    }
    return out;
}
