/* Every function of pyllama_mtp.h with right and wrong arguments, on one thread. For a sanitised build: that nothing is
 * read or written out of bounds, used after it was freed, or left allocated.
 *
 *     calls TARGET.gguf ASSISTANT.gguf FOLDER        FOLDER takes damaged files
 */
#include "support.h"

#include <math.h>

static void check_loading(const char * target, const char * head) {
    const pmtp_model_params good = pmtp_default_model_params();
    pmtp_model * model = NULL;
    CHECK_FAILS(PMTP_ERROR_INVALID_ARGUMENT, pmtp_model_load(NULL, NULL, &good, &model));
    CHECK_FAILS(PMTP_ERROR_INVALID_ARGUMENT, pmtp_model_load(target, NULL, NULL, &model));
    CHECK_FAILS(PMTP_ERROR_INVALID_ARGUMENT, pmtp_model_load(target, NULL, &good, NULL));
    CHECK_FAILS(PMTP_ERROR_MODEL_LOAD, pmtp_model_load("/nowhere.gguf", NULL, &good, &model));
    CHECK_FAILS(PMTP_ERROR_INCOMPATIBLE_HEAD, pmtp_model_load(target, target, &good, &model));
    CHECK_FAILS(PMTP_ERROR_MODEL_LOAD, pmtp_model_load(target, "/nowhere.gguf", &good, &model));
    enum { N = 16 };
    pmtp_model_params bad[N];
    for (int i = 0; i < N; i++) {
        bad[i] = good;
    }
    bad[0].n_ctx = -1;
    bad[1].n_batch = 31;
    bad[2].n_threads = 0;
    bad[3].n_threads = 100000;
    bad[4].flash_attention = 2;
    bad[5].cache_type_k = "q99";
    bad[6].cache_type_v = NULL;
    bad[7].cache_type_k_swa = "f23";
    bad[8].max_num_seqs = 0;
    bad[9].max_num_seqs = PMTP_MAX_SEQS + 1;
    bad[10].n_cells = -1;
    bad[11].prefix_cache_bytes = -1;
    bad[12].drafter = PMTP_DRAFTER_NGRAM + 1;
    bad[13].drafter = -1;
    bad[14].n_cells = INT32_MAX;
    bad[15].n_ctx = INT32_MAX;
    bad[15].max_num_seqs = PMTP_MAX_SEQS;
    for (int i = 0; i < N; i++) {
        CHECK_FAILS(PMTP_ERROR_INVALID_ARGUMENT, pmtp_model_load(target, head, &bad[i], &model));
    }
    pmtp_model_params headless = good;
    headless.drafter = PMTP_DRAFTER_MTP;
    CHECK_FAILS(PMTP_ERROR_INVALID_ARGUMENT, pmtp_model_load(target, NULL, &headless, &model));
    CHECK(model == NULL);
    pmtp_model_free(NULL);
}

/* The first `share` of a file, as another file. */
static void cut(const char * path, const char * into, double share) {
    FILE *in = fopen(path, "rb"), *out = fopen(into, "wb");
    CHECK(in != NULL && out != NULL && fseek(in, 0, SEEK_END) == 0);
    const size_t size = (size_t) ((double) ftell(in) * share);
    char * bytes = malloc(size + 1);
    rewind(in);
    CHECK(bytes != NULL && fread(bytes, 1, size, in) == size && fwrite(bytes, 1, size, out) == size);
    free(bytes);
    fclose(in);
    CHECK(fclose(out) == 0);
}

static void check_cut_files(const char * target, const char * head, const char * folder) {
    const double shares[] = { 0.0, 0.000003, 0.001, 0.02, 0.5, 0.999 };
    const pmtp_model_params params = pmtp_default_model_params();
    char path[4096];
    pmtp_model * model = NULL;
    snprintf(path, sizeof path, "%s/cut.gguf", folder);
    for (size_t i = 0; i < sizeof shares / sizeof *shares; i++) {
        cut(target, path, shares[i]);
        CHECK_FAILS(PMTP_ERROR_MODEL_LOAD, pmtp_model_load(path, NULL, &params, &model));
        cut(head, path, shares[i]);
        CHECK_FAILS(PMTP_ERROR_MODEL_LOAD, pmtp_model_load(target, path, &params, &model));
    }
    CHECK(model == NULL);
}

