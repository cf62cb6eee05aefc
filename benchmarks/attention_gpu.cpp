// Microseconds of one FLASH_ATTN_EXT on a GPU, by shapes and types. Usage: attention_gpu SHAPE[,SHAPE...] K,V [K,V ...]
// A shape is HEAD_SIZE:HEADS:KV_HEADS:CELLS:SEEN:ROWS. Prints a line a shape: for each pair the median of rounds that
// take the pairs in turn, and the bytes of keys and values that are seen a second. How to build it: README.md.
#include "ggml-alloc.h"
#include "ggml-backend.h"
#include "ggml.h"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <memory>
#include <random>
#include <sstream>
#include <string>
#include <vector>

namespace {

// Operations of a graph, each with keys and values of its own, as the layers of a model are.
constexpr int kLayers = 6;
constexpr int kRounds = 15;

ggml_type type_named(const std::string & name) {
    for (int i = 0; i < GGML_TYPE_COUNT; i++) {
        const char * known = ggml_type_name((ggml_type) i);
        if (known != nullptr && name == known) {
            return (ggml_type) i;
        }
    }
    std::fprintf(stderr, "no type %s\n", name.c_str());
    std::exit(2);
}

struct Shape {
    int size, heads, kv_heads, cells, seen, rows;
};

// Normal values; the same 1024 cells again and again.
void fill(ggml_tensor * t, std::mt19937 & random) {
    std::normal_distribution<float> normal;
    const int64_t n = std::min<int64_t>(1024, ggml_nrows(t));
    std::vector<float> x((size_t) (t->ne[0] * n));
    for (float & value : x) {
        value = normal(random);
    }
    std::vector<char> bytes(n * ggml_row_size(t->type, t->ne[0]));
    ggml_quantize_chunk(t->type, x.data(), bytes.data(), 0, n, t->ne[0], nullptr);
    for (size_t at = 0; at < ggml_nbytes(t); at += bytes.size()) {
        ggml_backend_tensor_set(t, bytes.data(), at, std::min(bytes.size(), ggml_nbytes(t) - at));
    }
}

class Timed {
  public:
    Timed(ggml_backend_t backend, const Shape & s, const std::string & types) : backend_(backend) {
        const size_t comma = types.find(',');
        const ggml_type k_type = type_named(types.substr(0, comma)), v_type = type_named(types.substr(comma + 1));
        context_ = ggml_init({ (size_t) 1 << 20, nullptr, true });
        graph_ = ggml_new_graph(context_);
        ggml_tensor * q = ggml_new_tensor_4d(context_, GGML_TYPE_F32, s.size, s.rows, s.heads, 1);
        ggml_tensor * mask = ggml_new_tensor_4d(context_, GGML_TYPE_F16, s.cells, s.rows, 1, 1);
        std::vector<ggml_tensor *> caches;
        for (int i = 0; i < kLayers; i++) {
            for (const ggml_type type : { k_type, v_type }) {  // [size, heads, cells], as a cache has them
                caches.push_back(ggml_new_tensor_3d(context_, type, s.size, s.kv_heads, s.cells));
            }
            ggml_tensor * k = ggml_permute(context_, caches[2 * i], 0, 2, 1, 3);
            ggml_tensor * v = ggml_permute(context_, caches[2 * i + 1], 0, 2, 1, 3);
            ggml_build_forward_expand(
                graph_, ggml_flash_attn_ext(context_, q, k, v, mask, 1.0f / std::sqrt((float) s.size), 0.0f, 0.0f));
        }
        buffer_ = ggml_backend_alloc_ctx_tensors(context_, backend);
        if (buffer_ == nullptr) {
            std::fprintf(stderr, "no memory for %d cells of %s\n", s.cells, types.c_str());
            std::exit(1);
        }
        std::mt19937 random(1);
        for (ggml_tensor * cache : caches) {
            fill(cache, random);
        }
        std::normal_distribution<float> normal;
        std::vector<float> queries((size_t) ggml_nelements(q));
        for (float & value : queries) {
            value = normal(random);
        }
        ggml_backend_tensor_set(q, queries.data(), 0, ggml_nbytes(q));
        std::vector<ggml_fp16_t> seen((size_t) s.cells * s.rows);
        for (size_t i = 0; i < seen.size(); i++) {
            const int row = (int) (i / s.cells), cell = (int) (i % s.cells);
            seen[i] = ggml_fp32_to_fp16(cell > s.seen - s.rows + row ? -INFINITY : 0.0f);
        }
        ggml_backend_tensor_set(mask, seen.data(), 0, ggml_nbytes(mask));
        bytes_ = (double) s.seen * s.kv_heads * (ggml_row_size(k_type, s.size) + ggml_row_size(v_type, s.size));
        for (int i = 0; i < 4; i++) {  // ggml-cuda records a graph when it has seen it
            run();
        }
    }
    ~Timed() {
        ggml_backend_buffer_free(buffer_);
        ggml_free(context_);
    }
    Timed(const Timed &) = delete;

    void measure() {
        constexpr int kTimes = 5;
        const auto begin = std::chrono::steady_clock::now();
        for (int i = 0; i < kTimes; i++) {
            ggml_backend_graph_compute_async(backend_, graph_);
        }
        ggml_backend_synchronize(backend_);
        const std::chrono::duration<double, std::micro> time = std::chrono::steady_clock::now() - begin;
        us_.push_back(time.count() / kTimes / kLayers);
    }

    double us() {
        std::sort(us_.begin(), us_.end());
        return us_[us_.size() / 2];
    }
    double bytes() const { return bytes_; }

  private:
    void run() {
        ggml_backend_graph_compute_async(backend_, graph_);
        ggml_backend_synchronize(backend_);
    }

    ggml_backend_t backend_;
    ggml_context * context_;
    ggml_cgraph * graph_;
    ggml_backend_buffer_t buffer_;
    double bytes_;
    std::vector<double> us_;
};

}  // namespace

int main(int argc, char ** argv) {
    if (argc < 3) {
        std::fprintf(stderr, "usage: attention_gpu SHAPE[,SHAPE...] K,V [K,V ...]\n");
        return 2;
    }
    ggml_backend_load_all();
    ggml_backend_t backend = ggml_backend_init_by_type(GGML_BACKEND_DEVICE_TYPE_GPU, nullptr);
    if (backend == nullptr) {
        std::fprintf(stderr, "no GPU\n");
        return 1;
    }
    std::stringstream shapes(argv[1]);
    for (std::string text; std::getline(shapes, text, ',');) {
        Shape s;
        if (std::sscanf(text.c_str(), "%d:%d:%d:%d:%d:%d", &s.size, &s.heads, &s.kv_heads, &s.cells, &s.seen,
                        &s.rows) != 6) {
            std::fprintf(stderr, "%s is no HEAD_SIZE:HEADS:KV_HEADS:CELLS:SEEN:ROWS\n", text.c_str());
            return 2;
        }
        std::vector<std::unique_ptr<Timed>> timed;
        for (int i = 2; i < argc; i++) {
            timed.push_back(std::make_unique<Timed>(backend, s, argv[i]));
        }
        for (int round = 0; round < kRounds; round++) {
            for (auto & t : timed) {
                t->measure();
            }
        }
        std::printf("%s:", text.c_str());
        for (size_t i = 0; i < timed.size(); i++) {
            std::printf("  %s %.1f us (%.2f TB/s)", argv[2 + i], timed[i]->us(),
                        timed[i]->bytes() / timed[i]->us() * 1e-6);
        }
        std::printf("\n");
        std::fflush(stdout);
    }
    ggml_backend_free(backend);
}
