// What products with several activation rows cost, in units of one row: the matrices of some of E2B's layers, together
// larger than a cache, in one graph. Usage: products TYPE THREADS ROUNDS ROWS [ROWS ...] Every round takes the row
// counts in turn. Prints a line for each: the least milliseconds, and the ratio to one row of the same round, median
// and quartiles. How to build it: README.md.
#include "ggml-alloc.h"
#include "ggml-backend.h"
#include "ggml-cpu.h"
#include "ggml.h"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <random>
#include <string>
#include <vector>

static ggml_type type_named(const std::string & name) {
    for (int i = 0; i < GGML_TYPE_COUNT; i++) {
        const char * known = ggml_type_name((ggml_type) i);
        if (known != nullptr && name == known) {
            return (ggml_type) i;
        }
    }
    std::fprintf(stderr, "no type %s\n", name.c_str());
    std::exit(2);
}

// As a model's loader chooses it: with kernels for repacked weights where there are any.
static ggml_backend_buffer_type_t buffer_type_for(ggml_backend_t cpu, ggml_tensor * weights, ggml_tensor * product) {
    ggml_backend_dev_t device = ggml_backend_get_device(cpu);
    ggml_backend_reg_t reg = ggml_backend_dev_backend_reg(device);
    const auto extra =
        (ggml_backend_dev_get_extra_bufts_t) ggml_backend_reg_get_proc_address(reg, "ggml_backend_dev_get_extra_bufts");
    for (ggml_backend_buffer_type_t * type = extra(device); type != nullptr && *type != nullptr; type++) {
        ggml_backend_buffer_t empty = ggml_backend_buft_alloc_buffer(*type, 0);
        weights->buffer = empty;
        const bool supported = ggml_backend_dev_supports_op(device, product);
        weights->buffer = nullptr;
        ggml_backend_buffer_free(empty);
        if (supported) {
            return *type;
        }
    }
    return ggml_backend_cpu_buffer_type();
}

// Normal values of the type; the same 32 rows again and again.
static void fill(ggml_tensor * weights, std::mt19937 & random) {
    std::normal_distribution<float> normal(0.0f, 0.02f);
    std::vector<float> x((size_t) weights->ne[0] * 32);
    for (float & value : x) {
        value = normal(random);
    }
    const size_t row = ggml_row_size(weights->type, weights->ne[0]);
    std::vector<char> bytes(row * weights->ne[1]);
    ggml_quantize_chunk(weights->type, x.data(), bytes.data(), 0, 32, weights->ne[0], nullptr);
    for (int64_t done = 32; done < weights->ne[1]; done += 32) {
        std::memcpy(&bytes[done * row], bytes.data(), row * std::min<int64_t>(32, weights->ne[1] - done));
    }
    ggml_backend_tensor_set(weights, bytes.data(), 0, bytes.size());
}

struct Batch {
    int rows;
    ggml_cgraph * graph;
    std::vector<double> ms;
};

int main(int argc, char ** argv) {
    if (argc < 5) {
        std::fprintf(stderr, "usage: products TYPE THREADS ROUNDS ROWS [ROWS ...]\n");
        return 2;
    }
    // [n_in, n_out]: queries, keys, output, gate, up, down.
    constexpr int kShapes[][2] = { { 1536, 2048 },  { 1536, 256 },   { 2048, 1536 },
                                   { 1536, 12288 }, { 1536, 12288 }, { 12288, 1536 } };
    constexpr int kLayers = 4;
    const ggml_type type = type_named(argv[1]);
    const int rounds = std::atoi(argv[3]);
    ggml_backend_t cpu = ggml_backend_cpu_init();
    ggml_backend_cpu_set_n_threads(cpu, std::atoi(argv[2]));
    std::mt19937 random(1);

    std::vector<ggml_tensor *> weights;
    for (int layer = 0; layer < kLayers; layer++) {
        for (const auto & shape : kShapes) {
            ggml_context * own = ggml_init({ 4 * ggml_tensor_overhead(), nullptr, true });
            ggml_tensor * w = ggml_new_tensor_2d(own, type, shape[0], shape[1]);
            ggml_tensor * product = ggml_mul_mat(own, w, ggml_new_tensor_2d(own, GGML_TYPE_F32, shape[0], 1));
            ggml_backend_buffer_type_t buffer_type = buffer_type_for(cpu, w, product);
            ggml_backend_buffer_t buffer =
                ggml_backend_buft_alloc_buffer(buffer_type, ggml_backend_buft_get_alloc_size(buffer_type, w));
            ggml_backend_tensor_alloc(buffer, w, ggml_backend_buffer_get_base(buffer));
            fill(w, random);
            weights.push_back(w);
        }
    }
    std::vector<Batch> batches{ { 1, nullptr, {} } };
    for (int i = 4; i < argc; i++) {
        batches.push_back({ std::atoi(argv[i]), nullptr, {} });
    }
    for (Batch & batch : batches) {
        ggml_context * context = ggml_init({ 256 * ggml_tensor_overhead() + ggml_graph_overhead(), nullptr, true });
        batch.graph = ggml_new_graph(context);
        std::vector<ggml_tensor *> inputs;
        for (ggml_tensor * w : weights) {
            inputs.push_back(ggml_new_tensor_2d(context, GGML_TYPE_F32, w->ne[0], batch.rows));
            ggml_build_forward_expand(batch.graph, ggml_mul_mat(context, w, inputs.back()));
        }
        ggml_backend_alloc_ctx_tensors(context, cpu);
        std::normal_distribution<float> normal;
        for (ggml_tensor * input : inputs) {
            std::generate_n((float *) input->data, ggml_nelements(input), [&] { return normal(random); });
        }
    }
    for (int round = 0; round <= rounds; round++) {
        for (Batch & batch : batches) {
            const auto begin = std::chrono::steady_clock::now();
            ggml_backend_graph_compute(cpu, batch.graph);
            const std::chrono::duration<double, std::milli> ms = std::chrono::steady_clock::now() - begin;
            if (round > 0) {
                batch.ms.push_back(ms.count());
            }
        }
    }
    for (const Batch & batch : batches) {
        std::vector<double> ratios;
        for (int i = 0; i < rounds; i++) {
            ratios.push_back(batch.ms[i] / batches[0].ms[i]);
        }
        std::sort(ratios.begin(), ratios.end());
        const double least = *std::min_element(batch.ms.begin(), batch.ms.end());
        const double least_of_one = *std::min_element(batches[0].ms.begin(), batches[0].ms.end());
        std::printf("%4d rows  least %8.2f ms %6.2f  ratio %6.2f (%.2f to %.2f)\n", batch.rows, least,
                    least / least_of_one, ratios[rounds / 2], ratios[rounds / 4], ratios[rounds * 3 / 4]);
    }
}