/* tokens: of PROMPT, with the token that begins it. What is not literal has no special tokens, whole or in part. */
static void check_parts(const pmtp_model * model, const int32_t * tokens, int32_t n) {
    int32_t ids[64], needed = 0;
    CHECK(n <= 64);
    for (size_t cut = 0; cut <= strlen(PROMPT); cut++) {
        const pmtp_text parts[] = { { PROMPT, cut, 1 }, { PROMPT + cut, strlen(PROMPT) - cut, 0 } };
        CHECK(pmtp_tokenize_parts(model, parts, 2, 1, ids, 64, &needed, NULL) == PMTP_OK && needed == n);
        CHECK(memcmp(ids, tokens, (size_t) n * sizeof *ids) == 0);
    }
    const char * bos = "<bos>";
    for (size_t cut = 0; cut <= strlen(bos); cut++) {
        const pmtp_text parts[] = { { bos, cut, 1 }, { bos + cut, strlen(bos) - cut, 0 } };
        CHECK(pmtp_tokenize_parts(model, parts, 2, 0, ids, 64, &needed, NULL) == PMTP_OK);
        int32_t found = 0;
        for (int32_t i = 0; i < needed; i++) {
            found += ids[i] == tokens[0];
        }
        CHECK(found == (cut == strlen(bos)));
    }
    CHECK(pmtp_tokenize_parts(model, NULL, 0, 0, ids, 64, &needed, NULL) == PMTP_OK && needed == 0);
    const pmtp_text no_text = { NULL, 1, 0 }, text = { "a b c", 5, 0 };
    CHECK_FAILS(PMTP_ERROR_INVALID_ARGUMENT, pmtp_tokenize_parts(model, &no_text, 1, 0, ids, 64, &needed, NULL));
    CHECK_FAILS(PMTP_ERROR_INVALID_ARGUMENT, pmtp_tokenize_parts(model, NULL, 1, 0, ids, 64, &needed, NULL));
    CHECK_FAILS(PMTP_ERROR_INVALID_ARGUMENT, pmtp_tokenize_parts(model, &text, 1, 0, ids, 0, &needed, NULL));
    CHECK(needed > 0);
}

