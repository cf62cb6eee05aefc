// The formats of weights that the kernels of multiply.cuh take (ggml-common.h has their blocks): what a lane of a
// tensor-core instruction takes of kStage values of a row, a stage. Compiles as C++ too, for a test.
//
// Of each format:
//     kStage, kBytes            values and bytes of a stage; an even number
//     kQuantised                whether the activations are quantised too. If not:
//     low(word), high(word)     the two values of a word, as the bits of a float
// and if so:
//     quants(stage, group, t)   of the 32 values of a group, 0 to 7: values 4 t ... 4 t + 3, and those 16 further on
//     kSuper                    whether a stage has one scale in floating point, and integers for the groups:
// without:
//     scale(stage, group), kBias    value = scale * (quant - kBias) + least
//     kHasLeast, least(stage, group)    if not, 0
// with:
//     kGroup                    values that share an integer, 32 or 16; `sub` counts them
//     scale(stage), sub_scale(stage, sub)    value = scale * sub_scale * quant - least * sub_least
//     kHasLeast, least(stage), sub_least(stage, sub)    if not, 0
// kLoose, of all: whether rows are any number of 64 values long, see Loose.
#pragma once

#include "kernels/products/cuda/bits.cuh"

namespace pmtp::formats {

// A stage, with its first byte `shift` bits, 0 or 16, behind the beginning of a word.
struct Stage {
    const uint32_t * words;
    uint32_t shift;

