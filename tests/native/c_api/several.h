/* What the C programs share that run several sequences of one model. */
#ifndef SEVERAL_H
#define SEVERAL_H

#include "support.h"

enum { MAX_COURSES = 8, N_BATCH = 32 };

/* A sequence, and what its bursts brought. */
typedef struct {
    pmtp_sequence * sequence; /* NULL: freed */
    completion done;
    int32_t n_logprobs;
    int n_bursts;
    int32_t status; /* of the last burst */
} course;

static inline pmtp_model_params several_params(int32_t max_num_seqs, int32_t n_cells) {
    pmtp_model_params params = pmtp_default_model_params();
    params.n_ctx = N_CTX;
    params.n_batch = N_BATCH;
    params.n_threads = 1;
    params.max_num_seqs = max_num_seqs;
    params.n_cells = n_cells;
    return params;
}

static inline pmtp_model * load_several(const char * target, const char * head, int32_t max_num_seqs, int32_t n_cells) {
    const pmtp_model_params params = several_params(max_num_seqs, n_cells);
    pmtp_model * model = NULL;
    CHECK(pmtp_model_load(target, head, &params, &model) == PMTP_OK && model != NULL);
    return model;
}

/* Eight kinds of completions: other rules, drafts, temperatures and lengths. The last is AUTO in everything. */
static inline pmtp_sequence_params course_params(int kind) {
    pmtp_sequence_params params = greedy(24 + 3 * kind, kind % 4 + 1);
    const pmtp_acceptance rules[] = { PMTP_ACCEPTANCE_AUTO,      PMTP_ACCEPTANCE_COUPLED,
                                      PMTP_ACCEPTANCE_REJECTION, PMTP_ACCEPTANCE_AUTO,
                                      PMTP_ACCEPTANCE_BLOCK,     PMTP_ACCEPTANCE_REJECTION_GREEDY,
                                      PMTP_ACCEPTANCE_COUPLED,   PMTP_ACCEPTANCE_AUTO };
    params.acceptance = rules[kind];
    params.temperature = kind % 3 == 0 ? 0 : 0.8;
    params.top_p = kind % 2 ? 0.95 : 1;
    params.seed = 40 + (uint64_t) kind;
    params.n_logprobs = kind == 2 ? 5 : -1;
    params.presence_penalty = kind == 3 ? 0.5 : 0;
    params.ignore_eos = 1;
    if (kind == 7) {
        params.num_speculative_tokens = PMTP_DRAFT_AUTO;
    }
    return params;
}

static inline void begin_course_with(pmtp_model * model, course * c, int kind, const pmtp_sequence_params * params) {
    const char * texts[] = { "import os\n",
                             "def main():\n    ",
                             "class Reader:\n",
                             "x = [1, 2, 3]\nfor",
                             PROMPT,
                             "# A ",
                             "if __name__ == ",
                             "import os\n\n\ndef read(path):\n    with open(path) as file:\n" };
    int32_t n = 0;
    int32_t * prompt = tokenize(model, texts[kind], &n);
    memset(c, 0, sizeof *c);
    c->sequence = start(model, prompt, n, params);
    c->n_logprobs = params->n_logprobs;
    free(prompt);
}

static inline void begin_course(pmtp_model * model, course * c, int kind) {
    const pmtp_sequence_params params = course_params(kind);
    begin_course_with(model, c, kind, &params);
}

/* A prompt of n tokens that begins like no other kind's, and `max_tokens` of completion. */
static inline void begin_long_course(pmtp_model * model, course * c, int kind, int32_t n, int32_t max_tokens) {
    int32_t prompt[N_CTX];
    for (int32_t i = 0; i < n; i++) {
        prompt[i] = 100 + (i * 7 + kind * 11) % 200;
    }
    pmtp_sequence_params params = greedy(max_tokens, 2);
    params.ignore_eos = 1;
    memset(c, 0, sizeof *c);
    c->sequence = start(model, prompt, n, &params);
    c->n_logprobs = -1;
}

static inline void end_course(course * c) { pmtp_sequence_release(&c->sequence); }

/* Whether any of n courses has a burst to come. */
static inline int any_runs(const course * courses, int n) {
    for (int i = 0; i < n; i++) {
        if (courses[i].sequence != NULL && courses[i].done.finish == PMTP_FINISH_NONE) {
            return 1;
        }
    }
    return 0;
}

/* Adds n bursts to the courses that they name: each to one that has not ended, and to none twice. */
static inline void give_courses(course * courses, int n_courses, const pmtp_burst * bursts, int32_t n) {
    for (int32_t i = 0; i < n; i++) {
        course * c = NULL;
        for (int k = 0; k < n_courses; k++) {
            c = courses[k].sequence == bursts[i].sequence ? &courses[k] : c;
        }
        CHECK(bursts[i].sequence != NULL && c != NULL);
        for (int32_t k = 0; k < i; k++) {
            CHECK(bursts[k].sequence != bursts[i].sequence);
        }
        add(&c->done, &bursts[i], c->n_logprobs);
        c->n_bursts++;
        c->status = bursts[i].status;
    }
}

/* One call of pmtp_step(), while one of the courses has a burst to come. Returns the number of bursts. */
static inline int32_t step_courses(pmtp_model * model, course * courses, int n_courses, int32_t capacity) {
    pmtp_burst bursts[MAX_COURSES + 1];
    int32_t n = -1;
    CHECK(capacity <= MAX_COURSES + 1 && pmtp_step(model, bursts, capacity, &n) == PMTP_OK);
    CHECK(n >= 1 && n <= capacity);
    give_courses(courses, n_courses, bursts, n);
    return n;
}

/* Nothing runs or waits. */
static inline void check_idle(pmtp_model * model) {
    pmtp_burst burst;
    int32_t n = -1;
    CHECK(pmtp_step(model, &burst, 1, &n) == PMTP_OK && n == 0);
}

/* Steps until all have ended, checks their statistics and frees them. */
static inline void run_courses(pmtp_model * model, course * courses, int n, int32_t capacity) {
    while (any_runs(courses, n)) {
        step_courses(model, courses, n, capacity);
    }
    check_idle(model);
    for (int i = 0; i < n; i++) {
        if (courses[i].sequence != NULL) {
            pmtp_stats * stats = &courses[i].done.stats;
            CHECK(pmtp_sequence_get_stats(courses[i].sequence, stats) == PMTP_OK);
            CHECK(stats->completion_tokens == courses[i].done.n && stats->accepted <= stats->drafted);
            end_course(&courses[i]);
        }
    }
}

#endif
