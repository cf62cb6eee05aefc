// Products that are one launch with others or with a factor, against the same launched one by one. Built and run by
// test_kernels.py.
#include "device.cuh"
#include "kernels/products/cuda/products.cuh"
#include "kernels/rows/cuda/row_ops.cuh"
#include "product_rows.cuh"
#include "quantised.cuh"

#include <cstring>
#include <memory>
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

class Products {
  public:
    Products(const WeightBlocks & blocks, int n_in, int n_rows, std::mt19937 & random)
        : blocks_(blocks),
          n_in_(n_in),
          n_rows_(n_rows),
          floats_(draw((size_t) n_in * n_rows, random)),
          quantised_(pmtp_all_blocks(n_in, n_rows)) {
        for (const int n : kOut) {
            weights_.push_back(
                std::make_unique<DeviceArray<uint8_t>>(draw_weights(blocks, (size_t) n_in / 256 * n, random)));
        }
        pmtp_cuda_quantise_rows(floats_.get(), quantised_.get(), n_in, n_rows, nullptr);
    }

    void check() {
        std::vector<std::vector<float>> alone;
        for (int i = 0; i < 3; i++) {
            alone.push_back(run(product(i), kOut[i]));
        }
        check_joined(alone);
        check_factor(alone[1]);
    }

  private:
    static constexpr int kOut[3] = { 512, 64, 128 };

    void expect(bool condition, const char * what) {
        if (!condition) {
            printf("%s, %d to %d and others, %d rows: %s\n", blocks_.name, n_in_, kOut[0], n_rows_, what);
            failures++;
        }
    }

    WeightProduct product(int i) const {
        WeightProduct p = {};
        p.format = blocks_.format;
        p.weights = weights_[i]->get();
        p.x = quantised_.get();
        p.floats = floats_.get();
        p.n_in = n_in_;
        p.n_out = kOut[i];
        p.n_rows = n_rows_;
        return p;
    }

    std::vector<float> run(WeightProduct p, int n_out) {
        const DeviceArray<float> out((size_t) n_out * n_rows_);
        p.out = out.get();
        expect(pmtp_cuda_has_product(p), "refused");
        const RowParts parts(p);
        pmtp_cuda_launch_product(p, nullptr);
        return out.host();
    }

    void check_joined(const std::vector<std::vector<float>> & alone) {
        const DeviceArray<float> second(alone[1].size()), third(alone[2].size());
        WeightProduct p = product(0);
        p.others[0] = { weights_[1]->get(), second.get(), kOut[1] };
        p.others[1] = { weights_[2]->get(), third.get(), kOut[2] };
        expect(run(p, kOut[0]) == alone[0], "first of three");
        expect(second.host() == alone[1] && third.host() == alone[2], "others of three");
        const DeviceArray<float> again(alone[2].size());
        p.others[0] = { weights_[2]->get(), again.get(), kOut[2] };
        p.others[1] = {};
        expect(run(p, kOut[0]) == alone[0] && again.host() == alone[2], "two");
    }

    // In place of the factor too.
    void check_factor(const std::vector<float> & products) {
        const int n = kOut[1], stride = n + 32;
        std::mt19937 random(9);
        const std::vector<float> factor = draw((size_t) stride * n_rows_, random);
        const DeviceArray<float> device_factor(factor);
        const DeviceArray<PmtpQ8Block> result(pmtp_all_blocks(n, n_rows_));
        WeightProduct p = product(1);
        p.factor = device_factor.get();
        p.factor_stride = stride;
        p.quantised = result.get();
        const std::vector<float> found = run(p, n);
        bool near = true;
        for (size_t i = 0; i < found.size(); i++) {
            const double x = products[i], by = factor[i / n * stride + i % n];
            const double right =
                0.5 * x * (1.0 + std::tanh(0.79788456080286535588 * x * (1.0 + 0.044715 * x * x))) * by;
            near = near && std::abs(found[i] - right) <= 1e-5 * (std::abs(right) + std::abs(by));
        }
        expect(near, "times a factor");
        failures += !is_quantised("factor", n, n_rows_, result.host(), found);
    }

    const WeightBlocks & blocks_;
    const int n_in_, n_rows_;
    std::vector<std::unique_ptr<DeviceArray<uint8_t>>> weights_;
    const DeviceArray<float> floats_;
    const DeviceArray<PmtpQ8Block> quantised_;
};

}  // namespace

int main(int argc, char ** argv) {
    const bool small = argc > 1 && std::strcmp(argv[1], "small") == 0;
    std::mt19937 random(6);
    for (const WeightBlocks & blocks : all_weight_blocks()) {
        for (const int n_in : small ? std::vector<int>{ 512 } : std::vector<int>{ 256, 1536, 5376 }) {
            for (const int n_rows : small ? std::vector<int>{ 2, 9 } : std::vector<int>{ 1, 4, 8, 9, 33, 64, 600 }) {
                Products(blocks, n_in, n_rows, random).check();
            }
        }
    }
    if (failures == 0) {
        printf("ok\n");
    }
    return failures != 0;
}
