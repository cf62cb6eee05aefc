// Completes a prompt with and without drafting, and says what drafting brought: the same text, sooner.
//
//     cmake -S examples -B build -Dpyllama_mtp_DIR=$(python -c "import pyllama_mtp;
//     print(pyllama_mtp.get_cmake_dir())") cmake --build build && build/compare target.gguf assistant.gguf "def
//     main():" 64
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
    void operator()(pmtp_generation * generation) const { pmtp_generation_free(generation); }
};
using Model = std::unique_ptr<pmtp_model, Free>;
using Generation = std::unique_ptr<pmtp_generation, Free>;

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
    pmtp_generation_params params = pmtp_default_generation_params();
    params.max_tokens = max_tokens;
    params.seed = 7;
    params.num_speculative_tokens = drafts;
    pmtp_generation * started = nullptr;
    check(pmtp_generation_start(model.get(), prompt.data(), (int32_t) prompt.size(), &params, &started));
    const Generation generation(started);
    Completion result{};
    pmtp_burst burst{};
    while (burst.finish == PMTP_FINISH_NONE) {
        check(pmtp_generation_step(generation.get(), &burst));
        for (int i = 0; i < burst.n_emitted; i++) {
            char bytes[256];
            int32_t n = 0;
            check(pmtp_token_bytes(model.get(), burst.emitted[i], 0, bytes, sizeof bytes, &n));
            result.text.append(bytes, n);
        }
    }
    check(pmtp_generation_get_stats(generation.get(), &result.stats));
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
