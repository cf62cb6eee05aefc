// What the checks of products know of the types: every value of a block by a plain formula, and random weights.
#pragma once

#include "kernels/cpu/half.h"
#include "kernels/cpu/simd.h"
#include "kernels/products/cpu/kernels.h"

#include <cstdint>
#include <cstring>
#include <random>
#include <vector>

#ifdef PMTP_SIMD

using namespace pmtp::cpu;
using namespace pmtp::products;

using Bytes = std::vector<uint8_t>;

static std::mt19937 random_bits(1);

static double half_at(const uint8_t * p) { return half_to_float(load_as<uint16_t>(p)); }

// Weight `i` of block `block`, weight row `lane` of it.
static double q4_0(const uint8_t * block, int lane, int i) {
    const uint8_t byte = block[16 + i % 16 / 8 * 64 + lane * 8 + i % 8] ^ 0x88;  // as ggml repacks it
    return half_at(block + 2 * lane) * ((i < 16 ? byte & 15 : byte >> 4) - 8);
}
static double q4_K(const uint8_t * block, int lane, int i) {
    const int s = i / 32;
    const uint8_t * packed = block + 32 + 12 * s;
    const uint8_t low = packed[lane % 4], min_low = packed[4 + lane % 4], high = packed[8 + lane % 4];
    const int scale = lane < 4 ? low & 63 : (high & 15) | (low >> 6) << 4;
    const int min = lane < 4 ? min_low & 63 : high >> 4 | (min_low >> 6) << 4;
    const uint8_t byte = block[128 + (s / 2 * 4 + i % 32 / 8) * 64 + lane * 8 + i % 8];
    return half_at(block + 2 * lane) * scale * (s % 2 == 0 ? byte & 15 : byte >> 4) -
           half_at(block + 16 + 2 * lane) * min;
}
static double q8_0_value(const uint8_t * block, int, int i) { return half_at(block) * (int8_t) block[2 + i]; }
static double q6_K_value(const uint8_t * block, int, int i) {
    const int half = i / 128, l = i % 64, quarter = i % 128 / 32;
    const uint8_t low = block[64 * half + l], high = block[128 + 32 * half + i % 32];
    const int q = (quarter < 2 ? low & 15 : low >> 4) | (high >> (2 * quarter) & 3) << 4;
    return half_at(block + 208) * (int8_t) block[192 + i / 16] * (q - 32);
}

static double q5_0_value(const uint8_t * block, int, int i) {
    const uint8_t byte = block[6 + i % 16];
    const int high = load_as<uint32_t>(block + 2) >> i & 1;
    return half_at(block) * ((i < 16 ? byte & 15 : byte >> 4) + 16 * high - 16);
}
static double q5_1_value(const uint8_t * block, int, int i) {
    const uint8_t byte = block[8 + i % 16];
    const int high = load_as<uint32_t>(block + 4) >> i & 1;
    return half_at(block) * ((i < 16 ? byte & 15 : byte >> 4) + 16 * high) + half_at(block + 2);
}
static double q4_1_value(const uint8_t * block, int, int i) {
    const uint8_t byte = block[4 + i % 16];
    return half_at(block) * (i < 16 ? byte & 15 : byte >> 4) + half_at(block + 2);
}
static double q5_K_value(const uint8_t * block, int, int i) {
    const int s = i / 32, l = i % 32;
    const uint8_t * packed = block + 4;
    const int scale = s < 4 ? packed[s] & 63 : (packed[s + 4] & 15) | packed[s - 4] >> 6 << 4;
    const int min = s < 4 ? packed[s + 4] & 63 : packed[s + 4] >> 4 | packed[s] >> 6 << 4;
    const uint8_t byte = block[48 + s / 2 * 32 + l];
    const int q = (s % 2 == 0 ? byte & 15 : byte >> 4) + 16 * (block[16 + l] >> s & 1);
    return half_at(block) * scale * q - half_at(block + 2) * min;
}
static double q3_K_value(const uint8_t * block, int, int i) {
    const int s = i / 16, l = i % 32, half = i / 128, quarter = i % 128 / 32;
    const uint8_t * packed = block + 96;
    const int low = s < 8 ? packed[s] & 15 : packed[s - 8] >> 4;
    const int scale = (low | (packed[8 + s % 4] >> (2 * (s / 4)) & 3) << 4) - 32;
    const int q = (block[32 + 32 * half + l] >> (2 * quarter) & 3) + 4 * (block[l] >> (i / 32) & 1);
    return half_at(block + 108) * scale * (q - 4);
}
static const int iq4_values[] = { -127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113 };
static double iq4_nl_value(const uint8_t * block, int, int i) {
    const uint8_t byte = block[2 + i % 16];
    return half_at(block) * iq4_values[i < 16 ? byte & 15 : byte >> 4];
}
static double iq4_nl_8x8_value(const uint8_t * block, int lane, int i) {
    const uint8_t byte = block[16 + i % 16 / 8 * 64 + lane * 8 + i % 8];
    return half_at(block + 2 * lane) * iq4_values[i < 16 ? byte & 15 : byte >> 4];
}
static double iq4_xs_value(const uint8_t * block, int, int i) {
    const int s = i / 32;
    const int low = block[4 + s / 2] >> (4 * (s % 2)) & 15, high = load_as<uint16_t>(block + 2) >> (2 * s) & 3;
    const uint8_t byte = block[8 + 16 * s + i % 16];
    return half_at(block) * ((low | high << 4) - 32) * iq4_values[i % 32 < 16 ? byte & 15 : byte >> 4];
}

