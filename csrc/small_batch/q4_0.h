// Q4_0 weights, repacked in groups of 8 rows, times 1..kMaxRows activation rows.
#pragma once

#include <cstddef>
#include <cstdint>

namespace pmtp::small_batch {

constexpr int kMaxRows = 9;   // k + 1 for k up to 8
constexpr int kColumns = 8;   // weight rows (columns of the result) in a group
constexpr int kBlock = 32;    // values under one scale

// Activation rows in a work buffer: signed bytes, a scale and the weights' zero-point correction a block.
class Activations {
  public:
    static size_t bytes(int n_rows, int64_t n_in) { return (size_t) n_rows * (n_in + n_in / kBlock * (sizeof(float) + sizeof(int32_t))); }

    Activations(void * buffer, int n_rows, int64_t n_in);

    // Blocks begin..end of a row: d = max|x| / 127 in f16 precision, q = round(x / d), as ggml's q8_0.
    void quantize(const float * x, int row, int64_t begin, int64_t end) const;

    const int8_t * values(int row) const { return values_ + row * n_in_; }
    const float * scales(int row) const { return scales_ + row * (n_in_ / kBlock); }
    const int32_t * corrections(int row) const { return corrections_ + row * (n_in_ / kBlock); }  // -4 * sum of the block's values

  private:
    int8_t * values_;
    float * scales_;
    int32_t * corrections_;
    int64_t n_in_;
};

bool q4_0_available();

// result[row * stride + column] for the columns of groups first..last.
void q4_0_mul(const void * weights, const Activations & x, int n_rows, int64_t n_blocks, int64_t first, int64_t last, float * result,
              size_t stride);

}  // namespace pmtp::small_batch
