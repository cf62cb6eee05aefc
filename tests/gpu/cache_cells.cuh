// Cells of a KV cache in every format of the attention kernel: drawn, and what their values are.
#pragma once

#include "kernels/attention/cuda/attention.cuh"
#include "turboquant/turboquant.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <random>
#include <vector>

using pmtp::attention::cuda::Format;

inline const char * name_of(Format format) {
    const char * names[] = { "f16", "bf16", "q8_0", "q4_0", "turbo4", "turbo3", "turbo2" };
    return names[(int) format];
}

// Bytes of 64 values.
inline int bytes_of_64(Format format) {
    const int bytes[] = { 128, 128, 68, 36, sizeof(block_turbo4), sizeof(block_turbo3), sizeof(block_turbo2) };
    return bytes[(int) format];
}

inline uint16_t half_of(float x) { return __half_as_ushort(__float2half(x)); }
inline float float_of_half(const uint8_t * at) {
    uint16_t bits;
    std::memcpy(&bits, at, 2);
    return __half2float(__ushort_as_half(bits));
}

// Blocks of 32 values: a half, then signed bytes or nibbles.
inline void encode_q(const float * x, int n_bytes, uint8_t * out) {
    const int most = n_bytes == 32 ? 127 : 7;
    float largest = 0.0f;
    for (int i = 0; i < 32; i++) {
        largest = std::max(largest, std::abs(x[i]));
    }
    const uint16_t scale = half_of(largest / most);
    std::memcpy(out, &scale, 2);
    int values[32];
    for (int i = 0; i < 32; i++) {
        values[i] = std::clamp((int) std::lround(x[i] / float_of_half(out)), -most, most);
    }
    for (int i = 0; i < n_bytes; i++) {
        out[2 + i] = (uint8_t) (n_bytes == 32 ? values[i] : (values[i] + 8) | (values[i + 16] + 8) << 4);
    }
}

inline void encode_64(Format format, turbo_role role, const float * x, uint8_t * out) {
    switch (format) {
        case Format::f16:
        case Format::bf16:
            for (int i = 0; i < 64; i++) {
                uint32_t bits;
                std::memcpy(&bits, x + i, 4);
                const auto stored = format == Format::f16 ? half_of(x[i]) : (uint16_t) (bits >> 16);
                std::memcpy(out + 2 * i, &stored, 2);
            }
            break;
        case Format::q8_0:
        case Format::q4_0:
            for (int b = 0; b < 2; b++) {
                const int n_bytes = format == Format::q8_0 ? 32 : 16;
                encode_q(x + 32 * b, n_bytes, out + b * (n_bytes + 2));
            }
            break;
        default: turbo_encode_ref(4 - ((int) format - (int) Format::turbo4), role, x, out, 64); break;
    }
}

inline void decode_64(Format format, const uint8_t * in, float * x) {
    if (format >= Format::turbo4) {
        turbo_decode_ref(4 - ((int) format - (int) Format::turbo4), in, x, 64);
        return;
    }
    for (int i = 0; i < 64; i++) {
        if (format == Format::f16) {
            x[i] = float_of_half(in + 2 * i);
        } else if (format == Format::bf16) {
            const uint32_t bits = (uint32_t) in[2 * i + 1] << 24 | (uint32_t) in[2 * i] << 16;
            std::memcpy(x + i, &bits, 4);
        } else if (format == Format::q8_0) {
            const uint8_t * block = in + i / 32 * 34;
            x[i] = float_of_half(block) * (int8_t) block[2 + i % 32];
        } else {
            const uint8_t * block = in + i / 32 * 18;
            x[i] = float_of_half(block) * ((block[2 + i % 16] >> (i % 32 / 16 * 4) & 15) - 8);
        }
    }
}

// [cells][heads][head size], as a cache has them.
struct DrawnCells {
    Format format;
    int n_heads, head_size;
    std::vector<uint8_t> bytes;

    DrawnCells(Format format, turbo_role role, int n_cells, int n_heads, int head_size, std::mt19937 & random)
        : format(format),
          n_heads(n_heads),
          head_size(head_size),
          bytes((size_t) n_cells * cell_bytes()) {
        std::normal_distribution<float> normal;
        float x[64];
        for (size_t at = 0; at < bytes.size(); at += bytes_of_64(format)) {
            for (float & value : x) {
                value = normal(random);
            }
            encode_64(format, role, x, &bytes[at]);
        }
    }

    int head_bytes() const { return head_size / 64 * bytes_of_64(format); }
    int cell_bytes() const { return n_heads * head_bytes(); }

    std::vector<float> row(int cell, int head) const {
        std::vector<float> out(head_size);
        for (int b = 0; b < head_size / 64; b++) {
            decode_64(format, &bytes[(size_t) cell * cell_bytes() + head * head_bytes() + b * bytes_of_64(format)],
                      &out[64 * b]);
        }
        return out;
    }
};
