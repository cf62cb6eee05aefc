// Milliseconds of a whole decode step behind a long context, by cache types, and how much of it the context adds.
// Usage:
//     decode_step TARGET.gguf THREADS ROWS CELLS[,CELLS ...] K,V [K,V ...]
// The cells hold random rows: no time of llama.cpp's depends on their values, and a prefill of 32768 tokens would take
// many minutes for every pair of types. Prints medians over rounds that take the pairs in turn. How to build it:
// README.md.
#include "llama/internal.h"

#include "ggml-cpu.h"

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <random>
#include <sstream>
#include <string>
#include <vector>

namespace {

constexpr int kShort = 512, kRounds = 11;  // cells of the context to compare with; rounds that count

[[noreturn]] void fail(const std::string & message) {
    std::fprintf(stderr, "%s\n", message.c_str());
    std::exit(2);
}

ggml_type type_named(const std::string & name) {
    for (int i = 0; i < GGML_TYPE_COUNT; i++) {
        const char * known = ggml_type_name((ggml_type) i);
        if (known != nullptr && name == known) {
            return (ggml_type) i;
        }
    }
    fail("no type " + name);
}

// Normal values; the same 64 rows again and again.
void fill(ggml_tensor * t) {
    std::mt19937 random(1);
    std::normal_distribution<float> normal;
    std::vector<float> x((size_t) t->ne[0] * 64);
    std::generate(x.begin(), x.end(), [&] { return normal(random); });
    std::vector<char> rows(64 * t->nb[1]);
    ggml_quantize_chunk(t->type, x.data(), rows.data(), 0, 64, t->ne[0], nullptr);
    for (size_t at = 0; at < ggml_nbytes(t); at += rows.size()) {
        ggml_backend_tensor_set(t, rows.data(), at, std::min(rows.size(), ggml_nbytes(t) - at));
    }
}

// Marks the cells of positions first .. first + n - 1 as those of sequence 0.
void occupy(llama_kv_cache & cache, int first, int n) {
    std::vector<llama_pos> positions(n);
    std::vector<int32_t> n_seq_id(n, 1);
    llama_seq_id sequence = 0;
    std::vector<llama_seq_id *> sequences(n, &sequence);
    std::vector<int32_t> seq_idx(LLAMA_MAX_SEQ, -1);
    seq_idx[0] = 0;
    std::vector<llama_token> tokens(n);
    for (int i = 0; i < n; i++) {
        positions[i] = first + i;
    }
    llama_ubatch batch{};
    batch.b_equal_seqs = 1;
    batch.n_tokens = batch.n_seq_tokens = n;
    batch.n_seqs = batch.n_seqs_unq = batch.n_pos = 1;
    batch.token = tokens.data();
    batch.pos = positions.data();
    batch.n_seq_id = n_seq_id.data();
    batch.seq_id = sequences.data();
    batch.seq_id_unq = &sequence;
    batch.seq_idx = seq_idx.data();
    const llama_kv_cache::slot_info slot = cache.find_slot(batch, true);
    if (slot.empty()) {
        fail("no room for " + std::to_string(n) + " cells");
    }
    cache.apply_ubatch(slot, batch);
}

struct Case {
    std::string name;
    llama_context * context;
    std::vector<double> ms;

    llama_kv_cache_iswa & cache() { return dynamic_cast<llama_kv_cache_iswa &>(*llama_get_memory(context)); }

    void fill_rows() {
        for (llama_kv_cache * part : { cache().get_base(), cache().get_swa() }) {
            ggml_context_ptr views(ggml_init({ 64 * ggml_tensor_overhead(), nullptr, true }));
            const llama_kv_cache::slot_info slot{ 0, 0, { 0 }, { { 0 } } };  // of the one stream
            for (uint32_t layer : part->get_layer_ids()) {
                fill(part->get_k_storage(layer));
                fill(part->get_v(views.get(), layer, part->get_size(), slot)->view_src);
            }
        }
    }

    void set_length(int n) {
        llama_memory_clear(llama_get_memory(context), false);
        const int window = std::min<int>(n, llama_model_n_swa(llama_get_model(context)));
        occupy(*cache().get_base(), 0, n);
        occupy(*cache().get_swa(), n - window, window);
    }

