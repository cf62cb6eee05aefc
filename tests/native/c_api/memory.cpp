// TurboQuant caches under llama.cpp's own memory functions, most of which the library does not use: two sequences in
// one cache, saving and restoring a sequence, and context shift.
//
//     memory TARGET.gguf TYPE_K TYPE_V
//
// Prints what failed and returns 1, or returns 0. The target's vocabulary must have 300 tokens or more.
#include "llama.h"

#include <cmath>
#include <cstdio>
#include <cstring>
#include <random>
#include <vector>

namespace {

constexpr int kCells = 256,
              kTokens = 96;  // so few cells that the sliding layers have as many, which context shift needs

int failures = 0;

void check(bool ok, const char * what) {
    if (!ok) {
        std::printf("failed: %s\n", what);
        failures++;
    }
}

ggml_type type_named(const char * name) {
    for (int type = 0; type < GGML_TYPE_COUNT; type++) {
        const char * known = ggml_type_name((ggml_type) type);
        if (known != nullptr && std::strcmp(known, name) == 0) {
            return (ggml_type) type;
        }
    }
    return GGML_TYPE_COUNT;
}

struct Context {
    Context(llama_model * model, ggml_type k, ggml_type v, bool unified = true)
        : n_vocab(llama_vocab_n_tokens(llama_model_get_vocab(model))) {
        llama_context_params p = llama_context_default_params();
        p.n_ctx = unified ? kCells : 2 * kCells;
        p.n_batch = p.n_ubatch = 128;
        p.n_seq_max = 2;
        p.kv_unified = unified;
        p.n_threads = p.n_threads_batch = 1;
        p.type_k = k;
        p.type_v = v;
        p.swa_full = false;
        context = llama_init_from_model(model, p);
    }
    ~Context() { llama_free(context); }
    Context(const Context &) = delete;
    Context & operator=(const Context &) = delete;

    // Evaluates tokens of a sequence from position `first` on; the last one's logits.
    std::vector<float> evaluate(const std::vector<llama_token> & tokens, llama_pos first, llama_seq_id sequence) {
        llama_batch batch = llama_batch_init((int) tokens.size(), 0, 1);
        batch.n_tokens = (int) tokens.size();
        for (int i = 0; i < batch.n_tokens; i++) {
            batch.token[i] = tokens[i];
            batch.pos[i] = first + i;
            batch.n_seq_id[i] = 1;
            batch.seq_id[i][0] = sequence;
            batch.logits[i] = i + 1 == batch.n_tokens;
        }
        const int status = llama_decode(context, batch);
        llama_batch_free(batch);
        check(status == 0, "llama_decode");
        const float * logits = status == 0 ? llama_get_logits_ith(context, -1) : nullptr;
        return logits != nullptr ? std::vector<float>(logits, logits + n_vocab) : std::vector<float>(n_vocab);
    }

    llama_context * context;
    int n_vocab;
};

// Root mean square of a - b over that of a.
double distance(const std::vector<float> & a, const std::vector<float> & b) {
    double error = 0, squares = 0;
    for (size_t i = 0; i < a.size(); i++) {
        error += ((double) a[i] - b[i]) * ((double) a[i] - b[i]);
        squares += (double) a[i] * a[i];
    }
    return std::sqrt(error / squares);
}

std::vector<llama_token> text(unsigned seed, int n) {
    std::mt19937 random(seed);
    std::vector<llama_token> tokens(n);
    for (llama_token & token : tokens) {
        token = (llama_token) (264 + random() % 36);
    }
    return tokens;
}

}  // namespace

int main(int argc, char ** argv) {
    if (argc != 4) {
        return 2;
    }
    llama_log_set(
        [](ggml_log_level level, const char * line, void *) {
            if (level == GGML_LOG_LEVEL_ERROR)
                std::fputs(line, stdout);
        },
        nullptr);
    llama_model * model = llama_model_load_from_file(argv[1], llama_model_default_params());
    const ggml_type k = type_named(argv[2]), v = type_named(argv[3]);
    if (model == nullptr || k == GGML_TYPE_COUNT || v == GGML_TYPE_COUNT) {
        return 2;
    }
    const std::vector<llama_token> first = text(1, kTokens), second = text(2, kTokens), next = { 270 };
    std::vector<float> alone, other_alone;
    {
        Context c(model, k, v);
        c.evaluate(first, 0, 0);
        alone = c.evaluate(next, kTokens, 0);
    }
    {
        Context c(model, k, v);
        c.evaluate(second, 0, 1);
        other_alone = c.evaluate(next, kTokens, 1);
    }
    for (bool unified : { true, false }) {  // two sequences side by side, in shared cells and in cells of their own
        Context c(model, k, v, unified);
        c.evaluate(first, 0, 0);
        c.evaluate(second, 0, 1);
        check(distance(alone, c.evaluate(next, kTokens, 0)) < 0.02, "sequence 0 beside sequence 1");
        check(distance(other_alone, c.evaluate(next, kTokens, 1)) < 0.02, "sequence 1 beside sequence 0");
    }
    const bool is_f16 = k == GGML_TYPE_F16 && v == GGML_TYPE_F16;
    {  // saved, overwritten, restored: the same bytes, so the same logits
        Context c(model, k, v);
        c.evaluate(first, 0, 0);
        std::vector<uint8_t> state(llama_state_seq_get_size(c.context, 0));
        check(llama_state_seq_get_data(c.context, state.data(), state.size(), 0) == state.size(), "saving a sequence");
        llama_memory_clear(llama_get_memory(c.context), true);
        c.evaluate(second, 0, 0);
        llama_memory_clear(llama_get_memory(c.context), true);
        check(llama_state_seq_set_data(c.context, state.data(), state.size(), 0) == state.size(),
              "restoring a sequence");
        check(c.evaluate(next, kTokens, 0) == alone, "a restored sequence");
        Context f16(model, GGML_TYPE_F16, GGML_TYPE_F16);
        check(is_f16 || llama_state_seq_set_data(f16.context, state.data(), state.size(), 0) == 0,
              "refusal by a cache of another type");
    }
    {  // shifted: keys are decoded, turned and encoded again, which adds about one more error of their encoding
        const auto evaluate = [&](ggml_type type_k, ggml_type type_v, llama_pos shift) {
            Context c(model, type_k, type_v);
            c.evaluate(first, 0, 0);
            llama_memory_t memory = llama_get_memory(c.context);
            check(llama_memory_can_shift(memory), "whether the cache can shift");
            llama_memory_seq_rm(memory, 0, 0, shift);
            llama_memory_seq_add(memory, 0, shift, -1, -shift);
            return c.evaluate(next, kTokens - shift, 0);
        };
        const double plain = distance(evaluate(GGML_TYPE_F16, GGML_TYPE_F16, 0), alone);
        const double shifted = distance(evaluate(GGML_TYPE_F16, GGML_TYPE_F16, 32), evaluate(k, v, 32));
        std::printf("error of the logits %.4f, after a context shift %.4f\n", plain, shifted);
        check(shifted < 0.005 + 2.5 * plain, "context shift");
    }
    llama_model_free(model);
    return failures != 0;
}