    // The four bytes at `byte` + 4 t. Byte is even, and known when this is compiled.
    PMTP_EVERYWHERE uint32_t word(int byte, int t = 0) const {
        const uint32_t * w = words + byte / 4 + t;
        return byte % 4 == 0 ? *w : shift_right(w[0], w[1], 16);
    }
    // The same with bytes that are multiples of 4, in a stage that begins anywhere.
    PMTP_EVERYWHERE uint32_t shifted_word(int byte, int t = 0) const {
        const uint32_t * w = words + byte / 4 + t;
        return shift_right(w[0], w[1], shift);
    }
    PMTP_EVERYWHERE float half(int byte) const { return half_to_float(words[byte / 4] >> byte % 4 * 8 & 0xffff); }
};

struct Quants {
    uint32_t first;  // four signed bytes
    uint32_t second;
};

constexpr uint32_t kLowNibbles = 0x0f0f0f0f;

PMTP_EVERYWHERE Quants nibbles(uint32_t w) { return { w & kLowNibbles, w >> 4 & kLowNibbles }; }

struct Quantised {
    static constexpr int kStage = 256;
    static constexpr bool kQuantised = true;
    static constexpr bool kLoose = false;
};

// Blocks of 32 values with a scale in front; values around 0.
struct Simple : Quantised {
    static constexpr bool kSuper = false;
    static constexpr bool kHasLeast = false;
};

// The least value behind it.
struct WithLeast : Quantised {
    static constexpr bool kSuper = false;
    static constexpr float kBias = 0.0f;
    static constexpr bool kHasLeast = true;
};

struct Q4_0 : Simple {
    static constexpr int kBytes = 8 * 18;
    static constexpr float kBias = 8.0f;
    static PMTP_EVERYWHERE Quants quants(const Stage & s, int group, int t) {
        return nibbles(s.word(18 * group + 2, t));
    }
    static PMTP_EVERYWHERE float scale(const Stage & s, int group) { return s.half(18 * group); }
};

struct Q4_1 : WithLeast {
    static constexpr int kBytes = 8 * 20;
    static PMTP_EVERYWHERE Quants quants(const Stage & s, int group, int t) {
        return nibbles(s.word(20 * group + 4, t));
    }
    static PMTP_EVERYWHERE float scale(const Stage & s, int group) { return s.half(20 * group); }
    static PMTP_EVERYWHERE float least(const Stage & s, int group) { return s.half(20 * group + 2); }
};

// Bits 0 to 3 as bit 4 of each byte.
PMTP_EVERYWHERE uint32_t fifth_bits(uint32_t bits) { return ((bits & 15) * 0x00204081 & 0x01010101) << 4; }

// Nibbles and their fifth bits, 32 in a word.
PMTP_EVERYWHERE Quants five_bits(uint32_t w, uint32_t fifth, int t) {
    const Quants low = nibbles(w);
    return { low.first | fifth_bits(fifth >> 4 * t), low.second | fifth_bits(fifth >> (16 + 4 * t)) };
}

struct Q5_0 : Simple {
    static constexpr int kBytes = 8 * 22;
    static constexpr float kBias = 16.0f;
    static PMTP_EVERYWHERE Quants quants(const Stage & s, int group, int t) {
        return five_bits(s.word(22 * group + 6, t), s.word(22 * group + 2), t);
    }
    static PMTP_EVERYWHERE float scale(const Stage & s, int group) { return s.half(22 * group); }
};

struct Q5_1 : WithLeast {
    static constexpr int kBytes = 8 * 24;
    static PMTP_EVERYWHERE Quants quants(const Stage & s, int group, int t) {
        return five_bits(s.word(24 * group + 8, t), s.word(24 * group + 4), t);
    }
    static PMTP_EVERYWHERE float scale(const Stage & s, int group) { return s.half(24 * group); }
    static PMTP_EVERYWHERE float least(const Stage & s, int group) { return s.half(24 * group + 2); }
};

struct Q8_0 : Simple {
    static constexpr int kBytes = 8 * 34;
    static constexpr float kBias = 0.0f;
    static PMTP_EVERYWHERE Quants quants(const Stage & s, int group, int t) {
        return { s.word(34 * group + 2, t), s.word(34 * group + 18, t) };
    }
    static PMTP_EVERYWHERE float scale(const Stage & s, int group) { return s.half(34 * group); }
};

// The levels that nibbles name, of IQ4_NL and IQ4_XS.
PMTP_EVERYWHERE Quants levels_of(uint32_t w) {
    constexpr uint32_t kLevels[4] = { 0xbfad9881, 0xf6eaddcf, 0x26190d01, 0x71594535 };
    uint32_t of_half[2];
#pragma unroll
    for (int i = 0; i < 2; i++) {  // nibbles 0 to 3 and 4 to 7
        const uint32_t which = w >> 16 * i;
        const uint32_t below_8 = pick_bytes(kLevels[0], kLevels[1], which & 0x7777);
        const uint32_t from_8 = pick_bytes(kLevels[2], kLevels[3], which & 0x7777);
        of_half[i] = pick_bytes(below_8, from_8, 0x3210 | (which & 0x8888) >> 1);
    }
    return { pick_bytes(of_half[0], of_half[1], 0x6420), pick_bytes(of_half[0], of_half[1], 0x7531) };
}

struct IQ4_NL : Simple {
    static constexpr int kBytes = 8 * 18;
    static constexpr float kBias = 0.0f;
    static PMTP_EVERYWHERE Quants quants(const Stage & s, int group, int t) {
        return levels_of(s.word(18 * group + 2, t));
    }
    static PMTP_EVERYWHERE float scale(const Stage & s, int group) { return s.half(18 * group); }
};

struct IQ4_XS : Quantised {
    static constexpr int kBytes = 136;
    static constexpr bool kSuper = true;
    static constexpr int kGroup = 32;
    static constexpr bool kHasLeast = false;
    static PMTP_EVERYWHERE Quants quants(const Stage & s, int group, int t) {
        return levels_of(s.word(8 + 16 * group, t));
    }
    static PMTP_EVERYWHERE float scale(const Stage & s) { return s.half(0); }
    static PMTP_EVERYWHERE int sub_scale(const Stage & s, int sub) {
        const uint32_t high = s.word(0) >> 16 >> 2 * sub & 3;
        return (int) ((s.word(4) >> 4 * sub & 15) | high << 4) - 32;
    }
};

// Six-bit scales and least values of eight groups, in the words at bytes 4, 8 and 12; those of groups 4 to 7 are cut
// up.
struct ScalesOfK : Quantised {
    static constexpr bool kSuper = true;
    static constexpr int kGroup = 32;
    static constexpr bool kHasLeast = true;
    static PMTP_EVERYWHERE float scale(const Stage & s) { return s.half(0); }
    static PMTP_EVERYWHERE float least(const Stage & s) { return s.half(2); }
    static PMTP_EVERYWHERE int sub_scale(const Stage & s, int sub) {
        return byte_of(sub < 4 ? s.word(4) & 0x3f3f3f3f : (s.word(12) & kLowNibbles) | (s.word(4) >> 2 & 0x30303030),
                       sub % 4);
    }
    static PMTP_EVERYWHERE int sub_least(const Stage & s, int sub) {
        return byte_of(sub < 4 ? s.word(8) & 0x3f3f3f3f
                               : (s.word(12) >> 4 & kLowNibbles) | (s.word(8) >> 2 & 0x30303030),
                       sub % 4);
    }
};

struct Q4_K : ScalesOfK {
    static constexpr int kBytes = 144;
    static PMTP_EVERYWHERE Quants quants(const Stage & s, int group, int t) {
        const int at = 16 + 32 * (group / 2);
        const int shift = 4 * (group % 2);
        return { s.word(at, t) >> shift & kLowNibbles, s.word(at + 16, t) >> shift & kLowNibbles };
    }
};

struct Q5_K : ScalesOfK {
    static constexpr int kBytes = 176;
    static PMTP_EVERYWHERE Quants quants(const Stage & s, int group, int t) {
        const int at = 48 + 32 * (group / 2);
        const int shift = 4 * (group % 2);
        return { (s.word(at, t) >> shift & kLowNibbles) | (s.word(16, t) >> group & 0x01010101) << 4,
                 (s.word(at + 16, t) >> shift & kLowNibbles) | (s.word(32, t) >> group & 0x01010101) << 4 };
    }
};

struct Q6_K : Quantised {
    static constexpr int kBytes = 210;
    static constexpr bool kSuper = true;
    static constexpr int kGroup = 16;
    static constexpr bool kHasLeast = false;
    // Less 32, byte by byte.
    static PMTP_EVERYWHERE uint32_t centred(uint32_t w) { return ((w | 0x80808080) - 0x20202020) ^ 0x80808080; }
    static PMTP_EVERYWHERE uint32_t four(const Stage & s, int group, int half, int t) {
        const int quarter = group % 4;
        const uint32_t low = s.shifted_word(64 * (group / 4) + 32 * (quarter % 2) + 16 * half, t);
        const uint32_t high = s.shifted_word(128 + 32 * (group / 4) + 16 * half, t);
        return centred((low >> 4 * (quarter / 2) & kLowNibbles) | (high >> 2 * quarter & 0x03030303) << 4);
    }
    static PMTP_EVERYWHERE Quants quants(const Stage & s, int group, int t) {
        return { four(s, group, 0, t), four(s, group, 1, t) };
    }
    static PMTP_EVERYWHERE float scale(const Stage & s) { return half_to_float(s.shifted_word(208) & 0xffff); }
    static PMTP_EVERYWHERE int sub_scale(const Stage & s, int sub) {
        return (int8_t) byte_of(s.shifted_word(192 + sub / 4 * 4), sub % 4);
    }
};

struct Floats {
    static constexpr int kStage = 128;
    static constexpr int kBytes = 256;
    static constexpr bool kQuantised = false;
    static constexpr bool kSuper = false;
    static constexpr bool kLoose = false;
};

struct F16 : Floats {
    static PMTP_EVERYWHERE uint32_t low(uint32_t word) { return bits_of(half_to_float(word & 0xffff)); }
    static PMTP_EVERYWHERE uint32_t high(uint32_t word) { return bits_of(half_to_float(word >> 16)); }
};

struct BF16 : Floats {
    static PMTP_EVERYWHERE uint32_t low(uint32_t word) { return word << 16; }
    static PMTP_EVERYWHERE uint32_t high(uint32_t word) { return word & 0xffff0000; }
};

// A format without kSuper whose rows begin at any word, and may end within a stage.
template <typename Base> struct Loose : Base {
    static constexpr bool kLoose = true;
};

}  // namespace pmtp::formats
