// Keys and values as operands of tensor-core instructions, decoded from blocks in shared memory. A format is a functor:
//
//   kBytes               of 64 values, two-byte aligned
//   keys(block, t, out)  16 of a cell's values, in pairs: those that lane t of 4 has of the four 16-deep steps
//   place(q, i)          where value 4 t + 16 q + i of a block is among lane t's 16; with f16 and bf16 value 8 t +
//                        4 (q % 2) + 32 (q / 2) + i
//   values(a, b, g, out) 8 dimensions of two cells, paired by dimension: those that lane g of 8 has of four 16-wide
//                        tiles
//   dim(g, run)          the dimension of the lane's first (run 0) and fifth (run 1); three follow each
//   kOneScale            whether keys() and values() leave out the block's scale, which it begins with
#pragma once

#include "turboquant/codebook.h"
#include "turboquant/turboquant.h"

#include <cuda_fp16.h>

#include <cstdint>

namespace pmtp::attention::cuda {

// Bytes of two words, chosen by the nibbles of the low half of `choice`; bit 3 of a nibble: its sign bit eight times.
__device__ __forceinline__ uint32_t bytes_of(uint32_t a, uint32_t b, uint32_t choice) {
    uint32_t out;
    asm("prmt.b32 %0, %1, %2, %3;" : "=r"(out) : "r"(a), "r"(b), "r"(choice));
    return out;
}

__device__ __forceinline__ uint32_t half_word(const char * at) { return *(const uint16_t *) at; }
__device__ __forceinline__ uint32_t byte(const char * at) { return *(const uint8_t *) at; }
__device__ __forceinline__ uint32_t word(const char * at) { return half_word(at) | half_word(at + 2) << 16; }

__device__ __forceinline__ half2 as_halves(uint32_t x) { return *(const half2 *) &x; }
__device__ __forceinline__ uint32_t as_word(half2 x) { return *(const uint32_t *) &x; }
__device__ __forceinline__ uint32_t times(uint32_t x, half2 scale) { return as_word(__hmul2(as_halves(x), scale)); }

__device__ __forceinline__ half2 scale_of(const char * block) {
    return __half2half2(__ushort_as_half(*(const uint16_t *) block));
}
__device__ __forceinline__ half2 scales_of(const char * a, const char * b) {
    return as_halves(half_word(a) | half_word(b) << 16);
}

struct F16 {
    static constexpr bool kOneScale = false;
    static constexpr int kBytes = 128;
    static __device__ constexpr int place(int q, int i) { return 4 * q + i; }
    static __device__ __forceinline__ int dim(int g, int run) { return 8 * g + 4 * run; }

    static __device__ __forceinline__ void keys(const char * block, int t, uint32_t (&out)[8]) {
        const uint4 x = *(const uint4 *) (block + 16 * t), y = *(const uint4 *) (block + 64 + 16 * t);
        const uint32_t all[8] = { x.x, x.y, x.z, x.w, y.x, y.y, y.z, y.w };
#pragma unroll
        for (int i = 0; i < 8; i++) {
            out[i] = all[i];
        }
    }

    static __device__ __forceinline__ void values(const char * a, const char * b, int g, uint32_t (&out)[8]) {
        const uint4 x = *(const uint4 *) (a + 16 * g), y = *(const uint4 *) (b + 16 * g);
        const uint32_t of_a[4] = { x.x, x.y, x.z, x.w }, of_b[4] = { y.x, y.y, y.z, y.w };
#pragma unroll
        for (int i = 0; i < 4; i++) {
            out[2 * i] = bytes_of(of_a[i], of_b[i], 0x5410);
            out[2 * i + 1] = bytes_of(of_a[i], of_b[i], 0x7632);
        }
    }
};

struct BF16 : F16 {
    // Of the low and the high half of a word and of another.
    static __device__ __forceinline__ uint32_t halves(uint32_t low, uint32_t high) {
        return as_word(__floats2half2_rn(__uint_as_float(low), __uint_as_float(high)));
    }

    static __device__ __forceinline__ void keys(const char * block, int t, uint32_t (&out)[8]) {
        uint32_t raw[8];
        F16::keys(block, t, raw);
#pragma unroll
        for (int i = 0; i < 8; i++) {
            out[i] = halves(raw[i] << 16, raw[i] & 0xffff0000);
        }
    }

