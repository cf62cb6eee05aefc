// Compares the kernel of float_products.cu with sums in double precision. Built and run by test_kernels.py.
#include "device.cuh"
#include "kernels/products/cuda/float_products.cuh"

#include <cmath>
#include <cstring>
#include <random>

namespace {

int failures = 0;

std::vector<float> draw(size_t n, std::mt19937 & random) {
    std::normal_distribution<float> normal(0, 1);
    std::vector<float> out(n);
    for (float & value : out) {
        value = normal(random);
    }
    return out;
}

void check_product(int n_in, int n_out, int n_rows, std::mt19937 & random) {
    const std::vector<float> weights = draw((size_t) n_in * n_out, random), x = draw((size_t) n_in * n_rows, random);
    const DeviceArray<float> device_weights(weights), device_x(x), out((size_t) n_out * n_rows), one((size_t) n_out);
    pmtp_cuda_launch_float_product({ device_weights.get(), device_x.get(), out.get(), n_in, n_out, n_rows }, nullptr);
    check(cudaDeviceSynchronize());
    const std::vector<float> found = out.host();
    for (int row = 0; row < n_rows; row++) {
        for (int i = 0; i < n_out; i++) {
            double expected = 0.0, size = 1e-30;
            for (int j = 0; j < n_in; j++) {
                const double product = (double) weights[(size_t) i * n_in + j] * x[(size_t) row * n_in + j];
                expected += product;
                size += std::abs(product);
            }
            if (!(std::abs(found[(size_t) row * n_out + i] - expected) <= 3e-7 * size)) {
                printf("%d to %d, row %d of %d: value %d is %g, expected %g\n", n_in, n_out, row, n_rows, i,
                       found[(size_t) row * n_out + i], expected);
                failures++;
                return;
            }
        }
        pmtp_cuda_launch_float_product(
            { device_weights.get(), device_x.get() + (size_t) row * n_in, one.get(), n_in, n_out, 1 }, nullptr);
        check(cudaDeviceSynchronize());
        if (std::memcmp(one.host().data(), &found[(size_t) row * n_out], n_out * sizeof(float)) != 0) {
            printf("%d to %d: a row alone differs from the same of %d\n", n_in, n_out, n_rows);
            failures++;
            return;
        }
    }
}

}  // namespace

int main(int argc, char ** argv) {
    const bool small = argc > 1 && std::strcmp(argv[1], "small") == 0;
    std::mt19937 random(7);
    for (int n_in : small ? std::vector<int>{ 4, 644 } : std::vector<int>{ 4, 516, 2816, 5380 }) {
        for (int n_rows :
             small ? std::vector<int>{ 3, 11, 67 } : std::vector<int>{ 1, 2, 3, 4, 5, 8, 9, 17, 64, 65, 200 }) {
            check_product(n_in, small ? 3 : 128, n_rows, random);
        }
    }
    printf(failures == 0 ? "ok\n" : "%d failures\n", failures);
    return failures != 0;
}