static void check_info_and_text(pmtp_model * model) {
    pmtp_model_info info;
    CHECK(pmtp_model_get_info(model, &info) == PMTP_OK && info.n_ctx == N_CTX && info.has_head == 1 &&
          info.n_vocab > 0);
    CHECK(info.max_num_seqs == 1 && info.n_cells == N_CTX && info.drafter == PMTP_DRAFTER_MTP);
    CHECK_FAILS(PMTP_ERROR_INVALID_ARGUMENT, pmtp_model_get_info(NULL, &info));
    pmtp_usage usage;
    int32_t n_texts;
    CHECK(pmtp_model_get_usage(model, &usage) == PMTP_OK && usage.n_running == 0 && usage.n_waiting == 0);
    CHECK_FAILS(PMTP_ERROR_INVALID_ARGUMENT, pmtp_model_get_usage(NULL, &usage));
    CHECK_FAILS(PMTP_ERROR_INVALID_ARGUMENT, pmtp_model_get_usage(model, NULL));
    CHECK_FAILS(PMTP_ERROR_INVALID_ARGUMENT, pmtp_model_save_state(NULL, "state"));
    CHECK_FAILS(PMTP_ERROR_INVALID_ARGUMENT, pmtp_model_save_state(model, NULL));
    CHECK_FAILS(PMTP_ERROR_MODEL_LOAD, pmtp_model_save_state(model, "/nowhere/state"));
    CHECK_FAILS(PMTP_ERROR_INVALID_ARGUMENT, pmtp_model_load_state(NULL, "state", &n_texts));
    CHECK_FAILS(PMTP_ERROR_INVALID_ARGUMENT, pmtp_model_load_state(model, NULL, &n_texts));
    CHECK_FAILS(PMTP_ERROR_INVALID_ARGUMENT, pmtp_model_load_state(model, "state", NULL));
    CHECK_FAILS(PMTP_ERROR_MODEL_LOAD, pmtp_model_load_state(model, "/nowhere/state", &n_texts));
    CHECK(strcmp(pmtp_model_metadata(model, "general.architecture"), "gemma4") == 0);
    CHECK(pmtp_model_metadata(model, "no.such.key") == NULL && pmtp_model_metadata(NULL, "") == NULL);
    CHECK(strlen(pmtp_model_placement(model)) > 0 && strlen(pmtp_model_placement(NULL)) == 0);
    CHECK(info.batch_invariant == (strlen(pmtp_model_batch_dependence(model)) == 0));
    CHECK(strlen(pmtp_model_batch_dependence(NULL)) == 0);

    int32_t n = 0, needed = 0;
    int32_t * tokens = tokenize(model, PROMPT, &n);
    int32_t * exact = malloc((size_t) n * sizeof *exact);
    CHECK(pmtp_tokenize(model, PROMPT, strlen(PROMPT), 1, 1, exact, n, &needed, NULL) == PMTP_OK && needed == n);
    CHECK(memcmp(tokens, exact, (size_t) n * sizeof *exact) == 0);
    for (int32_t room = 0; room < n; room++) {
        CHECK_FAILS(PMTP_ERROR_INVALID_ARGUMENT,
                    pmtp_tokenize(model, PROMPT, strlen(PROMPT), 1, 1, exact, room, &needed, NULL));
        CHECK(needed > room && needed <= n);
    }
    CHECK_FAILS(PMTP_ERROR_INVALID_ARGUMENT, pmtp_tokenize(model, NULL, 0, 1, 1, exact, n, &needed, NULL));
    /* A capacity without a buffer once led to writes to NULL. */
    CHECK_FAILS(PMTP_ERROR_INVALID_ARGUMENT, pmtp_tokenize(model, "x", 1, 1, 1, NULL, n, &needed, NULL));
    CHECK_FAILS(PMTP_ERROR_INVALID_ARGUMENT, pmtp_token_bytes(model, tokens[0], 1, NULL, 8, &needed));
    check_parts(model, tokens, n);
    free(exact);
    free(tokens);

    for (int32_t token = 0; token < info.n_vocab; token++) {
        int32_t size = 0;
        const pmtp_status status = pmtp_token_bytes(model, token, 1, NULL, 0, &size);
        CHECK(status == (size == 0 ? PMTP_OK : PMTP_ERROR_INVALID_ARGUMENT) && size >= 0);
        char * bytes = malloc((size_t) size + 1);
        CHECK(pmtp_token_bytes(model, token, 1, bytes, size, &size) == PMTP_OK);
        free(bytes);
    }
    size_t n_bytes = 0, used = 0;
    uint32_t * sizes = malloc((size_t) info.n_vocab * sizeof *sizes);
    CHECK(sizes != NULL);
    CHECK_FAILS(PMTP_ERROR_INVALID_ARGUMENT, pmtp_vocabulary_bytes(model, 1, NULL, 0, sizes, &n_bytes));
    char * all = malloc(n_bytes);
    CHECK(all != NULL);
    CHECK_FAILS(PMTP_ERROR_INVALID_ARGUMENT, pmtp_vocabulary_bytes(model, 1, all, n_bytes - 1, sizes, &n_bytes));
    CHECK(pmtp_vocabulary_bytes(model, 1, all, n_bytes, sizes, &n_bytes) == PMTP_OK);
    for (int32_t token = 0; token < info.n_vocab; used += sizes[token++]) {
        char own[512];
        CHECK(pmtp_token_bytes(model, token, 1, own, sizeof own, &n) == PMTP_OK);
        CHECK(n == (int32_t) sizes[token] && memcmp(own, all + used, (size_t) n) == 0);
    }
    CHECK(used == n_bytes);
    free(all);
    free(sizes);
    CHECK_FAILS(PMTP_ERROR_INVALID_ARGUMENT, pmtp_vocabulary_bytes(NULL, 1, NULL, 0, NULL, &n_bytes));
    CHECK_FAILS(PMTP_ERROR_INVALID_ARGUMENT, pmtp_token_bytes(model, info.n_vocab, 1, NULL, 0, &n));
    CHECK_FAILS(PMTP_ERROR_INVALID_ARGUMENT, pmtp_token_bytes(model, -1, 1, NULL, 0, &n));
    CHECK(pmtp_token_is_end(model, info.token_eos) == 1 && pmtp_token_is_end(model, -5) == 0 &&
          pmtp_token_is_end(NULL, 0) == 0);
}