    static __device__ __forceinline__ void values(const char * a, const char * b, int g, uint32_t (&out)[8]) {
        uint32_t raw[8];
        F16::values(a, b, g, raw);
#pragma unroll
        for (int i = 0; i < 8; i++) {
            out[i] = halves(raw[i] << 16, raw[i] & 0xffff0000);
        }
    }
};

// A byte b in each half becomes the number 1024 + b if 0x64 stands above it.
constexpr uint32_t k1024 = 0x64646464, k1024InHalves = 0x64006400;

__device__ __forceinline__ uint32_t less(uint32_t x, float by) {
    return as_word(__hsub2(as_halves(x), __float2half2_rn(by)));
}

// Blocks of 32 values: a scale and 32 signed bytes.
struct Q8_0 {
    static constexpr bool kOneScale = false;
    static constexpr int kBytes = 68, kBlock = 34;
    static __device__ constexpr int place(int q, int i) { return 4 * q + i; }
    static __device__ __forceinline__ int dim(int g, int run) { return 8 * g + 4 * run; }

    static __device__ __forceinline__ void keys(const char * block, int t, uint32_t (&out)[8]) {
#pragma unroll
        for (int q = 0; q < 4; q++) {
            const char * at = block + q / 2 * kBlock;
            const half2 scale = scale_of(at);
            const uint32_t x = word(at + 2 + q % 2 * 16 + 4 * t) ^ 0x80808080;
            out[2 * q] = times(less(bytes_of(x, k1024, 0x4140), 1152), scale);
            out[2 * q + 1] = times(less(bytes_of(x, k1024, 0x4342), 1152), scale);
        }
    }

    static __device__ __forceinline__ void values(const char * a, const char * b, int g, uint32_t (&out)[8]) {
        const int at = g / 4 * kBlock;
        const half2 scales = scales_of(a + at, b + at);
#pragma unroll
        for (int i = 0; i < 4; i++) {
            const int from = at + 2 + g % 4 * 8 + 2 * i;
            const uint32_t x = bytes_of(half_word(a + from), half_word(b + from), 0x5140) ^ 0x80808080;
            out[2 * i] = times(less(bytes_of(x, k1024, 0x4140), 1152), scales);
            out[2 * i + 1] = times(less(bytes_of(x, k1024, 0x4342), 1152), scales);
        }
    }
};

// Blocks of 32 values: a scale and 16 bytes, value i in the low half of byte i and i + 16 in the high half, plus 8.
struct Q4_0 {
    static constexpr bool kOneScale = false;
    static constexpr int kBytes = 36, kBlock = 18;
    static __device__ constexpr int place(int q, int i) { return 4 * q + (i == 1 ? 2 : i == 2 ? 1 : i); }
    static __device__ __forceinline__ int dim(int g, int run) { return 32 * (g / 4) + 16 * run + 4 * (g % 4); }

    // The nibbles at bits 0 and 16.
    static __device__ __forceinline__ uint32_t two(uint32_t x, half2 scale) {
        return times(less((x & 0x000f000f) | k1024InHalves, 1032), scale);
    }

    static __device__ __forceinline__ void keys(const char * block, int t, uint32_t (&out)[8]) {
#pragma unroll
        for (int h = 0; h < 2; h++) {
            const half2 scale = scale_of(block + h * kBlock);
            const uint32_t x = word(block + h * kBlock + 2 + 4 * t);
            out[4 * h] = two(x, scale);
            out[4 * h + 1] = two(x >> 8, scale);
            out[4 * h + 2] = two(x >> 4, scale);
            out[4 * h + 3] = two(x >> 12, scale);
        }
    }

