// What 3-bit formats cost a whole model, in turbo3's place: the block of 128 of the existing forks (indices at the root
// mean square, the scale |x| / |q|: "norm-corrected"), and a block of 128 whose scale is searched for as turbo3's is.
//
//     formats TARGET.gguf TEXT
//
// Prints the mean divergence of the next-token distribution from an f16 cache's over the text's first 1024 tokens (or
// over 1024 random tokens if TEXT is -), and returns 1 unless turbo3, and at equal bits the searched block of 128,
// diverge less than the forks' format.
//
// The linker hands every call of turbo_encode to __wrap_turbo_encode. Two blocks of turbo3 with one scale hold a block
// of 128 exactly, and so every format is rotated, stored and attended to alike.
#include "turboquant/codec.h"

#include "llama.h"

#include <cmath>
#include <cstdio>
#include <cstring>
#include <fstream>
#include <iterator>
#include <random>
#include <string>
#include <vector>

namespace {

constexpr int kTokens = 1024, kPiece = 512, kLongBlock = 128;

enum class Format { turbo3, forks, searched };
Format format = Format::turbo3;

struct Fit {
    double xq = 0, qq = 0;  // of x with its codebook vector q
    std::vector<uint8_t> index;
};

Fit quantised(const float * x, int n, double scale) {
    Fit fit;
    for (int i = 0; i < n; i++) {
        int level = 0;
        for (float edge : turbo3_edges) {
            level += std::fabs(x[i]) > edge * scale;
        }
        fit.index.push_back((uint8_t) (x[i] < 0 ? 3 - level : 4 + level));
        fit.xq += std::fabs(x[i]) * turbo3_levels[level];
        fit.qq += (double) turbo3_levels[level] * turbo3_levels[level];
    }
    return fit;
}

// A block of n values, n a multiple of 64, under one scale.
void encode_long_block(turbo_role role, const float * x, int n, block_turbo3 * blocks) {
    double squares = 0;
    for (int i = 0; i < n; i++) {
        squares += (double) x[i] * x[i];
    }
    if (squares == 0) {
        std::memset(blocks, 0, n / TURBO_BLOCK * sizeof(*blocks));
        return;
    }
    const double rms = std::sqrt(squares / n);
    Fit fit = quantised(x, n, rms);
    double scale = std::sqrt(squares / fit.qq);
    if (format == Format::searched) {
        for (double factor = 0.72; factor < 1.36; factor += 0.015) {
            Fit other = quantised(x, n, rms * factor);
            if (other.xq * other.xq / other.qq > fit.xq * fit.xq / fit.qq) {
                fit = other;
            }
        }
        scale = role == TURBO_VALUE ? squares / fit.xq : fit.xq / fit.qq;  // turbo3's own rules
    }
    for (int i = 0; i < n; i += TURBO_BLOCK) {
        turbo_pack(3, turbo_half((float) scale), fit.index.data() + i, blocks + i / TURBO_BLOCK);
    }
}

// Log probabilities, [kTokens][n_vocab], in pieces of kPiece tokens.
std::vector<float> log_probabilities(llama_model * model, ggml_type type, const std::vector<llama_token> & tokens) {
    llama_context_params p = llama_context_default_params();
    p.n_ctx = p.n_batch = p.n_ubatch = kPiece;
    p.n_threads = p.n_threads_batch = 1;
    p.type_k = p.type_v = type;
    p.swa_full = false;
    llama_context * context = llama_init_from_model(model, p);
    const int n_vocab = llama_vocab_n_tokens(llama_model_get_vocab(model));
    std::vector<float> result;
    for (int start = 0; context != nullptr && start < kTokens; start += kPiece) {
        llama_memory_clear(llama_get_memory(context), true);
        llama_batch batch = llama_batch_init(kPiece, 0, 1);
        batch.n_tokens = kPiece;
        for (int i = 0; i < kPiece; i++) {
            batch.token[i] = tokens[start + i];
            batch.pos[i] = i;
            batch.n_seq_id[i] = 1;
            batch.seq_id[i][0] = 0;
            batch.logits[i] = true;
        }
        const int status = llama_decode(context, batch);
        llama_batch_free(batch);
        for (int i = 0; status == 0 && i < kPiece; i++) {
            const float * logits = llama_get_logits_ith(context, i);
            double sum = 0;
            for (int t = 0; t < n_vocab; t++) {
                sum += std::exp((double) logits[t]);
            }
            for (int t = 0; t < n_vocab; t++) {
                result.push_back((float) (logits[t] - std::log(sum)));
            }
        }
    }
    llama_free(context);
    return result;
}

double divergence(const std::vector<float> & reference, const std::vector<float> & other) {
    double sum = 0;
    for (size_t i = 0; i < reference.size(); i++) {
        sum += std::exp((double) reference[i]) * ((double) reference[i] - other[i]);
    }
    return sum / kTokens;
}

std::vector<llama_token> tokens_of(const llama_vocab * vocab, const char * path) {
    std::vector<llama_token> tokens(1 << 20);
    if (std::strcmp(path, "-") == 0) {
        std::mt19937 random(9);
        const int n_vocab = llama_vocab_n_tokens(vocab);
        tokens.resize(kTokens);
        for (llama_token & token : tokens) {
            token = n_vocab / 2 + (llama_token) (random() % (n_vocab / 2));
        }
        return tokens;
    }
    std::ifstream file(path);
    const std::string text{ std::istreambuf_iterator<char>(file), {} };
    const int n =
        llama_tokenize(vocab, text.data(), (int) text.size(), tokens.data(), (int) tokens.size(), true, false);
    tokens.resize(n < 0 ? 0 : n);
    return tokens;
}

}  // namespace

