// Milliseconds of one FLASH_ATTN_EXT over a full KV cache, by types. Usage: attention HEAD_SIZE HEADS KV_HEADS CELLS
// ROWS THREADS K,V [K,V ...] Prints a line a pair, the median of rounds that take the pairs in turn. How to build it:
// README.md.
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

// Normal values; the same 64 cells again and again.
static void fill(ggml_tensor * t, std::mt19937 & random) {
    std::normal_distribution<float> normal;
    std::vector<float> x((size_t) t->ne[0] * 64);
    for (float & value : x) {
        value = normal(random);
    }
    std::vector<char> bytes(64 * t->nb[1]);
    if (t->type == GGML_TYPE_F16) {
        ggml_fp32_to_fp16_row(x.data(), (ggml_fp16_t *) bytes.data(), (int64_t) x.size());
    } else {
        ggml_quantize_chunk(t->type, x.data(), bytes.data(), 0, 64, t->ne[0], nullptr);
    }
    for (size_t at = 0; at < ggml_nbytes(t); at += bytes.size()) {
        std::memcpy((char *) t->data + at, bytes.data(), std::min(bytes.size(), ggml_nbytes(t) - at));
    }
}

struct Pair {
    std::string name;
    ggml_context * context;
    ggml_cgraph * graph;
    ggml_cplan plan;
    std::vector<uint8_t> work;
    std::vector<double> ms;
};

int main(int argc, char ** argv) {
    if (argc < 8) {
        std::fprintf(stderr, "usage: attention HEAD_SIZE HEADS KV_HEADS CELLS ROWS THREADS K,V [K,V ...]\n");
        return 2;
    }
    const int size = std::atoi(argv[1]), heads = std::atoi(argv[2]), kv_heads = std::atoi(argv[3]);
    const int cells = std::atoi(argv[4]), rows = std::atoi(argv[5]), threads = std::atoi(argv[6]);
    ggml_threadpool_params pool_params = ggml_threadpool_params_default(threads);
    ggml_threadpool * pool = ggml_threadpool_new(&pool_params);
    std::vector<Pair> pairs;
    for (int i = 7; i < argc; i++) {
        const std::string name = argv[i];
        const size_t comma = name.find(',');
        std::mt19937 random(1);
        Pair pair{ name,    ggml_init({ (size_t) 4 * cells * kv_heads * size + ((size_t) 64 << 20), nullptr, false }),
                   nullptr, {},
                   {},      {} };
        ggml_tensor * q = ggml_new_tensor_4d(pair.context, GGML_TYPE_F32, size, rows, heads, 1);
        ggml_tensor * k = ggml_new_tensor_4d(pair.context, type_named(name.substr(0, comma)), size, cells, kv_heads, 1);
        ggml_tensor * v =
            ggml_new_tensor_4d(pair.context, type_named(name.substr(comma + 1)), size, cells, kv_heads, 1);
        ggml_tensor * mask = ggml_new_tensor_4d(pair.context, GGML_TYPE_F16, cells, rows, 1, 1);
        std::normal_distribution<float> normal;
        for (int64_t j = 0; j < ggml_nelements(q); j++) {
            ((float *) q->data)[j] = normal(random);
        }
        fill(k, random);
        fill(v, random);
        std::memset(mask->data, 0, ggml_nbytes(mask));
        ggml_tensor * out =
            ggml_flash_attn_ext(pair.context, q, k, v, mask, 1.0f / std::sqrt((float) size), 0.0f, 0.0f);
        pair.graph = ggml_new_graph(pair.context);
        ggml_build_forward_expand(pair.graph, out);
        pair.plan = ggml_graph_plan(pair.graph, threads, pool);
        pairs.push_back(std::move(pair));
    }
    for (Pair & pair : pairs) {
        pair.work.resize(pair.plan.work_size);
        pair.plan.work_data = pair.work.data();
    }
    const auto begin = std::chrono::steady_clock::now();
    for (int round = 0; round < 4 || (round < 60 && std::chrono::steady_clock::now() - begin < std::chrono::seconds(3));
         round++) {
        for (Pair & pair : pairs) {
            const auto start = std::chrono::steady_clock::now();
            ggml_graph_compute(pair.graph, &pair.plan);
            const std::chrono::duration<double, std::milli> elapsed = std::chrono::steady_clock::now() - start;
            if (round > 0) {
                pair.ms.push_back(elapsed.count());
            }
        }
    }
    for (Pair & pair : pairs) {
        std::nth_element(pair.ms.begin(), pair.ms.begin() + pair.ms.size() / 2, pair.ms.end());
        std::printf("%s %.4f\n", pair.name.c_str(), pair.ms[pair.ms.size() / 2]);
        ggml_free(pair.context);
    }
    ggml_threadpool_free(pool);
}
