// What quantised activations must be, and where they lie.
#pragma once

#include "kernels/rows/cuda/quantise.cuh"

#include <cmath>
#include <cstdio>
#include <cstring>
#include <vector>

// Rows one after another, from where kernels have them.
inline std::vector<PmtpQ8Block> rows_of(int n, int n_rows, std::vector<PmtpQ8Block> placed) {
    std::vector<PmtpQ8Block> out(pmtp_row_blocks(n) * n_rows);
    for (int row = 0; row < n_rows; row++) {
        for (int b = 0; b < n / 32; b++) {
            PmtpQ8Block & block = out[row * pmtp_row_blocks(n) + b];
            const PmtpQ8Place place = pmtp_place(placed.data(), n, n_rows, row, b);
            block.scale_and_sum = *place.scale_and_sum;
            for (int i = 0; i < 8; i++) {
                std::memcpy(&block.values[4 * i], place.word(i), 4);
            }
        }
    }
    return out;
}

// The other way round.
inline std::vector<PmtpQ8Block> placed(int n, int n_rows, const std::vector<PmtpQ8Block> & rows) {
    std::vector<PmtpQ8Block> out(pmtp_all_blocks(n, n_rows));
    for (int row = 0; row < n_rows; row++) {
        for (int b = 0; b < n / 32; b++) {
            const PmtpQ8Block & block = rows[row * pmtp_row_blocks(n) + b];
            const PmtpQ8Place place = pmtp_place(out.data(), n, n_rows, row, b);
            *place.scale_and_sum = block.scale_and_sum;
            for (int i = 0; i < 8; i++) {
                std::memcpy(place.word(i), &block.values[4 * i], 4);
            }
        }
    }
    return out;
}

// Scale and sum as halves, values to the nearest step.
inline bool is_quantised(const char * what, int n, int n_rows, const std::vector<PmtpQ8Block> & found,
                         const std::vector<float> & x) {
    const std::vector<PmtpQ8Block> blocks = rows_of(n, n_rows, found);
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

// Whether rows, one after another, have the same bits.
inline bool are_same(int n, int n_rows, const std::vector<PmtpQ8Block> & a, const std::vector<PmtpQ8Block> & b) {
    for (int row = 0; row < n_rows; row++) {
        const int64_t at = row * pmtp_row_blocks(n);
        if (std::memcmp(&a[at], &b[at], n / 32 * sizeof(PmtpQ8Block)) != 0) {
            return false;
        }
    }
    return true;
}
