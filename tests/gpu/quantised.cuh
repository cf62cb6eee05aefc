// What quantised activations must be.
#pragma once

#include "kernels/rows/cuda/quantise.cuh"

#include <cmath>
#include <cstdio>
#include <vector>

// Scale and sum as halves, values to the nearest step.
inline bool is_quantised(const char * what, int n, int n_rows, const std::vector<PmtpQ8Block> & blocks,
                         const std::vector<float> & x) {
    for (int row = 0; row < n_rows; row++) {
        for (int b = 0; b < n / 32; b++) {
            const PmtpQ8Block & block = blocks[row * pmtp_row_blocks(n) + b];
            const float * values = &x[(size_t) row * n + b * 32];
            double largest = 0.0;
            double sum = 0.0;
            for (int i = 0; i < 32; i++) {
                largest = std::fmax(largest, std::abs(values[i]));
                sum += values[i];
            }
            const double step = largest / 127;
            bool ok = std::abs(__low2float(block.scale_and_sum) - step) <= 1e-3 * step + 1e-7 &&
                      std::abs(__high2float(block.scale_and_sum) - sum) <= 1e-3 * std::abs(sum) + 1e-4 * largest;
            for (int i = 0; i < 32; i++) {
                ok = ok && std::abs(block.values[i] * step - values[i]) <= 0.5001 * step;
            }
            if (!ok) {
                printf("%s, %d rows of %d: block %d of row %d\n", what, n_rows, n, b, row);
                return false;
            }
        }
    }
    return true;
}
