// Completes a prompt with and without drafting, and says what drafting brought: the same text, sooner.
//
//     package=$(python -c "import pyllama_mtp; print(pyllama_mtp.get_cmake_dir())")
//     cmake -S examples -B build -Dpyllama_mtp_DIR=$package && cmake --build build
//     build/compare target.gguf assistant.gguf "def main():" 64
#include <pyllama_mtp.h>

#include <cstdio>
#include <cstdlib>
#include <exception>
#include <memory>
#include <stdexcept>
#include <string>
#include <vector>

namespace {

struct Free {
    void operator()(pmtp_model * model) const { pmtp_model_free(model); }
    void operator()(pmtp_sequence * sequence) const { pmtp_sequence_free(sequence); }
};
using Model = std::unique_ptr<pmtp_model, Free>;
using Sequence = std::unique_ptr<pmtp_sequence, Free>;

void check(pmtp_status status) {
    if (status != PMTP_OK) {
        throw std::runtime_error(pmtp_last_error());
    }
}

Model load(const char * target, const char * head) {
    pmtp_model_params params = pmtp_default_model_params();
    params.n_ctx = 1024;
    params.n_threads = 1;
    pmtp_model * model = nullptr;
    check(pmtp_model_load(target, head, &params, &model));
    return Model(model);
}

std::vector<int32_t> tokenize(const Model & model, const std::string & text) {
    std::vector<int32_t> tokens(3 * text.size() + 8);
    int32_t n = 0;
    check(pmtp_tokenize(model.get(), text.data(), text.size(), 1, 1, tokens.data(), (int32_t) tokens.size(), &n,
                        nullptr));
    tokens.resize(n);
    return tokens;
}

struct Completion {
    std::string text;
    pmtp_stats stats;
};

Completion complete(const Model & model, const std::vector<int32_t> & prompt, int max_tokens, int drafts) {
    pmtp_sequence_params params = pmtp_default_sequence_params();
    params.max_tokens = max_tokens;
    params.seed = 7;
    params.num_speculative_tokens = drafts;
    const pmtp_segment whole = { prompt.data(), (int32_t) prompt.size(), 0 };
    pmtp_sequence * started = nullptr;
    check(pmtp_sequence_start(model.get(), &whole, 1, &params, &started));
    const Sequence sequence(started);
    Completion result{};
    pmtp_burst burst{};  // of the one sequence that runs
    while (burst.finish == PMTP_FINISH_NONE) {
        int32_t n_bursts = 0;
        check(pmtp_step(model.get(), &burst, 1, &n_bursts));
        for (int i = 0; i < burst.n_emitted; i++) {
            char bytes[256];
            int32_t n = 0;
            check(pmtp_token_bytes(model.get(), burst.emitted[i], 0, bytes, sizeof bytes, &n));
            result.text.append(bytes, n);
        }
    }
    if (burst.finish == PMTP_FINISH_FAILED) {
        throw std::runtime_error(pmtp_sequence_error(sequence.get()));
    }
    check(pmtp_sequence_get_stats(sequence.get(), &result.stats));
    return result;
}

void compare(char ** argv) {
    const Model model = load(argv[1], argv[2]);
    const std::vector<int32_t> prompt = tokenize(model, argv[3]);
    const int max_tokens = std::atoi(argv[4]);
    const Completion plain = complete(model, prompt, max_tokens, 0);
    const Completion drafted = complete(model, prompt, max_tokens, 3);
    std::printf("%s\n", drafted.text.c_str());
    std::printf("same text: %s\n", plain.text == drafted.text ? "yes" : "no");
    std::printf("evaluations of the target: %d instead of %d\n", drafted.stats.rounds, plain.stats.rounds);
    std::printf("decoding: %.3f s instead of %.3f s\n", drafted.stats.decode_seconds, plain.stats.decode_seconds);
}

}  // namespace

int main(int argc, char ** argv) {
    if (argc != 5 || std::atoi(argv[4]) < 1) {
        std::fprintf(stderr, "usage: %s TARGET.gguf ASSISTANT.gguf PROMPT MAX_TOKENS\n", argv[0]);
        return 2;
    }
    try {
        compare(argv);
    } catch (const std::exception & error) {
        std::fprintf(stderr, "%s\n", error.what());
        return 1;
    }
}