    static __device__ __forceinline__ void values(const char * a, const char * b, int g, uint32_t (&out)[8]) {
        const int at = g / 4 * kBlock;
        const half2 scales = scales_of(a + at, b + at);
#pragma unroll
        for (int i = 0; i < 2; i++) {
            const int from = at + 2 + g % 4 * 4 + 2 * i;
            const uint32_t x = half_word(a + from) | half_word(b + from) << 16;
            out[2 * i] = two(x, scales);
            out[2 * i + 1] = two(x >> 8, scales);
            out[4 + 2 * i] = two(x >> 4, scales);
            out[5 + 2 * i] = two(x >> 12, scales);
        }
    }
};

// The bits of a positive normal number as a half, rounded to nearest.
__device__ constexpr uint32_t half_bits(double x) {
    int exponent = 15;
    for (; x >= 2; x /= 2) {
        exponent++;
    }
    for (; x < 1; x *= 2) {
        exponent--;
    }
    const double mantissa = (x - 1) * 1024;
    const auto whole = (uint32_t) mantissa;
    return ((uint32_t) exponent << 10) + whole + (mantissa - whole >= 0.5);
}

// A codebook's levels, two bits' 4, three bits' 8, or the positive 8 of four bits', as halves.
template <int bits> __device__ constexpr uint32_t level_bits(int i) {
    if (bits == 4) {
        return half_bits(turbo4_levels[i]);
    }
    constexpr int kHalf = bits == 3 ? 4 : 2;
    const int magnitude = i < kHalf ? kHalf - 1 - i : i - kHalf;
    return half_bits(bits == 3 ? turbo3_levels[magnitude] : turbo2_levels[magnitude]) | (i < kHalf ? 0x8000u : 0u);
}

// Low (part 0) or high (1) bytes of levels first .. first + 3.
template <int bits> __device__ constexpr uint32_t level_bytes(int first, int part) {
    uint32_t out = 0;
    for (int i = 0; i < 4; i++) {
        out |= (level_bits<bits>(first + i) >> 8 * part & 0xff) << 8 * i;
    }
    return out;
}

// Low and high bytes of four levels, whose numbers are the nibbles of the low half of `indices`.
template <int bits> __device__ __forceinline__ void look_up(uint32_t indices, uint32_t & low, uint32_t & high) {
    constexpr int kSecond = bits == 2 ? 0 : 4;
    constexpr uint32_t kLow0 = level_bytes<bits>(0, 0), kLow1 = level_bytes<bits>(kSecond, 0),
                       kHigh0 = level_bytes<bits>(0, 1), kHigh1 = level_bytes<bits>(kSecond, 1);
    low = bytes_of(kLow0, kLow1, indices);
    high = bytes_of(kHigh0, kHigh1, indices);
}

struct Turbo4 {
    static constexpr bool kOneScale = true;
    static constexpr int kBytes = sizeof(block_turbo4);
    static __device__ constexpr int place(int q, int i) { return 8 * (q % 2) + 2 * i + q / 2; }
    static __device__ __forceinline__ int dim(int g, int run) { return 32 * run + 4 * g; }

    // Bytes of levels for a word's nibbles, four at a time: an index below 8 is a negative level, counted backwards.
    struct Levels {
        uint32_t low[2], high[2];

        __device__ __forceinline__ explicit Levels(uint32_t x) {
            const uint32_t negative = ~x & 0x88888888, shifted = negative << 4;
            const uint32_t indices = (x ^ (negative - (negative >> 3))) & 0x77777777;
            look_up<4>(indices, low[0], high[0]);
            look_up<4>(indices >> 16, low[1], high[1]);
            high[0] ^= bytes_of(shifted, negative, 0xd9c8) & 0x80808080;
            high[1] ^= bytes_of(shifted, negative, 0xfbea) & 0x80808080;
        }
    };

    static __device__ __forceinline__ void keys(const char * block, int t, uint32_t (&out)[8]) {
#pragma unroll
        for (int h = 0; h < 2; h++) {
            const Levels levels(word(block + 2 + 16 * h + 4 * t));
#pragma unroll
            for (int i = 0; i < 2; i++) {
                out[4 * h + 2 * i] = bytes_of(levels.low[i], levels.high[i], 0x5140);
                out[4 * h + 2 * i + 1] = bytes_of(levels.low[i], levels.high[i], 0x7362);
            }
        }
    }

