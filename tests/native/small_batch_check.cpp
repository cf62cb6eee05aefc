// Compares the small-batch kernels with float64 products of the dequantised weights and quantised activations, and every row with
// the same row alone, bit for bit. Prints "n_in columns rows error scale" a case; exits with 77 where there is no kernel.
#include "q4_0.h"

#include <immintrin.h>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstring>
#include <random>
#include <vector>

using namespace pmtp::small_batch;

int main() {
    if (!q4_0_available()) {
        return 77;
    }
    std::mt19937 random(1);
    std::normal_distribution<float> normal;
    for (int n_in : { 32, 256, 1536, 12288 }) {
        for (int columns : { 8, 24, 64 }) {
            const int blocks = n_in / kBlock;
            std::vector<uint8_t> packed((size_t) columns / kColumns * blocks * 144 + 4096);
            std::vector<double> weights((size_t) columns * n_in);
            for (int column = 0; column < columns; column++) {
                for (int b = 0; b < blocks; b++) {
                    uint8_t * block = &packed[((size_t) column / kColumns * blocks + b) * 144];
                    const int lane = column % kColumns;
                    const uint16_t half = _cvtss_sh(0.001f * (1 + random() % 50), 0);
                    std::memcpy(block + 2 * lane, &half, 2);
                    const double d = _cvtsh_ss(half);
                    for (int j = 0; j < 16; j++) {
                        const uint8_t q = random() % 256;
                        block[16 + j / 8 * 64 + lane * 8 + j % 8] = q ^ 0x88;  // as ggml repacks it
                        weights[(size_t) column * n_in + b * kBlock + j] = d * ((q & 15) - 8);
                        weights[(size_t) column * n_in + b * kBlock + j + 16] = d * ((q >> 4) - 8);
                    }
                }
            }
            std::vector<float> x((size_t) kMaxRows * n_in);
            for (float & value : x) {
                value = normal(random);
            }
            std::fill_n(x.begin(), kBlock, 0.0f);  // a block of zeros has no scale
            std::vector<float> alone((size_t) kMaxRows * columns);
            for (int rows = 1; rows <= kMaxRows; rows++) {
                std::vector<float> result((size_t) kMaxRows * columns, NAN);
                std::vector<char> buffer(Activations::bytes(rows, n_in));
                const Activations activations(buffer.data(), rows, n_in);
                for (int row = 0; row < rows; row++) {
                    activations.quantize(&x[(size_t) row * n_in], row, 0, blocks / 2);
                    activations.quantize(&x[(size_t) row * n_in], row, blocks / 2, blocks);
                }
                const int groups = columns / kColumns;
                q4_0_mul(packed.data(), activations, rows, blocks, 0, groups / 2, result.data(), columns);
                q4_0_mul(packed.data(), activations, rows, blocks, groups / 2, groups, result.data(), columns);
                double error = 0, scale = 0;
                for (int row = 0; row < rows; row++) {
                    for (int column = 0; column < columns; column++) {
                        double sum = 0;
                        for (int i = 0; i < n_in; i++) {
                            sum += weights[(size_t) column * n_in + i] * activations.values(row)[i] * activations.scales(row)[i / kBlock];
                        }
                        const float got = result[(size_t) row * columns + column];
                        error = std::isnan(got) ? INFINITY : std::max(error, std::fabs(sum - got));
                        scale = std::max(scale, std::fabs(sum));
                    }
                }
                std::printf("%d %d %d %g %g\n", n_in, columns, rows, error, scale);
                // Row 0 of every batch must be row 0 alone.
                if (rows == 1) {
                    alone = result;
                } else if (std::memcmp(alone.data(), result.data(), columns * sizeof(float)) != 0) {
                    std::printf("row 0 differs with %d rows\n", rows);
                    return 1;
                }
            }
        }
    }
    return 0;
}