extern "C" {
void __real_turbo_encode(int bits, turbo_role role, const float * x, void * blocks, int64_t n);

void __wrap_turbo_encode(int bits, turbo_role role, const float * x, void * blocks, int64_t n) {
    if (format == Format::turbo3) {
        __real_turbo_encode(bits, role, x, blocks, n);
        return;
    }
    for (int64_t i = 0; i < n; i += kLongBlock) {
        const int length = n - i < kLongBlock ? (int) (n - i) : kLongBlock;
        encode_long_block(role, x + i, length, (block_turbo3 *) blocks + i / TURBO_BLOCK);
    }
}
}

int main(int argc, char ** argv) {
    if (argc != 3) {
        std::fprintf(stderr, "usage: formats TARGET.gguf TEXT\n");
        return 2;
    }
    llama_log_set([](ggml_log_level level, const char * text,
                     void *) { level == GGML_LOG_LEVEL_ERROR ? std::fputs(text, stderr) : 0; },
                  nullptr);
    llama_model * model = llama_model_load_from_file(argv[1], llama_model_default_params());
    if (model == nullptr) {
        return 2;
    }
    const std::vector<llama_token> tokens = tokens_of(llama_model_get_vocab(model), argv[2]);
    if ((int) tokens.size() < kTokens) {
        std::fprintf(stderr, "%s has %zu tokens, expected %d\n", argv[2], tokens.size(), kTokens);
        return 2;
    }
    const std::vector<float> reference = log_probabilities(model, GGML_TYPE_F16, tokens);
    double found[3];
    for (Format f : { Format::turbo3, Format::forks, Format::searched }) {
        format = f;
        const std::vector<float> other = log_probabilities(model, GGML_TYPE_TURBO3, tokens);
        if (other.size() != reference.size() || other.empty()) {
            std::fprintf(stderr, "cannot evaluate\n");
            return 2;
        }
        found[(int) f] = divergence(reference, other);
    }
    llama_model_free(model);
    std::printf("turbo3 %.4f; forks' block of 128 %.4f, searched %.4f; to the forks': %.2f, %.2f\n", found[0], found[1],
                found[2], found[0] / found[1], found[2] / found[1]);
    return found[0] < found[1] && found[2] < found[1] ? 0 : 1;
}
