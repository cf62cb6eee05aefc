// Compares the kernels of csrc/kernels/rows/cuda/row_ops.cu with loops in double precision, also where results take the
// place of what was read. Built and run by test_kernels.py.
#include "device.cuh"
#include "quantised.cuh"
#include "kernels/rows/cuda/row_ops.cuh"

#include <cstring>
#include <random>

namespace {

int failures = 0;

std::vector<float> draw(size_t n, std::mt19937 & random) {
    std::normal_distribution<float> normal(0, 3);
    std::vector<float> x(n);
    for (float & v : x) {
        v = normal(random);
    }
    return x;
}

void compare(const char * what, int n, int n_rows, const std::vector<float> & found,
             const std::vector<double> & expected) {
    double worst = 0.0;
    for (size_t i = 0; i < expected.size(); i++) {
        const double error = std::abs(found[i] - expected[i]) / (1.0 + std::abs(expected[i]));
        worst = error <= worst ? worst : error;  // keeps NaN
    }
    if (!(worst < 1e-5)) {
        printf("%s, %d rows of %d: error %g\n", what, n_rows, n, worst);
        failures++;
    }
}

enum Place { kApart, kOnX, kOnAdd };

void check_norm_chain(int n, int n_rows, bool adds, bool scales, bool chains, Place place, std::mt19937 & random) {
    const size_t size = (size_t) n * n_rows;
    const std::vector<float> x = draw(size, random), add = draw(size, random), weight = draw(n, random),
                             next_weight = draw(n, random);
    const std::vector<float> factor = { 0.37f };
    std::vector<double> y(size), z(size);
    const float eps = 1e-3f, next_eps = 1e-5f, times = scales ? 0.3f : 1.0f;
    for (int row = 0; row < n_rows; row++) {
        const size_t at = (size_t) row * n;
        const auto scale = [&](const auto * v, double e) {
            double squares = 0.0;
            for (int i = 0; i < n; i++) {
                squares += (double) v[i] * v[i];
            }
            return 1.0 / std::sqrt(squares / n + e);
        };
        const double by = scale(&x[at], eps) * times;
        for (int i = 0; i < n; i++) {
            y[at + i] = (by * x[at + i] * weight[i] + (adds ? add[at + i] : 0.0f)) * (scales ? factor[0] : 1.0f);
        }
        const double next_by = scale(&y[at], next_eps);
        for (int i = 0; i < n; i++) {
            z[at + i] = next_by * y[at + i] * next_weight[i];
        }
    }
    const DeviceArray<float> dx(x), dadd(add), dweight(weight), dnext(next_weight), dfactor(factor), own_y(size),
        own_z(size);
    const DeviceArray<PmtpQ8Block> blocks(pmtp_all_blocks(n, n_rows));
    float * out_y = place == kOnX ? dx.get() : place == kOnAdd ? dadd.get() : own_y.get();
    float * out_z = place == kOnAdd ? dx.get() : own_z.get();
    const NormChain chain = { dx.get(),
                              dweight.get(),
                              adds ? dadd.get() : nullptr,
                              scales ? dfactor.get() : nullptr,
                              out_y,
                              chains ? dnext.get() : nullptr,
                              chains ? out_z : nullptr,
                              blocks.get(),
                              eps,
                              next_eps,
                              n,
                              times };
    pmtp_cuda_norm_chain(chain, n_rows, nullptr);
    check(cudaDeviceSynchronize());
    const std::vector<float> found_y = (place == kOnX ? dx : place == kOnAdd ? dadd : own_y).host();
    const std::vector<float> found_z = (place == kOnAdd ? dx : own_z).host();
    compare("y", n, n_rows, found_y, y);
    if (chains) {
        compare("z", n, n_rows, found_z, z);
    }
    failures += !is_quantised("norm", n, n_rows, blocks.host(), chains ? found_z : found_y);
    // Products of more tokens had their activations from another kernel, whose sums of a block had other bits.
    const DeviceArray<float> result(chains ? found_z : found_y);
    const DeviceArray<PmtpQ8Block> alone((size_t) n_rows * pmtp_row_blocks(n));
    pmtp_cuda_quantise_rows(result.get(), alone.get(), n, n_rows, nullptr, false);
    check(cudaDeviceSynchronize());
    if (!are_same(n, n_rows, rows_of(n, n_rows, blocks.host()), alone.host())) {
        printf("norm, %d rows of %d: quantised with other bits than by the kernel for that alone\n", n_rows, n);
        failures++;
    }
}

void check_gelu_gate(int n, int n_rows, int stride, bool in_place, std::mt19937 & random) {
    const std::vector<float> x = draw((size_t) n * n_rows, random), gate = draw((size_t) stride * n_rows, random);
    std::vector<double> y(x.size());
    for (size_t i = 0; i < y.size(); i++) {
        const double v = x[i];
        y[i] = 0.5 * v * (1.0 + std::tanh(0.79788456080286535588 * v * (1.0 + 0.044715 * v * v))) *
               gate[i / n * stride + i % n];
    }
    const DeviceArray<float> dx(x), dgate(gate), dy(x.size());
    const DeviceArray<PmtpQ8Block> blocks(pmtp_all_blocks(n, n_rows));
    const DeviceArray<float> & out = in_place ? dx : dy;
    pmtp_cuda_gelu_gate({ dx.get(), dgate.get(), stride, out.get(), blocks.get(), n }, n_rows, nullptr);
    check(cudaDeviceSynchronize());
    compare("gelu", n, n_rows, out.host(), y);
    failures += !is_quantised("gelu", n, n_rows, blocks.host(), out.host());
}

void check_quantise_rows(int n, int n_rows, std::mt19937 & random) {
    const std::vector<float> x = draw((size_t) n * n_rows, random);
    const DeviceArray<float> dx(x);
    const DeviceArray<PmtpQ8Block> blocks(pmtp_all_blocks(n, n_rows));
    pmtp_cuda_quantise_rows(dx.get(), blocks.get(), n, n_rows, nullptr);
    check(cudaDeviceSynchronize());
    failures += !is_quantised("rows", n, n_rows, blocks.host(), x);
    const DeviceArray<PmtpQ8Block> in_order((size_t) n_rows * pmtp_row_blocks(n));
    pmtp_cuda_quantise_rows(dx.get(), in_order.get(), n, n_rows, nullptr, false);
    check(cudaDeviceSynchronize());
    const std::vector<PmtpQ8Block> found = in_order.host();
    for (int row = 0; row < n_rows; row++) {
        const auto at = found.begin() + row * pmtp_row_blocks(n);
        failures += !is_quantised("rows in order", n, 1, { at, at + pmtp_row_blocks(n) },
                                  { x.begin() + (size_t) row * n, x.begin() + (size_t) (row + 1) * n });
    }
}

}  // namespace

int main(int argc, char ** argv) {
    const bool small = argc > 1 && std::strcmp(argv[1], "small") == 0;
    std::mt19937 random(1);
    const std::vector<int> widths = small ? std::vector<int>{ 96, 2816 }
                                          : std::vector<int>{ 32, 96, 256, 1024, 1536, 2560, 2816, 3840, 5376, 8192 };
    for (int n : widths) {
        for (int n_rows : small ? std::vector<int>{ 2 } : std::vector<int>{ 1, 4, 8, 33 }) {
            for (int kind = 0; kind < 8; kind++) {
                for (Place place : { kApart, kOnX, kOnAdd }) {
                    check_norm_chain(n, n_rows, kind & 1, kind & 2, kind & 4, place, random);
                }
            }
            check_quantise_rows(n, n_rows, random);
            check_gelu_gate(n, n_rows, n, false, random);
            check_gelu_gate(n, n_rows, n + 64, true, random);
        }
    }
    if (failures == 0) {
        printf("ok\n");
    }
    return failures == 0 ? 0 : 1;
}