static double f32_value(const uint8_t * block, int, int i) { return load_as<float>(block + 4 * i); }
static double f16_value(const uint8_t * block, int, int i) { return half_at(block + 2 * i); }
static double bf16_value(const uint8_t * block, int, int i) {
    const uint32_t bits = (uint32_t) load_as<uint16_t>(block + 2 * i) << 16;
    return load_as<float>(&bits);
}

// What is a number in a block: random bytes could be infinite.
enum class Number { half, single, bfloat };

struct Type {
    const char * name;
    Kernel kernel;
    Coding coding;
    int size, lanes, bytes;  // values of a weight row, weight rows and bytes in a block
    Number number;
    int numbers_at, n_numbers;
    double (*value)(const uint8_t *, int, int);
};

static const Type types[] = {
    { "q4_0", q4_0_8x8, Coding::zero_point, 32, 8, 144, Number::half, 0, 8, q4_0 },
    { "q4_K", q4_K_8x8, Coding::super, 256, 8, 1152, Number::half, 0, 16, q4_K },
    { "q8_0", q8_0, Coding::wide_zero_point, 32, 1, 34, Number::half, 0, 1, q8_0_value },
    { "q6_K", q6_K, Coding::super, 256, 1, 210, Number::half, 208, 1, q6_K_value },
    { "q5_0", q5_0, Coding::plain, 32, 1, 22, Number::half, 0, 1, q5_0_value },
    { "q5_1", q5_1, Coding::plain, 32, 1, 24, Number::half, 0, 2, q5_1_value },
    { "q4_1", q4_1, Coding::plain, 32, 1, 20, Number::half, 0, 2, q4_1_value },
    { "q5_K", q5_K, Coding::super, 256, 1, 176, Number::half, 0, 2, q5_K_value },
    { "q3_K", q3_K, Coding::super, 256, 1, 110, Number::half, 108, 1, q3_K_value },
    { "iq4_nl", iq4_nl, Coding::plain, 32, 1, 18, Number::half, 0, 1, iq4_nl_value },
    { "iq4_nl_8x8", iq4_nl_8x8, Coding::wide_zero_point, 32, 8, 144, Number::half, 0, 8, iq4_nl_8x8_value },
    { "iq4_xs", iq4_xs, Coding::super, 256, 1, 136, Number::half, 0, 1, iq4_xs_value },
    { "f32", f32, Coding::floats, 32, 1, 128, Number::single, 0, 32, f32_value },
    { "f16", f16, Coding::floats, 32, 1, 64, Number::half, 0, 32, f16_value },
    { "bf16", bf16, Coding::floats, 32, 1, 64, Number::bfloat, 0, 32, bf16_value },
};

static Bytes random_weights(const Type & type, int n_blocks) {
    Bytes weights((size_t) n_blocks * type.bytes);
    for (uint8_t & byte : weights) {
        byte = (uint8_t) random_bits();
    }
    for (size_t block = 0; block < weights.size(); block += type.bytes) {
        for (int i = 0; i < type.n_numbers; i++) {
            const float number = 0.001f * (1 + random_bits() % 50) * (type.size == 32 && random_bits() % 2 ? -1 : 1);
            const uint16_t half = _cvtss_sh(number, 0), bfloat = (uint16_t) (load_as<uint32_t>(&number) >> 16);
            uint8_t * at = &weights[block + type.numbers_at];
            switch (type.number) {
                case Number::half: std::memcpy(at + 2 * i, &half, 2); break;
                case Number::single: std::memcpy(at + 4 * i, &number, 4); break;
                case Number::bfloat: std::memcpy(at + 2 * i, &bfloat, 2); break;
            }
        }
    }
    return weights;
}

#endif  // PMTP_SIMD
