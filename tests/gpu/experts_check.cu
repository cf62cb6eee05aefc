// Compares the kernels of expert_products.cu with sums in double precision over the same quantised values: routers of
// all kinds, even and uneven, and ids that name no expert. Built and run by test_kernels.py.
#include "device.cuh"
#include "kernels/products/cuda/experts.cuh"
#include "product_rows.cuh"
#include "quantised.cuh"

#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstring>
#include <limits>
#include <random>
#include <thread>

namespace {

std::atomic<int> failures = 0;

constexpr int kExperts = 12;
constexpr int kUsed = 3;
// From a token's ids to the next one's, which has as many as there are experts: those used come first.
constexpr int kStride = kExperts;

enum class Router { random, one_expert, most_to_none, wrong_ids, count };

std::vector<int32_t> draw_ids(Router router, int n_tokens, std::mt19937 & random) {
    std::vector<int32_t> out((size_t) kStride * n_tokens, 0x5a5a5a5a);
    for (int token = 0; token < n_tokens; token++) {
        std::vector<int32_t> experts(kExperts);
        for (int i = 0; i < kExperts; i++) {
            experts[i] = i;
        }
        std::shuffle(experts.begin(), experts.end(), random);
        for (int i = 0; i < kUsed; i++) {
            int32_t & id = out[(size_t) token * kStride + i];
            switch (router) {
                case Router::random: id = experts[i]; break;
                case Router::one_expert: id = kExperts - 1; break;
                case Router::most_to_none: id = token % 5 == 4 ? experts[i] : i * 2; break;
                default: id = random() % 2 == 0 ? experts[i] : (int32_t) random(); break;
            }
        }
    }
    return out;
}

int expert_of(const std::vector<int32_t> & ids, int token, int i) {
    const int32_t id = ids[(size_t) token * kStride + i];
    return id >= 0 && id < kExperts ? id : 0;
}

bool is_written(const std::vector<float> & x) {
    return std::none_of(x.begin(), x.end(), [](float v) {
        uint32_t bits;
        std::memcpy(&bits, &v, sizeof(bits));
        return bits == 0x5a5a5a5a;
    });
}

struct Case {
    const WeightBlocks & blocks;
    int n_in, n_out, n_tokens;
    bool gated, x_of_pairs;
    Router router;

