// Compares the kernels of csrc/kernels/products/cuda with sums in double precision over the same quantised
// values. Built and run by test_kernels.py.
#include "device.cuh"
#include "kernels/products/cuda/products.cuh"
#include "product_rows.cuh"
#include "quantised.cuh"

#include <atomic>
#include <cstring>
#include <random>
#include <thread>

namespace {

std::atomic<int> failures = 0;

void check_product(const WeightBlocks & blocks, int n_in, int n_out, int n_rows, bool gated, std::mt19937 & random) {
    const size_t n_stages = ((size_t) n_in * n_out + 255) / 256;
    const size_t row_bytes = (size_t) n_in / 32 * blocks.n_bytes / 8;
    const std::vector<uint8_t> up = draw_weights(blocks, n_stages, random);
    const std::vector<uint8_t> gate = draw_weights(blocks, gated ? n_stages : 0, random);
    const Columns x = draw_columns(n_in, n_rows, random);
    const DeviceArray<uint8_t> device_up(up);
    const DeviceArray<uint8_t> device_gate(gate.empty() ? up : gate);
    const DeviceArray<PmtpQ8Block> device_x(placed(n_in, n_rows, x.quantised)),
        quantised(pmtp_all_blocks(n_out, n_rows));
    const DeviceArray<float> floats(x.floats), out((size_t) n_out * n_rows), one((size_t) n_out);
    WeightProduct p = {};
    p.format = blocks.format;
    p.weights = device_up.get();
    p.gate = gated ? device_gate.get() : nullptr;
    p.x = device_x.get();
    p.floats = floats.get();
    p.out = out.get();
    p.quantised = gated ? quantised.get() : nullptr;
    p.n_in = n_in;
    p.n_out = n_out;
    p.n_rows = n_rows;
    const RowParts parts(p);
    if (!pmtp_cuda_has_product(p)) {
        printf("%s, refused: %d to %d\n", blocks.name, n_in, n_out);
        failures++;
        return;
    }
    pmtp_cuda_launch_product(p, nullptr);
    check(cudaDeviceSynchronize());
    const std::vector<float> found = out.host();
    for (int row = 0; row<n_rows; row += n_rows> kPmtpVerifyRows ? 37 : pmtp_is_tiled(n_rows) ? 7 : 1) {
        for (int i = row % 5; i < n_out; i += n_out > 4096 ? 331 : n_out > 512 ? 29 : 1) {
            auto [expected, size] = multiply_rows(blocks, &up[i * row_bytes], x, n_in, row);
            if (gated) {
                const auto [g, g_size] = multiply_rows(blocks, &gate[i * row_bytes], x, n_in, row);
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
    if (p.parts != nullptr) {  // and without parts, as where there is no memory for them
        const DeviceArray<float> again(out.host().size());
        WeightProduct q = p;
        q.parts = nullptr;
        q.out = again.get();
        pmtp_cuda_launch_product(q, nullptr);
        if (std::memcmp(again.host().data(), found.data(), found.size() * sizeof(float)) != 0) {
            printf("%s, %d to %d%s, %d rows: parts change the bits\n", blocks.name, n_in, n_out, gated ? ", gated" : "",
                   n_rows);
            failures++;
        }
    }
    // rows alone have the same bits
    const int64_t row_blocks = pmtp_row_blocks(n_in);
    const float * all_floats = p.floats;
    for (const int row :
         n_rows > kPmtpVerifyRows ? std::vector<int>{ 0, n_rows / 2, n_rows - 1 } : std::vector<int>{ n_rows - 1 }) {
        const auto begin = x.quantised.begin() + row * row_blocks;
        const DeviceArray<PmtpQ8Block> alone(std::vector<PmtpQ8Block>(begin, begin + row_blocks));
        p.x = alone.get();
        p.floats = all_floats + (size_t) row * n_in;
        p.out = one.get();
        p.quantised = nullptr;
        p.n_rows = 1;
        pmtp_cuda_launch_product(p, nullptr);
        check(cudaDeviceSynchronize());
        if (std::memcmp(one.host().data(), &found[(size_t) row * n_out], n_out * sizeof(float)) != 0) {
            printf("%s, %d to %d%s: row %d alone differs from the same row of %d\n", blocks.name, n_in, n_out,
                   gated ? ", gated" : "", row, n_rows);
            failures++;
            return;
        }
    }
}

void check_products(const WeightBlocks & blocks, int n_rows, bool small) {
    // What the formats share is tried with one of them.
    const bool all = blocks.format == WeightFormat::q4_0;
    std::mt19937 random(n_rows);
    for (int n_in : small ? std::vector<int>{ 256, 2304 }
                    : all ? std::vector<int>{ 256, 512, 1536, 2048, 2304, 2560, 4096, 12288 }
                          : std::vector<int>{ 256, 1536, 2304, 12288 }) {
        for (int n_out : small ? std::vector<int>{ 8, 96 }
                         : all ? std::vector<int>{ 8, 24, 96, 1536, 4112, 16416 }
                               : std::vector<int>{ 8, 96, 4112, 16416 }) {
            if (pmtp_is_tiled(n_rows) && (int64_t) n_in * n_out > (n_rows > kPmtpVerifyRows ? 2'000'000 : 5'000'000)) {
                continue;
            }
            check_product(blocks, n_in, n_out, n_rows, false, random);
            if (n_out % 32 == 0) {
                check_product(blocks, n_in, n_out, n_rows, true, random);
            }
        }
    }
    if (blocks.is_loose) {  // rows of any number of blocks of 64 values
        check_product(blocks, small ? 320 : 2112, small ? 32 : 352, n_rows, false, random);
    }
    if (blocks.is_loose || pmtp_takes_floats(blocks.format)) {  // of any number of 32 values, and of results
        check_product(blocks, 32, small ? 24 : 256, n_rows, false, random);
        check_product(blocks, small ? 96 : 1120, 13 * 8 + 4, n_rows, false, random);
    }
}

// Rows of floats of very different sizes, of which some are not finite.
std::vector<float> draw_extremes(int n_in, int n_rows, std::mt19937 & random) {
    std::normal_distribution<float> normal(0, 1);
    std::vector<float> out((size_t) n_in * n_rows);
    for (int row = 0; row < n_rows; row++) {
        const int kind = row % 12;
        const float size = kind == 1 ? 1e30f : kind == 2 ? 1e-30f : kind == 3 ? 0.0f : 1.0f;
        for (int i = 0; i < n_in; i++) {
            // each stage of a row may have a size of its own
            const float of_stage = kind == 4 ? std::ldexp(1.0f, i / 128 * 7 % 60 - 30) : 1.0f;
            out[(size_t) row * n_in + i] = normal(random) * size * of_stage;
        }
        float & one = out[(size_t) row * n_in + random() % n_in];
        uint32_t nan = 0x7f800001;
        switch (kind) {
            case 5: one = 1e6f; break;
            case 6: one = 3.4028235e38f; break;
            case 7: one = INFINITY; break;
            case 8: one = -INFINITY; break;
            case 9: one = NAN; break;
            case 10: std::memcpy(&one, &nan, sizeof(nan)); break;
            default: break;
        }
    }
    return out;
}

// Of them each row has what double precision has, and the bits that it has alone.
void check_extremes(const WeightBlocks & blocks, int n_in, int n_out) {
    constexpr int kMost = 600;
    std::mt19937 random(n_out);
    const std::vector<uint8_t> weights = draw_weights(blocks, ((size_t) n_in * n_out + 255) / 256, random);
    Columns x = { {}, draw_extremes(n_in, kMost, random) };
    x.quantised.resize(pmtp_row_blocks(n_in) * kMost);
    const DeviceArray<uint8_t> device_weights(weights);
    const DeviceArray<float> floats(x.floats);
    std::vector<float> first(kMost * (size_t) n_out);
    for (const int n_rows : { 1, 4, 8, 13, 64, 65, 512, kMost }) {
        const DeviceArray<float> out(first.size());
        WeightProduct p = {};
        p.format = blocks.format;
        p.weights = device_weights.get();
        p.n_in = n_in;
        p.n_out = n_out;
        for (int row = 0; row < kMost; row += n_rows) {
            p.n_rows = std::min(n_rows, kMost - row);
            p.floats = floats.get() + (size_t) row * n_in;
            p.out = out.get() + (size_t) row * n_out;
            const RowParts parts(p);
            pmtp_cuda_launch_product(p, nullptr);
        }
        const std::vector<float> found = out.host();
        if (n_rows == 1) {
            first = found;
        } else if (std::memcmp(found.data(), first.data(), first.size() * sizeof(float)) != 0) {
            printf("%s, %d to %d: rows of extremes differ from the same of %d\n", blocks.name, n_in, n_out, n_rows);
            failures++;
        }
    }
    for (int row = 0; row < kMost; row += row < 24 ? 1 : 37) {
        for (int i = row % 5; i < n_out; i += 29) {
            const float found = first[(size_t) row * n_out + i];
            const auto [expected, size] =
                multiply_rows(blocks, &weights[(size_t) i * (n_in / 32) * blocks.n_bytes / 8], x, n_in, row);
            const bool right =
                std::isfinite(expected) ? std::abs(found - expected) <= 1e-6 * size : !std::isfinite(found);
            if (!right) {
                printf("%s, %d to %d, row %d of extremes: value %d is %g, expected %g\n", blocks.name, n_in, n_out, row,
                       i, found, expected);
                failures++;
                return;
            }
        }
    }
}

int n_multiprocessors() {
    int device = 0, n = 0;
    check(cudaGetDevice(&device));
    check(cudaDeviceGetAttribute(&n, cudaDevAttrMultiProcessorCount, device));
    return n;
}

// Enough rows for the larger blocks of prompts.
void check_prompt(const WeightBlocks & blocks) {
    std::mt19937 random(1);
    for (const bool gated : { false, true }) {
        check_product(blocks, 768, 32 * n_multiprocessors() + 32, 130, gated, random);
    }
}

// Launched as more blocks than a multiprocessor's shared memory can be shared among: what was asked for each was less
// than nothing, and no such kernel began. Fewer multiprocessors have that with a vocabulary's rows.
void check_many_blocks(const WeightBlocks & blocks) {
    std::mt19937 random(0);
    check_product(blocks, 256, 256 * 32 * n_multiprocessors(), 1, false, random);
}

}  // namespace

int main(int argc, char ** argv) {
    const bool small = argc > 1 && std::strcmp(argv[1], "small") == 0;
    std::vector<std::thread> threads;
    const std::vector<WeightBlocks> formats = all_weight_blocks();
    for (const WeightBlocks & blocks : formats) {
        threads.emplace_back([&blocks] { check_prompt(blocks); });
        if (small) {  // for tools that follow every access
            threads.back().join();
            threads.pop_back();
        }
        if (pmtp_takes_floats(blocks.format) && !small) {
            for (const int n_out : { 40, 520, 32 * n_multiprocessors() + 136 }) {  // tiled, small and large blocks
                threads.emplace_back([&blocks, n_out] { check_extremes(blocks, 1152, n_out); });
            }
            threads.emplace_back([&blocks] { check_extremes(blocks, 3840, 1536); });
        }
        for (int n_rows : small ? std::vector<int>{ 3, 20, 70 }
                          : blocks.format == WeightFormat::q4_0
                              ? std::vector<int>{ 1, 2, 3, 4, 5, 8, 9, 16, 17, 32, 33, 64, 65, 128, 512 }
                              : std::vector<int>{ 1, 4, 8, 16, 37, 64, 200 }) {
            threads.emplace_back([&blocks, n_rows, small] { check_products(blocks, n_rows, small); });
            if (small) {  // for tools that follow every access
                threads.back().join();
                threads.pop_back();
            }
        }
    }
    if (!small) {
        threads.emplace_back([&formats] { check_many_blocks(formats.front()); });
    }
    for (std::thread & thread : threads) {
        thread.join();
    }
    const auto refused = [](int n_in, int n_out, int n_rows, const void * gate,
                            WeightFormat format = WeightFormat::q4_0) {
        return !pmtp_cuda_has_product(
            { format, nullptr, gate, nullptr, nullptr, nullptr, nullptr, n_in, n_out, n_rows });
    };
    if (!refused(336, 64, 1, nullptr) || !refused(320, 64, 1, &argc) || !refused(256, 24, 1, &argc) ||
        !refused(256, 12, 1, nullptr, WeightFormat::q6_K) || !refused(256, 64, kPmtpMostRows + 1, nullptr) ||
        !refused(32, 64, kPmtpMostRows + 1, nullptr)) {
        printf("a shape without a kernel was taken\n");
        failures++;
    }
    printf(failures == 0 ? "ok\n" : "%d failures\n", failures.load());
    return failures != 0;
}