/* Every rule, number of drafts and number of logprobs; what must not depend on the drafts does not. */
static void check_rules(pmtp_model * model) {
    const int32_t drafts[] = { 0, 1, 3, PMTP_MAX_DRAFT, PMTP_DRAFT_AUTO };
    for (int32_t rule = PMTP_ACCEPTANCE_AUTO; rule <= PMTP_ACCEPTANCE_BLOCK; rule++) {
        for (int hot = 0; hot < 2; hot++) {
            completion plain = { { 0 }, 0, PMTP_FINISH_NONE, { 0 } };
            for (size_t i = 0; i < sizeof drafts / sizeof *drafts; i++) {
                pmtp_sequence_params params = greedy(24, drafts[i]);
                params.acceptance = rule;
                params.temperature = hot ? 0.7 : 0;
                params.top_p = 0.95;
                params.top_k = 40;
                params.min_p = 0.01;
                params.seed = 11;
                params.n_logprobs = (int32_t) i * 16 - 1;
                params.frequency_penalty = 0.1;
                const completion done = complete(model, PROMPT, &params);
                CHECK(done.n == 24 || done.finish == PMTP_FINISH_STOP);
                CHECK(drafts[i] != 0 || done.stats.drafted == 0);
                plain = i == 0 ? done : plain;
                CHECK(rule > PMTP_ACCEPTANCE_COUPLED || same(&plain, &done));
            }
        }
    }
}

static void check_lists(pmtp_model * model) {
    pmtp_sequence_params params = greedy(20, 3);
    const completion plain = complete(model, PROMPT, &params);
    params.stop_tokens = &plain.tokens[7];
    params.n_stop_tokens = 1;
    const completion stopped = complete(model, PROMPT, &params);
    CHECK(stopped.finish == PMTP_FINISH_STOP && stopped.n <= 8 && stopped.tokens[stopped.n - 1] == plain.tokens[7]);
    params.min_tokens = 12;
    const completion later = complete(model, PROMPT, &params);
    CHECK(later.n >= 12);
    params.n_stop_tokens = 0;
    params.min_tokens = 0;
    const pmtp_logit_bias bias[] = { { plain.tokens[0], -INFINITY }, { plain.tokens[1], 3.5f } };
    params.logit_bias = bias;
    params.n_logit_bias = 2;
    const completion biased = complete(model, PROMPT, &params);
    for (int32_t i = 0; i < biased.n; i++) {
        CHECK(biased.tokens[i] != plain.tokens[0]);
    }
    params = greedy(20, 3);
    const completion again = complete(model, PROMPT, &params);
    CHECK(same(&plain, &again));
    const double forced[] = { 0.9, 0.5, 0.5 };
    params.synthetic_acceptance = forced;
    params.n_synthetic_acceptance = 3;
    CHECK(complete(model, PROMPT, &params).n == 20);
}