    void fail(const char * what) const {
        printf("%s, %d to %d, %d tokens%s%s, router %d: %s\n", blocks.name, n_in, n_out, n_tokens,
               gated ? ", gated" : "", x_of_pairs ? ", rows of pairs" : "", (int) router, what);
        failures++;
    }
};

// Up and gate of an expert lie one behind the other.
void check_case(const Case & c, std::mt19937 & random) {
    const int n_pairs = c.n_tokens * kUsed;
    const size_t row_bytes = (size_t) c.n_in / 32 * c.blocks.n_bytes / 8;
    const size_t matrix_bytes = row_bytes * c.n_out;
    const int n_matrices = c.gated ? 2 : 1;
    const std::vector<uint8_t> weights =
        draw_weights(c.blocks, (size_t) kExperts * n_matrices * c.n_out * c.n_in / 256, random);
    const std::vector<int32_t> ids = draw_ids(c.router, c.n_tokens, random);
    Columns x = draw_columns(c.n_in, c.x_of_pairs ? n_pairs : c.n_tokens, random);
    const int64_t row_blocks = pmtp_row_blocks(c.n_in);
    for (size_t i = 0; i < x.quantised.size(); i++) {  // what pads a row must not be read
        if ((int64_t) i % row_blocks >= c.n_in / 32) {
            x.quantised[i].scale_and_sum = __floats2half2_rn(NAN, NAN);
        }
    }
    const DeviceArray<uint8_t> device_weights(weights);
    const DeviceArray<int32_t> device_ids(ids);
    const DeviceArray<PmtpQ8Block> device_x(x.quantised), quantised((size_t) n_pairs * pmtp_row_blocks(c.n_out));
    const DeviceArray<float> out((size_t) n_pairs * c.n_out), one((size_t) kUsed * c.n_out);
    const DeviceArray<char> order(std::max<size_t>(1, pmtp_cuda_expert_order_bytes(c.n_tokens, kUsed, kExperts)));
    ExpertProduct p = {};
    p.format = c.blocks.format;
    p.gate = c.gated ? device_weights.get() : nullptr;
    p.weights = device_weights.get() + (c.gated ? matrix_bytes : 0);
    p.expert_bytes = n_matrices * matrix_bytes;
    p.x = device_x.get();
    p.x_of_pairs = c.x_of_pairs;
    p.out = out.get();
    p.quantised = c.gated ? quantised.get() : nullptr;
    p.ids = device_ids.get();
    p.ids_stride = kStride;
    p.n_in = c.n_in;
    p.n_out = c.n_out;
    p.n_experts = kExperts;
    p.n_used = kUsed;
    p.n_tokens = c.n_tokens;
    p.order = order.get();
    if (!pmtp_cuda_has_expert_product(p)) {
        c.fail("refused");
        return;
    }
    pmtp_cuda_launch_expert_product(p, nullptr);
    check(cudaDeviceSynchronize());
    const std::vector<float> found = out.host();
    if (!is_written(found)) {
        c.fail("a result is missing");
        return;
    }
    for (int pair = 0; pair < n_pairs; pair += n_pairs > 512 ? 97 : n_pairs > 24 ? 7 : 1) {
        const uint8_t * of_expert = &weights[p.expert_bytes * expert_of(ids, pair / kUsed, pair % kUsed)];
        const int row = c.x_of_pairs ? pair : pair / kUsed;
        for (int i = pair % 5; i < c.n_out; i += c.n_out > 512 ? 61 : 7) {
            auto [expected, size] =
                multiply_rows(c.blocks, of_expert + (c.gated ? matrix_bytes : 0) + i * row_bytes, x, c.n_in, row);
            if (c.gated) {
                const auto [g, g_size] = multiply_rows(c.blocks, of_expert + i * row_bytes, x, c.n_in, row);
                const double by = 0.5 * g * (1.0 + std::tanh(0.79788456080286535588 * g * (1.0 + 0.044715 * g * g)));
                size = size * std::abs(by) + std::abs(expected) * 1.2 * g_size;
                expected *= by;
            }
            if (!(std::abs(found[(size_t) pair * c.n_out + i] - expected) <= (c.gated ? 5e-6 : 1e-6) * size + 1e-30)) {
                printf("pair %d, value %d is %g, expected %g\n", pair, i, found[(size_t) pair * c.n_out + i], expected);
                c.fail("a result is wrong");
                return;
            }
        }
    }
    if (c.gated) {
        const std::vector<PmtpQ8Block> blocks = quantised.host();
        for (int pair = 0; pair < n_pairs; pair++) {
            const auto begin = blocks.begin() + pair * pmtp_row_blocks(c.n_out);
            failures += !is_quantised(
                "experts", c.n_out, 1, { begin, begin + pmtp_row_blocks(c.n_out) },
                { found.begin() + (size_t) pair * c.n_out, found.begin() + (size_t) (pair + 1) * c.n_out });
        }
    }
    // a token alone has the same bits
    const int token = c.n_tokens - 1;
    p.ids += (size_t) token * kStride;
    p.x += (c.x_of_pairs ? token * kUsed : token) * row_blocks;
    p.out = one.get();
    p.quantised = nullptr;
    p.n_tokens = 1;
    pmtp_cuda_launch_expert_product(p, nullptr);
    check(cudaDeviceSynchronize());
    if (std::memcmp(one.host().data(), &found[(size_t) token * kUsed * c.n_out], kUsed * c.n_out * sizeof(float)) !=
        0) {
        c.fail("a token alone differs from the same among others");
    }
}

void check_products(const WeightBlocks & blocks, int n_tokens, bool small) {
    std::mt19937 random(n_tokens);
    for (int router = 0; router < (int) Router::count; router++) {
        for (int n_in : small ? std::vector<int>{ 256, 320 } : std::vector<int>{ 256, 320, 704, 2816 }) {
            if (n_in % 256 != 0 && !blocks.is_loose) {
                continue;
            }
            for (int n_out : small ? std::vector<int>{ 32 } : std::vector<int>{ 32, n_in == 2816 ? 704 : 1408 }) {
                if (n_in == 2816 && n_out == 704 && router > 1) {  // most of the time is taken by drawing weights
                    continue;
                }
                check_case({ blocks, n_in, n_out, n_tokens, false, n_in != 2816, (Router) router }, random);
                if (n_in % 256 == 0) {
                    check_case({ blocks, n_in, n_out, n_tokens, true, n_in == 256, (Router) router }, random);
                }
            }
        }
    }
}

// Gate and up, down, and the sum, each in front of the other's end, against the same one by one.
void check_chain(int n_tokens, Router router) {
    constexpr int kIn = 2816, kHidden = 704;
    std::mt19937 random(n_tokens);
    const WeightBlocks & blocks = all_weight_blocks()[0];
    const size_t up_bytes = (size_t) kIn / 256 * blocks.n_bytes * kHidden;
    const DeviceArray<uint8_t> up(draw_weights(blocks, (size_t) kExperts * 2 * kHidden * kIn / 256, random)),
        down(draw_weights(blocks, (size_t) kExperts * kHidden * kIn / 256, random));
    const DeviceArray<int32_t> ids(draw_ids(router, n_tokens, random));
    const DeviceArray<PmtpQ8Block> x(draw_quantised(kIn, n_tokens, random));
    std::vector<float> scales(kExperts), weights(kUsed * n_tokens);
    std::normal_distribution<float> normal(0, 1);
    for (auto * values : { &scales, &weights }) {
        for (float & value : *values) {
            value = normal(random);
        }
    }
    const DeviceArray<float> device_scales(scales), device_weights(weights);
    std::vector<float> results[2], plain;
    for (const bool in_turn : { true, false }) {
        const int n_pairs = n_tokens * kUsed;
        const DeviceArray<float> hidden((size_t) n_pairs * kHidden), out((size_t) n_pairs * kIn),
            sum((size_t) n_tokens * kIn);
        const DeviceArray<PmtpQ8Block> quantised((size_t) n_pairs * pmtp_row_blocks(kHidden));
        const DeviceArray<char> order(std::max<size_t>(1, pmtp_cuda_expert_order_bytes(n_tokens, kUsed, kExperts)));
        ExpertProduct first = {};
        first.format = blocks.format;
        first.gate = up.get();
        first.weights = up.get() + up_bytes;
        first.expert_bytes = 2 * up_bytes;
        first.x = x.get();
        first.out = hidden.get();
        first.quantised = quantised.get();
        first.ids = ids.get();
        first.ids_stride = kStride;
        first.n_in = kIn;
        first.n_out = kHidden;
        first.n_experts = kExperts;
        first.n_used = kUsed;
        first.n_tokens = n_tokens;
        first.order = order.get();
        ExpertProduct second = first;
        second.gate = nullptr;
        second.weights = down.get();
        second.expert_bytes = up_bytes;
        second.x = quantised.get();
        second.x_of_pairs = true;
        second.out = out.get();
        second.quantised = nullptr;
        second.ids_are_old = !in_turn;
        second.is_ordered = true;
        second.n_in = kHidden;
        second.n_out = kIn;
        pmtp_cuda_launch_expert_product(first, nullptr);
        if (in_turn) {
            check(cudaDeviceSynchronize());
            pmtp_cuda_launch_expert_product(second, nullptr);
            check(cudaDeviceSynchronize());
            plain = out.host();
        }
        second.scales = device_scales.get();
        second.by = device_weights.get();
        pmtp_cuda_launch_expert_product(second, nullptr);
        if (in_turn) {
            check(cudaDeviceSynchronize());
        }
        pmtp_cuda_sum_pairs(out.get(), sum.get(), kIn, kUsed, n_tokens, nullptr);
        check(cudaDeviceSynchronize());
        results[in_turn] = sum.host();
        const std::vector<int32_t> host_ids = ids.host();
        for (size_t i = 0; in_turn && i < results[1].size(); i++) {
            double expected = 0.0, size = 1e-30;
            for (int j = 0; j < kUsed; j++) {
                const size_t pair = i / kIn * kUsed + j;
                const double part = (double) plain[pair * kIn + i % kIn] *
                                    scales[expert_of(host_ids, (int) (i / kIn), j)] * weights[pair];
                expected += part;
                size += std::abs(part);
            }
            if (!(std::abs(results[1][i] - expected) <= 1e-6 * size)) {
                printf("sum of %d tokens: value %zu is %g, expected %g\n", n_tokens, i, results[1][i], expected);
                failures++;
                return;
            }
        }
    }
    if (std::memcmp(results[0].data(), results[1].data(), results[0].size() * sizeof(float)) != 0) {
        printf("%d tokens, router %d: the chain differs from its parts\n", n_tokens, (int) router);
        failures++;
    }
}

}  // namespace

