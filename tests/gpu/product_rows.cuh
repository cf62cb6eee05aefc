// Random rows of activations, and their products with rows of weights in double precision.
#pragma once

#include "device.cuh"
#include "weight_blocks.cuh"

#include <cmath>
#include <random>
#include <utility>
#include <vector>

inline std::vector<PmtpQ8Block> draw_quantised(int n, int n_rows, std::mt19937 & random) {
    std::normal_distribution<float> normal(0, 3);
    std::vector<PmtpQ8Block> out(pmtp_row_blocks(n) * n_rows);
    for (PmtpQ8Block & block : out) {
        float sum = 0.0f;
        const float scale = std::abs(normal(random)) / 127;
        for (int8_t & value : block.values) {
            value = (int8_t) ((int) (random() % 255) - 127);
            sum += scale * value;
        }
        block.scale_and_sum = __floats2half2_rn(scale, sum);
    }
    return out;
}

struct Columns {
    std::vector<PmtpQ8Block> quantised;  // n_rows of pmtp_row_blocks(n_in)
    std::vector<float> floats;           // n_rows of n_in, for weights that take them
};

inline Columns draw_columns(int n, int n_rows, std::mt19937 & random) {
    Columns out{ draw_quantised(n, n_rows, random), std::vector<float>((size_t) n * n_rows) };
    std::normal_distribution<float> normal(0, 3);
    for (float & x : out.floats) {
        x = normal(random);
    }
    return out;
}

// The product of one row of weights and one of x, and the sum of the terms' sizes.
// Rows of `blocks` are n / 32 * n_bytes / 8 long.
inline std::pair<double, double> multiply_rows(const WeightBlocks & blocks, const uint8_t * w, const Columns & x, int n,
                                               int row) {
    double sum = 0.0;
    double size = 0.0;
    for (int b = 0; b < n / 32; b++) {
        const PmtpQ8Block & block = x.quantised[row * pmtp_row_blocks(n) + b];
        const float * floats = &x.floats[(size_t) row * n + b * 32];
        double products = 0.0;
        double sizes = 0.0;
        double offset = 0.0;
        for (int i = 0; i < 32; i++) {
            const WeightValue value = blocks.value(w + (size_t) (b / 8) * blocks.n_bytes, b % 8 * 32 + i);
            const double by =
                pmtp_takes_floats(blocks.format) ? floats[i] : __low2float(block.scale_and_sum) * block.values[i];
            products += value.scaled * by;
            sizes += std::abs(value.scaled * by);
            offset = value.offset;
        }
        const double second = offset * __high2float(block.scale_and_sum);
        sum += products - second;
        size += (pmtp_takes_floats(blocks.format) ? sizes : std::abs(products)) + std::abs(second);
    }
    return { sum, size };
}

// The parts of a product's rows, which it has while they live.
class RowParts {
  public:
    explicit RowParts(WeightProduct & p)
        : memory_(pmtp_cuda_takes_parts(p) ? pmtp_cuda_part_bytes(p.format, p.n_in, p.n_rows) : 1) {
        p.parts = nullptr;
        if (pmtp_cuda_takes_parts(p)) {
            pmtp_cuda_split_rows(p.format, p.floats, memory_.get(), p.n_in, p.n_rows, nullptr);
            p.parts = memory_.get();
        }
    }

  private:
    const DeviceArray<char> memory_;
};
