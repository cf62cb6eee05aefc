// K or V as the attention kernel sees them: where the cells lie, and how their values are stored.
#pragma once

#include <cstddef>
#include <cstdint>

namespace pmtp::attention {

constexpr int kMaxHeadSize = 512;

enum class Format { f32, f16, bf16, q8_0, q4_0, iq4_nl, turbo4, turbo3, turbo2, other };

// Decodes n values (a multiple of 32) to x.
using Decode = void (*)(const void * blocks, float * x, int64_t n);

// A cell's row of one head is `head_size` contiguous values.
struct Cells {
    const char * data;
    size_t cell_stride, head_stride, batch_stride;  // bytes
    Format format;
    Decode decode;   // of Format::other
    size_t bytes64;  // of 64 values
    int head_size;   // multiple of 32 (turbo types: of 64), at most kMaxHeadSize

    const char * at(int head, int batch) const { return data + head * head_stride + batch * batch_stride; }
};

}  // namespace pmtp::attention