static void check_bad_parameters(pmtp_model * model) {
    enum { N = 20 };
    const int32_t token = 5, beyond = 1 << 30;
    const pmtp_logit_bias nan_bias = { 5, NAN }, no_token = { -1, 0 };
    const double rising[] = { 0.5, 0.6 };
    pmtp_sequence_params bad[N];
    for (int i = 0; i < N; i++) {
        bad[i] = pmtp_default_sequence_params();
        bad[i].n_stop_tokens = bad[i].n_logit_bias = i == 18 || i == 19;
    }
    bad[0].max_tokens = 0;
    bad[1].min_tokens = -1;
    bad[2].temperature = NAN;
    bad[3].temperature = -0.1;
    bad[4].top_p = 0;
    bad[5].min_p = 1.1;
    bad[6].top_k = -1;
    bad[7].presence_penalty = NAN;
    bad[8].frequency_penalty = -3;
    bad[9].repetition_penalty = 0;
    bad[10].acceptance = 5;
    bad[11].n_logprobs = PMTP_MAX_LOGPROBS + 1;
    bad[12].num_speculative_tokens = PMTP_MAX_DRAFT + 1;
    bad[13].n_stop_tokens = 1;
    bad[14].n_logit_bias = -1;
    bad[15].n_synthetic_acceptance = 2;
    bad[16].n_synthetic_acceptance = PMTP_MAX_DRAFT + 1;
    bad[17].n_synthetic_acceptance = 2;
    bad[17].synthetic_acceptance = rising;
    bad[18].stop_tokens = &beyond;
    bad[18].logit_bias = &no_token;
    bad[19].stop_tokens = &token;
    bad[19].logit_bias = &nan_bias;
    pmtp_sequence * sequence = NULL;
    for (int i = 0; i < N; i++) {
        CHECK_FAILS(PMTP_ERROR_INVALID_ARGUMENT, try_start(model, &token, 1, &bad[i], &sequence));
    }
    const pmtp_sequence_params good = pmtp_default_sequence_params();
    const pmtp_segment segment = { &token, 1, 0 };
    CHECK_FAILS(PMTP_ERROR_INVALID_ARGUMENT, try_start(model, &token, 0, &good, &sequence));
    CHECK_FAILS(PMTP_ERROR_INVALID_ARGUMENT, try_start(model, &token, -1, &good, &sequence));
    CHECK_FAILS(PMTP_ERROR_INVALID_ARGUMENT, try_start(model, &beyond, 1, &good, &sequence));
    CHECK_FAILS(PMTP_ERROR_INVALID_ARGUMENT, try_start(model, NULL, 1, &good, &sequence));
    CHECK_FAILS(PMTP_ERROR_INVALID_ARGUMENT, pmtp_sequence_start(NULL, &segment, 1, &good, &sequence));
    CHECK_FAILS(PMTP_ERROR_INVALID_ARGUMENT, pmtp_sequence_start(model, NULL, 1, &good, &sequence));
    CHECK_FAILS(PMTP_ERROR_INVALID_ARGUMENT, pmtp_sequence_start(model, NULL, 0, &good, &sequence));
    CHECK_FAILS(PMTP_ERROR_INVALID_ARGUMENT, pmtp_sequence_start(model, &segment, -1, &good, &sequence));
    CHECK_FAILS(PMTP_ERROR_INVALID_ARGUMENT, pmtp_sequence_start(model, &segment, 1, NULL, &sequence));
    CHECK_FAILS(PMTP_ERROR_INVALID_ARGUMENT, pmtp_sequence_start(model, &segment, 1, &good, NULL));
    pmtp_burst burst;
    int32_t n = -7;
    CHECK_FAILS(PMTP_ERROR_INVALID_ARGUMENT, pmtp_step(NULL, &burst, 1, &n));
    CHECK_FAILS(PMTP_ERROR_INVALID_ARGUMENT, pmtp_step(model, NULL, 1, &n));
    CHECK_FAILS(PMTP_ERROR_INVALID_ARGUMENT, pmtp_step(model, &burst, 1, NULL));
    CHECK_FAILS(PMTP_ERROR_INVALID_ARGUMENT, pmtp_step(model, &burst, 0, &n));
    CHECK_FAILS(PMTP_ERROR_INVALID_ARGUMENT, pmtp_step(model, &burst, -1, &n));
    CHECK(n == -7 && pmtp_step(model, &burst, 1, &n) == PMTP_OK && n == 0);
    pmtp_stats stats;
    CHECK_FAILS(PMTP_ERROR_INVALID_ARGUMENT, pmtp_sequence_truncate(NULL, 0));
    CHECK_FAILS(PMTP_ERROR_INVALID_ARGUMENT, pmtp_sequence_get_stats(NULL, &stats));
    sequence = start(model, &token, 1, &good);
    CHECK_FAILS(PMTP_ERROR_INVALID_ARGUMENT, pmtp_sequence_get_stats(sequence, NULL));
    pmtp_sequence_release(&sequence);
    pmtp_sequence_cancel(NULL);
    pmtp_sequence_free(NULL);
    pmtp_sequence_release(NULL);
    CHECK(sequence == NULL && strlen(pmtp_sequence_error(NULL)) == 0);
}

/* A prompt in pieces, empty ones among them, is the prompt. */
static void check_segments(pmtp_model * model) {
    const pmtp_sequence_params params = greedy(16, 3);
    const completion whole = complete(model, PROMPT, &params);
    int32_t n = 0;
    int32_t * prompt = tokenize(model, PROMPT, &n);
    const pmtp_segment segments[] = { { prompt, 3, 1 }, { NULL, 0, 1 }, { prompt + 3, n - 3, 0 } };
    pmtp_sequence * sequence = NULL;
    CHECK(pmtp_sequence_start(model, segments, 3, &params, &sequence) == PMTP_OK);
    free(prompt);
    const completion pieces = finish(model, sequence, -1);
    CHECK(same(&whole, &pieces) && pieces.stats.prompt_tokens == n);
}