int main(int argc, char ** argv) {
    const bool small = argc > 1 && std::strcmp(argv[1], "small") == 0;
    std::vector<std::thread> threads;
    for (const WeightBlocks & blocks : all_weight_blocks()) {
        for (int n_tokens : small ? std::vector<int>{ 4, 66 }
                            : blocks.format == WeightFormat::q4_0
                                ? std::vector<int>{ 1, 2, 3, 5, 8, 9, 16, 33, 64, 100 }
                                : std::vector<int>{ 1, 4, 16, 70 }) {
            if (pmtp_takes_floats(blocks.format)) {
                continue;
            }
            threads.emplace_back([&blocks, n_tokens, small] { check_products(blocks, n_tokens, small); });
            if (small) {  // for tools that follow every access
                threads.back().join();
                threads.pop_back();
            }
        }
    }
    for (std::thread & thread : threads) {
        thread.join();
    }
    for (int n_tokens : small ? std::vector<int>{ 3 } : std::vector<int>{ 1, 4, 16, 64, 100 }) {
        for (int router = 0; router < (int) Router::count; router++) {
            check_chain(n_tokens, (Router) router);
        }
    }
    ExpertProduct p = {};
    p.format = WeightFormat::q4_0;
    p.n_in = 704;
    p.n_out = 64;
    p.n_experts = kExperts;
    p.n_used = kUsed;
    p.n_tokens = 1;
    const auto refused = [p](int ExpertProduct::* field, int value) {
        ExpertProduct changed = p;
        changed.*field = value;
        return !pmtp_cuda_has_expert_product(changed);
    };
    ExpertProduct of_k = p, floats = p, gated = p;
    of_k.format = WeightFormat::q4_K;
    floats.format = WeightFormat::f16;
    gated.gate = &p;
    if (!pmtp_cuda_has_expert_product(p) || !refused(&ExpertProduct::n_in, 96) || !refused(&ExpertProduct::n_out, 48) ||
        !refused(&ExpertProduct::n_tokens, kPmtpMostTokens + 1) ||
        !refused(&ExpertProduct::n_experts, kPmtpMostExperts + 1) || !refused(&ExpertProduct::n_used, 0) ||
        pmtp_cuda_has_expert_product(of_k) || pmtp_cuda_has_expert_product(floats) ||
        pmtp_cuda_has_expert_product(gated)) {
        printf("a shape without a kernel was taken, or one with a kernel refused\n");
        failures++;
    }
    printf(failures == 0 ? "ok\n" : "%d failures\n", failures.load());
    return failures != 0;
}