    double step(int n, int rows) {
        llama_batch batch = llama_batch_init(rows, 0, 1);
        batch.n_tokens = rows;
        for (int i = 0; i < rows; i++) {
            batch.token[i] = 1000 + i;
            batch.pos[i] = n + i;
            batch.n_seq_id[i] = 1;
            batch.seq_id[i][0] = 0;
            batch.logits[i] = true;
        }
        const auto start = std::chrono::steady_clock::now();
        const int status = llama_decode(context, batch);
        llama_synchronize(context);
        const std::chrono::duration<double, std::milli> elapsed = std::chrono::steady_clock::now() - start;
        llama_batch_free(batch);
        if (status != 0 || !llama_memory_seq_rm(llama_get_memory(context), 0, n, -1)) {
            fail("llama_decode: " + std::to_string(status));
        }
        return elapsed.count();
    }
};

double median(std::vector<double> times) {
    std::nth_element(times.begin(), times.begin() + times.size() / 2, times.end());
    return times[times.size() / 2];
}

// Medians with n cells, those of the step itself among them.
std::vector<double> measure(std::vector<Case> & cases, int n, int rows) {
    for (Case & c : cases) {
        c.set_length(n - rows);
        c.ms.clear();
    }
    for (int round = 0; round <= kRounds; round++) {
        for (Case & c : cases) {
            const double ms = c.step(n - rows, rows);
            if (round > 0) {
                c.ms.push_back(ms);
            }
        }
    }
    std::vector<double> medians;
    for (const Case & c : cases) {
        medians.push_back(median(c.ms));
    }
    return medians;
}

}  // namespace

int main(int argc, char ** argv) {
    if (argc < 6) {
        fail("usage: decode_step TARGET.gguf THREADS ROWS CELLS[,CELLS ...] K,V [K,V ...]");
    }
    const int threads = std::atoi(argv[2]), rows = std::atoi(argv[3]);
    std::vector<int> lengths;
    std::stringstream list(argv[4]);
    for (std::string n; std::getline(list, n, ',');) {
        lengths.push_back(std::atoi(n.c_str()));
    }
    llama_log_set([](ggml_log_level level, const char * text,
                     void *) { level == GGML_LOG_LEVEL_ERROR ? std::fputs(text, stderr) : 0; },
                  nullptr);
    llama_model * model = llama_model_load_from_file(argv[1], llama_model_default_params());
    if (model == nullptr) {
        fail(std::string("cannot load ") + argv[1]);
    }
    ggml_threadpool_params pool_params = ggml_threadpool_params_default(threads);
    ggml_threadpool * pool = ggml_threadpool_new(&pool_params);
    std::vector<Case> cases;
    for (int i = 5; i < argc; i++) {
        const std::string name = argv[i];
        llama_context_params p = llama_context_default_params();
        p.n_ctx = *std::max_element(lengths.begin(), lengths.end());
        p.n_batch = p.n_ubatch = 512;
        p.n_threads = p.n_threads_batch = threads;
        p.type_k = type_named(name.substr(0, name.find(',')));
        p.type_v = type_named(name.substr(name.find(',') + 1));
        p.flash_attn_type = LLAMA_FLASH_ATTN_TYPE_ENABLED;
        p.swa_full = false;
        cases.push_back({ name, llama_init_from_model(model, p), {} });
        if (cases.back().context == nullptr) {
            fail("no context with " + name);
        }
        llama_attach_threadpool(cases.back().context, pool, pool);
        cases.back().fill_rows();
    }
    const std::vector<double> near = measure(cases, kShort, rows);
    for (int n : lengths) {
        const std::vector<double> far = measure(cases, n, rows);
        for (size_t i = 0; i < cases.size(); i++) {
            std::printf("%d cells, %d rows, %s: %.1f ms, %.1f more than with %d cells\n", n, rows,
                        cases[i].name.c_str(), far[i], far[i] - near[i], kShort);
        }
    }
    for (Case & c : cases) {
        llama_free(c.context);
    }
    ggml_threadpool_free(pool);
    llama_model_free(model);
}
