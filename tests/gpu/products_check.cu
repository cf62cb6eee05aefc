// Compares the kernels of csrc/kernels/products/cuda/products.cu with sums in double precision over the same quantised
// values. Built and run by test_kernels.py.
#include "device.cuh"
#include "kernels/products/cuda/products.cuh"
#include "quantised.cuh"
#include "weight_blocks.cuh"

#include <cstring>
#include <random>

namespace {

int failures = 0;

std::vector<PmtpQ8Block> draw_columns(int n, int n_rows, std::mt19937 & random) {
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

// The product of one row of weights and of x, and the sum of the terms' sizes.
std::pair<double, double> multiply_rows(const WeightBlocks & blocks, const uint8_t * w, const PmtpQ8Block * x, int n) {
    double sum = 0.0;
    double size = 0.0;
    for (int b = 0; b < n / 32; b++) {
        double products = 0.0;
        double offset = 0.0;
        for (int i = 0; i < 32; i++) {
            const WeightValue value = blocks.value(w + (size_t) (b / 8) * blocks.n_bytes, b % 8 * 32 + i);
            products += value.scaled * x[b].values[i];
            offset = value.offset;
        }
        const double first = __low2float(x[b].scale_and_sum) * products;
        const double second = __high2float(x[b].scale_and_sum) * offset;
        sum += first - second;
        size += std::abs(first) + std::abs(second);
    }
    return { sum, size };
}

void check_product(const WeightBlocks & blocks, int n_in, int n_out, int n_rows, bool gated, std::mt19937 & random) {
    const size_t n_stages = (size_t) n_in / 256 * n_out;
    const size_t row_bytes = (size_t) n_in / 256 * blocks.n_bytes;
    const std::vector<uint8_t> up = draw_weights(blocks, n_stages, random);
    const std::vector<uint8_t> gate = draw_weights(blocks, gated ? n_stages : 0, random);
    const std::vector<PmtpQ8Block> x = draw_columns(n_in, n_rows, random);
    const DeviceArray<uint8_t> device_up(up);
    const DeviceArray<uint8_t> device_gate(gate.empty() ? up : gate);
    const DeviceArray<PmtpQ8Block> device_x(x), quantised(pmtp_row_blocks(n_out) * n_rows);
    const DeviceArray<float> out((size_t) n_out * n_rows), one((size_t) n_out);
    WeightProduct p = { blocks.format,  device_up.get(), gated ? device_gate.get() : nullptr,
                        device_x.get(), out.get(),       gated ? quantised.get() : nullptr,
                        n_in,           n_out,           n_rows };
    if (!pmtp_cuda_has_product(p)) {
        printf("%s, refused: %d to %d\n", blocks.name, n_in, n_out);
        failures++;
        return;
    }
    pmtp_cuda_launch_product(p, nullptr);
    check(cudaDeviceSynchronize());
    const std::vector<float> found = out.host();
    for (int row = 0; row < n_rows; row++) {
        for (int i = 0; i < n_out; i += n_out > 4096 ? 83 : n_out > 512 ? 7 : 1) {
            const PmtpQ8Block * xs = &x[row * pmtp_row_blocks(n_in)];
            auto [expected, size] = multiply_rows(blocks, &up[i * row_bytes], xs, n_in);
            if (gated) {
                const auto [g, g_size] = multiply_rows(blocks, &gate[i * row_bytes], xs, n_in);
                const double by = 0.5 * g * (1.0 + std::tanh(0.79788456080286535588 * g * (1.0 + 0.044715 * g * g)));
                size = size * std::abs(by) + std::abs(expected) * 1.2 * g_size;
                expected *= by;
            }
            if (!(std::abs(found[(size_t) row * n_out + i] - expected) <= (gated ? 5e-6 : 1e-6) * size + 1e-30)) {
                printf("%s, %d to %d, row %d of %d%s: value %d is %g, expected %g\n", blocks.name, n_in, n_out, row,
                       n_rows, gated ? ", gated" : "", i, found[(size_t) row * n_out + i], expected);
                failures++;
                return;
            }
        }
    }
    if (gated) {
        failures += !is_quantised("product", n_out, n_rows, quantised.host(), found);
    }
    // the last row alone has the same bits
    p.x += (n_rows - 1) * pmtp_row_blocks(n_in);
    p.out = one.get();
    p.n_rows = 1;
    pmtp_cuda_launch_product(p, nullptr);
    check(cudaDeviceSynchronize());
    if (std::memcmp(one.host().data(), &found[(size_t) (n_rows - 1) * n_out], n_out * sizeof(float)) != 0) {
        printf("%s, %d to %d%s: a row alone differs from the same row of %d\n", blocks.name, n_in, n_out,
               gated ? ", gated" : "", n_rows);
        failures++;
    }
}

}  // namespace

int main(int argc, char ** argv) {
    const bool small = argc > 1 && std::strcmp(argv[1], "small") == 0;
    std::mt19937 random(3);
    for (const WeightBlocks & blocks : all_weight_blocks()) {
        // What the formats share is tried with one of them.
        const bool all = blocks.format == WeightFormat::q4_0;
        for (int n_rows : small ? std::vector<int>{ 3 }
                          : all ? std::vector<int>{ 1, 2, 3, 4, 5, 8 }
                                : std::vector<int>{ 1, 4, 8 }) {
            for (int n_in : small ? std::vector<int>{ 256, 2304 }
                            : all ? std::vector<int>{ 256, 512, 1536, 2048, 2304, 2560, 4096, 12288 }
                                  : std::vector<int>{ 256, 1536, 2304, 12288 }) {
                for (int n_out : small ? std::vector<int>{ 8, 96 }
                                 : all ? std::vector<int>{ 8, 24, 96, 1536, 4112, 16416 }
                                       : std::vector<int>{ 8, 96, 4112, 16416 }) {
                    check_product(blocks, n_in, n_out, n_rows, false, random);
                    if (n_out % 32 == 0) {
                        check_product(blocks, n_in, n_out, n_rows, true, random);
                    }
                }
            }
        }
    }
    const auto refused = [](int n_in, int n_out, int n_rows, const void * gate) {
        return !pmtp_cuda_has_product(
            { WeightFormat::q4_0, nullptr, gate, nullptr, nullptr, nullptr, n_in, n_out, n_rows });
    };
    if (!refused(320, 64, 1, nullptr) || !refused(256, 12, 1, nullptr) || !refused(256, 24, 1, &failures) ||
        !refused(256, 64, 9, nullptr)) {
        printf("a shape without a kernel was taken\n");
        failures++;
    }
    printf(failures == 0 ? "ok\n" : "%d failures\n", failures);
    return failures != 0;
}