/* Prompts up to the context's end, far past the sliding window, and back to a common beginning. */
static void check_context(pmtp_model * model) {
    int32_t prompt[N_CTX + 1];
    for (int32_t i = 0; i <= N_CTX; i++) {
        prompt[i] = 100 + i * 7 % 200;
    }
    pmtp_sequence_params params = greedy(MAX_TEXT, PMTP_MAX_DRAFT);
    params.ignore_eos = 1;
    pmtp_sequence * sequence = NULL;
    CHECK_FAILS(PMTP_ERROR_CONTEXT_OVERFLOW, try_start(model, prompt, N_CTX, &params, &sequence));
    CHECK(sequence == NULL);
    const int32_t rooms[] = { 1, 2, 17, 40, MAX_TEXT };
    for (size_t i = 0; i < sizeof rooms / sizeof *rooms; i++) {
        const completion full = finish(model, start(model, prompt, N_CTX - rooms[i], &params), -1);
        CHECK(full.finish == PMTP_FINISH_LENGTH && full.n == rooms[i]);
        CHECK(i == 0 || full.stats.cached_prompt_tokens < N_CTX - rooms[i]);
    }
    params.max_tokens = 30;
    sequence = start(model, prompt, 60, &params);
    CHECK(step(model, sequence).n_emitted <= 1);
    pmtp_sequence_free(sequence); /* in the middle of the prefill */
}

/* Between two steps, while it waits, when it has ended, and twice. */
static void check_truncation(pmtp_model * model) {
    const pmtp_sequence_params params = greedy(40, 3);
    const completion whole = complete(model, PROMPT, &params);
    int32_t n = 0;
    int32_t * prompt = tokenize(model, PROMPT, &n);
    for (int32_t keep = 0; keep <= 9; keep += 3) {
        pmtp_sequence * sequence = start(model, prompt, n, &params);
        pmtp_stats stats = { 0 };
        pmtp_burst burst;
        int32_t n_bursts = -1;
        while (stats.completion_tokens < 10) {
            step(model, sequence);
            CHECK(pmtp_sequence_get_stats(sequence, &stats) == PMTP_OK);
        }
        float logits[1];
        CHECK_FAILS(PMTP_ERROR_BUSY, pmtp_logits(model, prompt, 1, 1, logits, NULL));
        CHECK_FAILS(PMTP_ERROR_INVALID_ARGUMENT, pmtp_sequence_truncate(sequence, -1));
        CHECK_FAILS(PMTP_ERROR_INVALID_ARGUMENT, pmtp_sequence_truncate(sequence, stats.completion_tokens + 1));
        CHECK(pmtp_sequence_truncate(sequence, keep) == PMTP_OK);
        CHECK(pmtp_step(model, &burst, 1, &n_bursts) == PMTP_OK && n_bursts == 0);
        CHECK(pmtp_sequence_get_stats(sequence, &stats) == PMTP_OK && stats.completion_tokens == keep);
        CHECK_FAILS(PMTP_ERROR_INVALID_ARGUMENT, pmtp_sequence_truncate(sequence, keep + 1));
        CHECK(pmtp_sequence_truncate(sequence, keep / 2) == PMTP_OK);
        pmtp_sequence_free(sequence);
        const completion again = complete(model, PROMPT, &params);
        CHECK(same(&whole, &again) && again.stats.cached_prompt_tokens > 0);
    }
    free(prompt);
}

