/* Streams a completion, drafted by an MTP head, from plain C.
 *
 *     cc -o stream stream.c $(pkg-config --cflags --libs pyllama_mtp) \
 *         -Wl,-rpath,$(pkg-config --variable=libdir pyllama_mtp)
 *     ./stream target.gguf assistant.gguf "def main():" 64
 *
 * Pass "" instead of the assistant to decode without drafting. The text goes to stdout, figures and errors to stderr.
 */
#include <pyllama_mtp.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static int failed(const char * what) {
    fprintf(stderr, "%s: %s\n", what, pmtp_last_error());
    return 1;
}

/* Tokens of `text`, n of them, to be freed; NULL on failure. A text has no more tokens than bytes, but for special
 * ones. */
static int32_t * tokenize(const pmtp_model * model, const char * text, int32_t * n) {
    const size_t size = strlen(text);
    const int32_t capacity = 3 * (int32_t) size + 8; /* as many as any vocabulary needs */
    int32_t * tokens = malloc((size_t) capacity * sizeof *tokens);
    if (tokens != NULL && pmtp_tokenize(model, text, size, 1, 1, tokens, capacity, n, NULL) != PMTP_OK) {
        free(tokens);
        tokens = NULL;
    }
    return tokens;
}

static int print_token(const pmtp_model * model, int32_t token) {
    char bytes[256];
    int32_t n = 0;
    if (pmtp_token_bytes(model, token, 0, bytes, sizeof bytes, &n) != PMTP_OK) {
        return failed("pmtp_token_bytes");
    }
    fwrite(bytes, 1, (size_t) n, stdout); /* maybe a part of a character: the next token has the rest */
    fflush(stdout);
    return 0;
}

static int stream(pmtp_model * model, pmtp_sequence * sequence) {
    pmtp_burst burst; /* of the one sequence that runs */
    int32_t n_bursts;
    pmtp_stats stats;
    do { /* a part of the prompt, the first token, then one round of drafted and verified tokens after the other */
        if (pmtp_step(model, &burst, 1, &n_bursts) != PMTP_OK) {
            return failed("pmtp_step");
        }
        for (int32_t i = 0; i < burst.n_emitted; i++) {
            if (print_token(model, burst.emitted[i]) != 0) {
                return 1;
            }
        }
    } while (burst.finish == PMTP_FINISH_NONE);
    if (burst.finish == PMTP_FINISH_FAILED) {
        fprintf(stderr, "the completion failed: %s\n", pmtp_sequence_error(sequence));
        return 1;
    }
    if (pmtp_sequence_get_stats(sequence, &stats) != PMTP_OK) {
        return failed("pmtp_sequence_get_stats");
    }
    fprintf(stderr, "\n%d tokens in %d rounds, %d of %d drafts accepted, %.0f tokens/s\n", stats.completion_tokens,
            stats.rounds, stats.accepted, stats.drafted,
            stats.decode_seconds > 0 ? (stats.completion_tokens - 1) / stats.decode_seconds : 0.0);
    return 0;
}

static int complete(pmtp_model * model, const char * prompt, int32_t max_tokens) {
    int32_t n_prompt = 0;
    int32_t * tokens = tokenize(model, prompt, &n_prompt);
    if (tokens == NULL) {
        return failed("pmtp_tokenize");
    }
    pmtp_sequence_params params = pmtp_default_sequence_params();
    params.max_tokens = max_tokens;
    params.temperature = 0.6;
    params.top_p = 0.95;
    params.seed = 7;
    params.num_speculative_tokens = 3;
    const pmtp_segment whole = { tokens, n_prompt, 0 };
    pmtp_sequence * sequence = NULL;
    const pmtp_status status = pmtp_sequence_start(model, &whole, 1, &params, &sequence);
    free(tokens);
    const int result = status == PMTP_OK ? stream(model, sequence) : failed("pmtp_sequence_start");
    pmtp_sequence_free(sequence);
    return result;
}

int main(int argc, char ** argv) {
    if (argc != 5 || atoi(argv[4]) < 1) {
        fprintf(stderr, "usage: %s TARGET.gguf ASSISTANT.gguf|\"\" PROMPT MAX_TOKENS\n", argv[0]);
        return 2;
    }
    if (pmtp_abi_version() != PMTP_ABI_VERSION) {
        fprintf(stderr, "libpyllama_mtp has ABI version %d, this program was compiled for %d\n", pmtp_abi_version(),
                PMTP_ABI_VERSION);
        return 1;
    }
    pmtp_model_params params = pmtp_default_model_params();
    params.n_ctx = 1024;
    params.n_threads = 1;
    pmtp_model * model = NULL;
    if (pmtp_model_load(argv[1], argv[2][0] != '\0' ? argv[2] : NULL, &params, &model) != PMTP_OK) {
        return failed("pmtp_model_load");
    }
    const int result = complete(model, argv[3], atoi(argv[4]));
    pmtp_model_free(model);
    return result;
}
