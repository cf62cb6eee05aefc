// Activation rows as signed bytes with a scale a block, in ggml's work buffer.
#pragma once

#include <cstddef>
#include <cstdint>

namespace pmtp::products {

// Most rows that a kernel takes in one pass over the weights: k + 1 for k up to 8.
constexpr int kMaxRows = 9;

// Values under one scale: as ggml's q8_0 (scale rounded to f16) for weights in blocks of 32, as its q8_K for
// super-blocks of 256.
enum class Block { k32 = 32, k256 = 256 };

// One activation row as a kernel reads it. `values` and `scales` are padded with zeros to a multiple of 64 values.
struct Row {
    const int8_t * values;  // [n_in]
    const float * scales;   // [n_in / block]
    const int32_t *
        corrections;         // k32: [n_in / 32], -4 times the sum of a block: half of a zero point of 8, for two lanes
    const int16_t * sums16;  // k256: [n_in / 16]
    const int16_t * sums32;  // k256: [n_in / 32]
    float * result;          // [n_out]
};

class Activations {
  public:
    Activations(void * buffer, Block block, int64_t n_in);

    // Bytes of work buffer for n_rows rows.
    static size_t bytes(Block block, int64_t n_in, int64_t n_rows);

    int64_t n_blocks() const { return n_in_ / (int64_t) block_; }

    // Quantises blocks begin..end of row `row`; x is the start of the row.
    void quantize(const float * x, int64_t row, int64_t begin, int64_t end) const;

    Row row(int64_t row, float * result) const;

  private:
    char * at(int64_t row) const { return buffer_ + (size_t) row * bytes(block_, n_in_, 1); }

    char * buffer_;
    Block block_;
    int64_t n_in_;
};

}  // namespace pmtp::products