    static __device__ __forceinline__ void values(const char * a, const char * b, int g, uint32_t (&out)[8]) {
#pragma unroll
        for (int h = 0; h < 2; h++) {
            const int from = 2 + 4 * g + 2 * h;
            const Levels levels(bytes_of(half_word(a + from), half_word(b + from), 0x5140));
#pragma unroll
            for (int i = 0; i < 2; i++) {
                out[2 * h + i] = bytes_of(levels.low[i], levels.high[i], 0x6240);
                out[4 + 2 * h + i] = bytes_of(levels.low[i], levels.high[i], 0x7351);
            }
        }
    }
};

// Two or three bits an index, in planes.
template <int bits> struct Planes {
    static constexpr bool kOneScale = true;
    static constexpr int kBytes = bits == 3 ? sizeof(block_turbo3) : sizeof(block_turbo2);
    static constexpr int kHighBits = 18;
    static __device__ constexpr int place(int q, int i) { return 8 * (q % 2) + 2 * i + q / 2; }
    static __device__ __forceinline__ int dim(int g, int run) { return 8 * g + 4 * run; }

    // Bits 0 to 3 of x become bit 2 of every low (part 0) or high (1) nibble.
    static __device__ __forceinline__ uint32_t spread(uint32_t x, int part) {
        return (x & 15) * (0x00204081u << (2 + 4 * part)) & 0x04040404u << 4 * part;
    }

    static __device__ __forceinline__ void keys(const char * block, int t, uint32_t (&out)[8]) {
        const uint32_t x = word(block + 2 + 4 * t);
#pragma unroll
        for (int h = 0; h < 2; h++) {  // values 16 apart
            uint32_t indices = x >> 2 * h & 0x33333333;
            if constexpr (bits == 3) {
                const char * high = block + kHighBits + t / 2 + 2 * h;
                indices |= spread(byte(high) >> 4 * (t % 2), 0) | spread(byte(high + 4) >> 4 * (t % 2), 1);
            }
#pragma unroll
            for (int i = 0; i < 2; i++) {
                uint32_t low, upper;
                look_up<bits>(indices >> 16 * i, low, upper);
                out[4 * h + 2 * i] = bytes_of(low, upper, 0x5140);
                out[4 * h + 2 * i + 1] = bytes_of(low, upper, 0x7362);
            }
        }
    }

    static __device__ __forceinline__ void values(const char * a, const char * b, int g, uint32_t (&out)[8]) {
        const uint32_t high_a = bits == 3 ? byte(a + kHighBits + g) : 0,
                       high_b = bits == 3 ? byte(b + kHighBits + g) : 0;
        const int shift = 2 * (g / 2);
#pragma unroll
        for (int h = 0; h < 2; h++) {
            const int from = 2 + 8 * (g % 2) + 4 * h;
            uint32_t indices = (word(a + from) >> shift & 0x03030303) | (word(b + from) >> shift & 0x03030303) << 4;
            if constexpr (bits == 3) {
                indices |= spread(high_a >> 4 * h, 0) | spread(high_b >> 4 * h, 1);
            }
#pragma unroll
            for (int i = 0; i < 2; i++) {
                uint32_t low, upper;
                look_up<bits>(indices >> 16 * i, low, upper);
                out[4 * h + 2 * i] = bytes_of(low, upper, 0x5140);
                out[4 * h + 2 * i + 1] = bytes_of(low, upper, 0x7362);
            }
        }
    }
};

// visit(Format()).
template <typename Visit> __device__ __forceinline__ auto with_format(Format format, Visit visit) {
    switch (format) {
        case Format::f16: return visit(F16());
        case Format::bf16: return visit(BF16());
        case Format::q8_0: return visit(Q8_0());
        case Format::q4_0: return visit(Q4_0());
        case Format::turbo4: return visit(Turbo4());
        case Format::turbo3: return visit(Planes<3>());
        default: return visit(Planes<2>());
    }
}

inline int bytes_of_64(Format format) {
    switch (format) {
        case Format::f16: return F16::kBytes;
        case Format::bf16: return BF16::kBytes;
        case Format::q8_0: return Q8_0::kBytes;
        case Format::q4_0: return Q4_0::kBytes;
        case Format::turbo4: return Turbo4::kBytes;
        case Format::turbo3: return Planes<3>::kBytes;
        default: return Planes<2>::kBytes;
    }
}

}  // namespace pmtp::attention::cuda