static void check_logits(pmtp_model * model) {
    enum { N = 40 };
    pmtp_model_info info;
    CHECK(pmtp_model_get_info(model, &info) == PMTP_OK);
    int32_t tokens[N];
    for (int i = 0; i < N; i++) {
        tokens[i] = 100 + i;
    }
    float *one = malloc(N * (size_t) info.n_vocab * sizeof *one),
          *many = malloc(N * (size_t) info.n_vocab * sizeof *many);
    CHECK(one != NULL && many != NULL);
    CHECK(pmtp_logits(model, tokens, N, 1, one, NULL) == PMTP_OK &&
          pmtp_logits(model, tokens, N, 32, many, NULL) == PMTP_OK);
    for (size_t i = 0; i < N * (size_t) info.n_vocab; i++) {
        CHECK(fabsf(one[i] - many[i]) < 0.5f);
    }
    CHECK(pmtp_logits(model, NULL, 0, 1, one, NULL) == PMTP_OK);
    CHECK_FAILS(PMTP_ERROR_INVALID_ARGUMENT, pmtp_logits(model, tokens, N, 33, one, NULL));
    CHECK_FAILS(PMTP_ERROR_INVALID_ARGUMENT, pmtp_logits(model, tokens, -1, 1, one, NULL));
    CHECK_FAILS(PMTP_ERROR_INVALID_ARGUMENT, pmtp_logits(model, tokens, N, 1, NULL, NULL));
    free(one);
    free(many);
}

static void check_quantize(const char * head, const char * folder) {
    char out[4096];
    snprintf(out, sizeof out, "%s/quantised.gguf", folder);
    CHECK_FAILS(PMTP_ERROR_INVALID_ARGUMENT, pmtp_quantize(NULL, out, "q4_k_m", 1, NULL));
    CHECK_FAILS(PMTP_ERROR_INVALID_ARGUMENT, pmtp_quantize(head, NULL, "q4_k_m", 1, NULL));
    CHECK_FAILS(PMTP_ERROR_INVALID_ARGUMENT, pmtp_quantize(head, out, NULL, 1, NULL));
    CHECK_FAILS(PMTP_ERROR_INVALID_ARGUMENT, pmtp_quantize(head, out, "q4_k_m", 0, NULL));
    CHECK_FAILS(PMTP_ERROR_INVALID_ARGUMENT, pmtp_quantize(head, out, "q4_q", 1, NULL));
    CHECK_FAILS(PMTP_ERROR_MODEL_LOAD, pmtp_quantize("/nonexistent.gguf", out, "q4_k_m", 1, NULL));
    CHECK_FAILS(PMTP_ERROR_MODEL_LOAD, pmtp_quantize(head, "/nonexistent/out.gguf", "q4_k_m", 1, NULL));
}

/* A completion past the sliding window, and back into it, for cache types of every kind. */
static void check_cache_types(const char * target, const char * head) {
    const char * types[][4] = { { "f32", "bf16", NULL, NULL },       { "q8_0", "q4_0", NULL, NULL },
                                { "iq4_nl", "q5_1", "f16", "f16" },  { "turbo4", "turbo3", NULL, NULL },
                                { "turbo2", "turbo4", "f16", NULL }, { "f16", "q8_0", "turbo3", "turbo2" } };
    for (size_t i = 0; i < sizeof types / sizeof *types; i++) {
        pmtp_model_params params = pmtp_default_model_params();
        params.n_ctx = N_CTX;
        params.n_batch = 64;
        params.n_threads = 1;
        params.cache_type_k = types[i][0];
        params.cache_type_v = types[i][1];
        params.cache_type_k_swa = types[i][2];
        params.cache_type_v_swa = types[i][3];
        pmtp_model * model = NULL;
        CHECK(pmtp_model_load(target, head, &params, &model) == PMTP_OK);
        for (int32_t drafts = 0; drafts <= 5; drafts += 5) {
            pmtp_sequence_params sequence = greedy(140, drafts);
            sequence.ignore_eos = 1;
            const completion done = complete(model, PROMPT, &sequence);
            CHECK(done.n == 140 && (drafts == 0 || done.stats.accepted > 0));
        }
        pmtp_model_free(model);
    }
}

int main(int argc, char ** argv) {
    CHECK(argc == 4);
    CHECK(pmtp_abi_version() == PMTP_ABI_VERSION && strlen(pmtp_last_error()) == 0);
    check_loading(argv[1], argv[2]);
    check_cut_files(argv[1], argv[2], argv[3]);
    check_quantize(argv[2], argv[3]);
    pmtp_model * model = load(argv[1], argv[2], 1);
    check_info_and_text(model);
    check_rules(model);
    check_lists(model);
    check_bad_parameters(model);
    check_segments(model);
    check_truncation(model);
    check_logits(model);
    check_context(model);
    pmtp_model_free(model);
    check_cache_types(argv[1], argv[2]);
    puts("every call behaved");
    return 0;
}
