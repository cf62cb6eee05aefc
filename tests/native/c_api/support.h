/* What the C programs of this folder share. A failed check names its line and ends the program with status 1. */
#ifndef SUPPORT_H
#define SUPPORT_H

#include "pyllama_mtp.h"

#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define CHECK(condition)                                                                                       \
    do {                                                                                                       \
        if (!(condition)) {                                                                                    \
            fprintf(stderr, "%s:%d: %s; last error: %s\n", __FILE__, __LINE__, #condition, pmtp_last_error()); \
            _Exit(1);                                                                                          \
        }                                                                                                      \
    } while (0)

/* A call that must fail with `status` and a message. */
#define CHECK_FAILS(status, call)             \
    do {                                      \
        CHECK((call) == (status));            \
        CHECK(strlen(pmtp_last_error()) > 0); \
    } while (0)

enum { N_CTX = 512, MAX_TEXT = 256 };

static const char PROMPT[] = "import os\n\n\ndef read(path):\n";

typedef struct {
    int32_t tokens[MAX_TEXT];
    int32_t n;
    pmtp_finish finish;
    pmtp_stats stats;
} completion;

static inline pmtp_model * load(const char * target, const char * head, int n_threads) {
    pmtp_model_params params = pmtp_default_model_params();
    params.n_ctx = N_CTX;
    params.n_batch = 32;
    params.n_threads = n_threads;
    pmtp_model * model = NULL;
    CHECK(pmtp_model_load(target, head, &params, &model) == PMTP_OK && model != NULL);
    return model;
}

/* The tokens of `text`, to be freed. */
static inline int32_t * tokenize(const pmtp_model * model, const char * text, int32_t * n) {
    const size_t size = strlen(text);
    int32_t * tokens = (int32_t *) malloc((size + 8) * sizeof *tokens);
    CHECK(tokens != NULL);
    CHECK(pmtp_tokenize(model, text, size, 1, 1, tokens, (int32_t) size + 8, n, NULL) == PMTP_OK);
    return tokens;
}

static inline pmtp_sequence_params greedy(int32_t max_tokens, int32_t drafts) {
    pmtp_sequence_params params = pmtp_default_sequence_params();
    params.temperature = 0;
    params.max_tokens = max_tokens;
    params.num_speculative_tokens = drafts;
    return params;
}

static inline pmtp_status try_start(pmtp_model * model, const int32_t * prompt, int32_t n,
                                    const pmtp_sequence_params * params, pmtp_sequence ** out) {
    const pmtp_segment segment = { prompt, n, 0 };
    return pmtp_sequence_start(model, &segment, 1, params, out);
}

static inline pmtp_sequence * start(pmtp_model * model, const int32_t * prompt, int32_t n,
                                    const pmtp_sequence_params * params) {
    pmtp_sequence * sequence = NULL;
    CHECK(try_start(model, prompt, n, params, &sequence) == PMTP_OK && sequence != NULL);
    return sequence;
}

/* A step of a model with one sequence. */
static inline pmtp_burst step(pmtp_model * model, pmtp_sequence * sequence) {
    pmtp_burst burst;
    int32_t n = -1;
    CHECK(pmtp_step(model, &burst, 1, &n) == PMTP_OK && n == 1 && burst.sequence == sequence);
    return burst;
}

/* Adds what a burst brought to a completion, and checks the burst. */
static inline void add(completion * done, const pmtp_burst * burst, int32_t n_logprobs) {
    float sum = 0;
    CHECK(done->finish == PMTP_FINISH_NONE);
    CHECK(burst->n_drafted >= 0 && burst->n_drafted <= PMTP_MAX_DRAFT && burst->n_accepted <= burst->n_drafted);
    CHECK(burst->n_emitted >= 0 && burst->n_emitted <= burst->n_accepted + 1 && done->n + burst->n_emitted <= MAX_TEXT);
    CHECK((burst->status != PMTP_OK) == (burst->finish == PMTP_FINISH_FAILED));
    CHECK((burst->logprobs != NULL) == (n_logprobs >= 0 && burst->n_emitted > 0));
    memcpy(done->tokens + done->n, burst->emitted, (size_t) burst->n_emitted * sizeof *burst->emitted);
    done->n += burst->n_emitted;
    for (int32_t i = 0; burst->logprobs != NULL && i < burst->n_emitted * (1 + n_logprobs); i++) {
        sum += burst->logprobs[i].logprob; /* every entry is there to be read */
    }
    CHECK(sum <= 0);
    done->finish = (pmtp_finish) burst->finish;
}

/* Steps to the end, checks every burst, and frees the sequence, which is the only one. */
static inline completion finish(pmtp_model * model, pmtp_sequence * sequence, int32_t n_logprobs) {
    completion done;
    pmtp_burst burst;
    int32_t n = -1;
    memset(&done, 0, sizeof done);
    while (done.finish == PMTP_FINISH_NONE) {
        burst = step(model, sequence);
        add(&done, &burst, n_logprobs);
    }
    CHECK(pmtp_sequence_get_stats(sequence, &done.stats) == PMTP_OK && done.stats.completion_tokens == done.n);
    CHECK(pmtp_step(model, &burst, 1, &n) == PMTP_OK && n == 0); /* nothing follows */
    pmtp_sequence_free(sequence);
    return done;
}

static inline completion complete(pmtp_model * model, const char * text, const pmtp_sequence_params * params) {
    int32_t n = 0;
    int32_t * prompt = tokenize(model, text, &n);
    pmtp_sequence * sequence = start(model, prompt, n, params);
    free(prompt);
    return finish(model, sequence, params->n_logprobs);
}

static inline int same(const completion * a, const completion * b) {
    return a->n == b->n && memcmp(a->tokens, b->tokens, (size_t) a->n * sizeof *a->tokens) == 0;
}

#endif
