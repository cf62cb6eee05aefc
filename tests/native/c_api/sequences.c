/* Several sequences of one model: what pmtp_step() says of each, how they begin, wait, fail and end beside the others,
 * and that none of that changes another one's text.
 *
 *     sequences TARGET.gguf ASSISTANT.gguf
 */
#include "several.h"

static const char *target, *head;
static course alone[MAX_COURSES]; /* the same completions, one after the other in a model of one sequence */

static void complete_alone(void) {
    pmtp_model * model = load_several(target, head, 1, 0);
    for (int i = 0; i < MAX_COURSES; i++) {
        begin_course(model, &alone[i], i);
        run_courses(model, &alone[i], 1, 1);
    }
    pmtp_model_free(model);
}

static void check_alone(const course * c, int kind) {
    CHECK(c->done.finish == alone[kind].done.finish && same(&c->done, &alone[kind].done));
}

/* One to eight sequences, in bursts of few or all of them. */
static void check_bursts(pmtp_model * model) {
    for (int n = 1; n <= MAX_COURSES; n++) {
        for (int32_t capacity = 1; capacity <= n + 1; capacity += 1 + n / 3) {
            course courses[MAX_COURSES];
            for (int i = 0; i < n; i++) {
                begin_course(model, &courses[i], i);
            }
            run_courses(model, courses, n, capacity);
            for (int i = 0; i < n; i++) {
                check_alone(&courses[i], i);
            }
        }
    }
}

/* With room for one burst a call: each of the sequences that decode has one before any has its second. */
static void check_turns(pmtp_model * model) {
    course courses[3];
    for (int i = 0; i < 3; i++) {
        begin_course(model, &courses[i], i);
    }
    while (courses[0].done.n == 0 || courses[1].done.n == 0 || courses[2].done.n == 0) {
        step_courses(model, courses, 3, 3);
    }
    for (int round = 0; round < 3; round++) {
        int before[3];
        for (int i = 0; i < 3; i++) {
            CHECK(courses[i].done.finish == PMTP_FINISH_NONE);
            before[i] = courses[i].n_bursts;
        }
        for (int i = 0; i < 3; i++) {
            CHECK(step_courses(model, courses, 3, 1) == 1);
        }
        for (int i = 0; i < 3; i++) {
            CHECK(courses[i].n_bursts == before[i] + 1);
        }
    }
    for (int i = 0; i < 3; i++) {
        end_course(&courses[i]);
    }
    check_idle(model);
}

/* The prompts of a step are n_batch tokens or fewer, however many sequences a model has. They once were as many as
 * rounds of all sequences take. */
static void check_batches(pmtp_model * model) {
    course courses[MAX_COURSES];
    for (int i = 0; i < MAX_COURSES; i++) {
        begin_long_course(model, &courses[i], i, 100, 20);
    }
    while (any_runs(courses, MAX_COURSES)) {
        pmtp_burst bursts[MAX_COURSES];
        int32_t n = 0, n_prompt = 0;
        CHECK(pmtp_step(model, bursts, MAX_COURSES, &n) == PMTP_OK && n > 0);
        for (int32_t i = 0; i < n; i++) {
            n_prompt += bursts[i].n_prompt;
        }
        CHECK(n_prompt <= N_BATCH);
        give_courses(courses, MAX_COURSES, bursts, n);
    }
    for (int i = 0; i < MAX_COURSES; i++) {
        end_course(&courses[i]);
    }
}

/* Of four sequences in two slots one that runs and one that waits are cancelled; one that has ended stays as it is. */
static void check_cancel(void) {
    pmtp_model * model = load_several(target, head, 2, 0);
    for (int steps = 0; steps < 9; steps += 2) {
        course courses[4];
        for (int i = 0; i < 4; i++) {
            begin_course(model, &courses[i], i);
        }
        for (int i = 0; i < steps; i++) {
            step_courses(model, courses, 4, 4);
        }
        CHECK(courses[0].done.finish == PMTP_FINISH_NONE && courses[3].n_bursts == 0);
        const int n_bursts = courses[0].n_bursts;
        pmtp_sequence_cancel(courses[0].sequence);
        pmtp_sequence_cancel(courses[3].sequence);
        pmtp_sequence_cancel(courses[3].sequence);
        step_courses(model, courses, 4, 4);
        CHECK(courses[0].done.finish == PMTP_FINISH_CANCELLED && courses[0].n_bursts == n_bursts + 1);
        CHECK(courses[3].done.finish == PMTP_FINISH_CANCELLED && courses[3].done.n == 0);
        CHECK(courses[0].done.n <= alone[0].done.n);
        CHECK(memcmp(courses[0].done.tokens, alone[0].done.tokens, 4 * (size_t) courses[0].done.n) == 0);
        pmtp_stats stats;
        CHECK(pmtp_sequence_get_stats(courses[3].sequence, &stats) == PMTP_OK && stats.prompt_seconds == 0);
        run_courses(model, courses, 4, 4);
        check_alone(&courses[1], 1);
        check_alone(&courses[2], 2);
    }
    {
        course ended, other;
        begin_course(model, &ended, 0);
        while (ended.done.finish == PMTP_FINISH_NONE) {
            step_courses(model, &ended, 1, 1);
        }
        pmtp_sequence_cancel(ended.sequence);
        check_idle(model);
        begin_course(model, &other, 1);
        run_courses(model, &other, 1, 1);
        check_alone(&other, 1);
        end_course(&ended);
        check_alone(&ended, 0);
    }
    pmtp_model_free(model);
}

/* Sequences that are freed while they wait, in their prompt, amid their rounds, with a burst that nobody has fetched,
 * and ended: none of them is heard of again, and the others go on. A call once wrote no burst, as if nothing ran, where
 * all that it had were of freed ones. */
static void check_free(void) {
    pmtp_model * model = load_several(target, head, 3, 0);
    for (int steps = 0; steps < 8; steps++) {
        course courses[5];
        for (int i = 0; i < 5; i++) {
            begin_course(model, &courses[i], i);
        }
        for (int i = 0; i < steps; i++) {
            step_courses(model, courses, 5, steps % 2 ? 1 : 5);
        }
        end_course(&courses[1]);
        end_course(&courses[4]);
        CHECK(courses[4].n_bursts == 0 || courses[4].done.n > 0);
        if (steps % 3 == 0) {
            end_course(&courses[0]);
        }
        run_courses(model, courses, 5, 1);
        check_alone(&courses[2], 2);
        check_alone(&courses[3], 3);
    }
    pmtp_model_free(model);
}

/* Likewise, ended from outside with a part of their tokens. */
static void check_truncation(pmtp_model * model) {
    for (int capacity = 1; capacity <= 4; capacity += 3) {
        course courses[4];
        for (int i = 0; i < 4; i++) {
            begin_course(model, &courses[i], i);
        }
        CHECK(pmtp_sequence_truncate(courses[3].sequence, 0) == PMTP_OK); /* before it ran */
        while (courses[0].done.n < 6 || courses[1].done.n < 2) {
            step_courses(model, courses, 3, capacity);
        }
        CHECK(pmtp_sequence_truncate(courses[0].sequence, 5) == PMTP_OK);
        CHECK_FAILS(PMTP_ERROR_INVALID_ARGUMENT, pmtp_sequence_truncate(courses[0].sequence, 6));
        CHECK(pmtp_sequence_truncate(courses[1].sequence, 2) == PMTP_OK);
        while (courses[2].done.finish == PMTP_FINISH_NONE) {
            CHECK(step_courses(model, &courses[2], 1, capacity) == 1);
        }
        check_idle(model);
        const int32_t left[] = { 5, 2, alone[2].done.n, 0 };
        for (int i = 0; i < 4; i++) {
            pmtp_stats stats;
            CHECK(pmtp_sequence_get_stats(courses[i].sequence, &stats) == PMTP_OK);
            CHECK(stats.completion_tokens == left[i] &&
                  memcmp(courses[i].done.tokens, alone[i].done.tokens, 4 * (size_t) left[i]) == 0);
            end_course(&courses[i]);
        }
        course again;
        begin_course(model, &again, 0);
        run_courses(model, &again, 1, 1);
        check_alone(&again, 0);
    }
}

/* Five sequences of two pages each, of which the cache holds four pages: two at a time, in their order. */
static void check_waiting_for_cells(void) {
    pmtp_model * model = load_several(target, head, 4, 256);
    pmtp_model_info info;
    CHECK(pmtp_model_get_info(model, &info) == PMTP_OK && info.n_cells == 256 && info.n_ctx == N_CTX);
    int32_t prompt[N_CTX] = { 0 };
    for (int32_t i = 0; i < N_CTX; i++) {
        prompt[i] = 100 + i % 200;
    }
    const pmtp_sequence_params params = greedy(MAX_TEXT, 3);
    pmtp_sequence * none = NULL;
    CHECK_FAILS(PMTP_ERROR_CONTEXT_OVERFLOW, try_start(model, prompt, info.n_cells, &params, &none));
    CHECK(none == NULL);

    for (int repeats = 0; repeats < 2; repeats++) {
        course courses[5];
        for (int i = 0; i < 5; i++) {
            begin_long_course(model, &courses[i], i, 70, 50);
        }
        int most = 0;
        pmtp_usage usage;
        CHECK(pmtp_model_get_usage(model, &usage) == PMTP_OK && usage.n_running == 0 && usage.n_waiting == 5);
        while (any_runs(courses, 5)) {
            CHECK(step_courses(model, courses, 5, 5) > 0);
            CHECK(pmtp_model_get_usage(model, &usage) == PMTP_OK && usage.n_running <= 2);
            CHECK(usage.n_cells % 64 == 0 && usage.n_cells <= info.n_cells);
            int running = 0;
            for (int i = 0; i < 5; i++) {
                running += courses[i].n_bursts > 0 && courses[i].done.finish == PMTP_FINISH_NONE;
                CHECK(i == 0 || courses[i].n_bursts == 0 || courses[i - 1].n_bursts > 0);
            }
            most = running > most ? running : most;
        }
        CHECK(most == 2);
        for (int i = 0; i < 5; i++) {
            pmtp_stats stats;
            CHECK(pmtp_sequence_get_stats(courses[i].sequence, &stats) == PMTP_OK);
            CHECK(courses[i].done.finish == PMTP_FINISH_LENGTH && courses[i].done.n == 50);
            CHECK(stats.queue_seconds >= 0 && (i < 2 || stats.queue_seconds > 0));
            end_course(&courses[i]);
        }
    }
    const completion full = finish(model, start(model, prompt, info.n_cells - 7, &params), -1);
    CHECK(full.finish == PMTP_FINISH_LENGTH && full.n == 7);
    pmtp_model_free(model);
}

/* Logits beside sequences that run: the same as alone, or BUSY. */
static void check_logits(pmtp_model * model) {
    enum { N = 20 };
    pmtp_model_info info;
    CHECK(pmtp_model_get_info(model, &info) == PMTP_OK);
    const size_t size = N * (size_t) info.n_vocab * sizeof(float);
    float *quiet = malloc(size), *beside = malloc(size);
    int32_t tokens[N];
    for (int i = 0; i < N; i++) {
        tokens[i] = 100 + i;
    }
    CHECK(quiet != NULL && beside != NULL && pmtp_logits(model, tokens, N, 7, quiet, NULL) == PMTP_OK);
    course courses[MAX_COURSES];
    for (int n = 2; n <= MAX_COURSES; n += MAX_COURSES - 2) {
        for (int i = 0; i < n; i++) {
            begin_course(model, &courses[i], i);
        }
        for (int i = 0; i < 6; i++) {
            step_courses(model, courses, n, n);
        }
        const pmtp_status status = pmtp_logits(model, tokens, N, 7, beside, NULL);
        CHECK(status == (n < MAX_COURSES ? PMTP_OK : PMTP_ERROR_BUSY));
        for (int32_t i = 0; status == PMTP_OK && i < N * info.n_vocab; i++) {
            CHECK(quiet[i] - beside[i] < 0.01f && beside[i] - quiet[i] < 0.01f);
        }
        run_courses(model, courses, n, n);
        for (int i = 0; i < n; i++) {
            check_alone(&courses[i], i);
        }
    }
    free(quiet);
    free(beside);
}

/* The drafter that needs no head repeats what it finds in the text, and leaves the text as it is. */
static void check_ngrams(void) {
    pmtp_model_params params = several_params(4, 0);
    pmtp_model * model = NULL;
    params.drafter = PMTP_DRAFTER_NGRAM;
    CHECK(pmtp_model_load(target, NULL, &params, &model) == PMTP_OK);
    int32_t prompt[120];
    for (int32_t i = 0; i < 120; i++) {
        prompt[i] = 100 + i % 12;
    }
    pmtp_sequence_params drafting = greedy(60, 4), plain = greedy(60, 0);
    drafting.ignore_eos = plain.ignore_eos = 1;
    const completion without = finish(model, start(model, prompt, 120, &plain), -1);
    const completion with = finish(model, start(model, prompt, 120, &drafting), -1);
    CHECK(same(&without, &with) && with.stats.accepted > 0 && with.stats.rounds < without.stats.rounds);
    course courses[4];
    for (int i = 0; i < 4; i++) {
        begin_course(model, &courses[i], i);
    }
    run_courses(model, courses, 4, 4);
    for (int i = 0; i < 4; i++) {
        if (course_params(i).acceptance <= PMTP_ACCEPTANCE_COUPLED) {
            check_alone(&courses[i], i);
        }
    }
    pmtp_model_free(model);
}

int main(int argc, char ** argv) {
    CHECK(argc == 3);
    target = argv[1];
    head = argv[2];
    complete_alone();
    pmtp_model * model = load_several(target, head, MAX_COURSES, 0);
    check_bursts(model);
    check_turns(model);
    check_batches(model);
    check_truncation(model);
    check_logits(model);
    check_bursts(model);
    pmtp_model_free(model);
    check_cancel();
    check_free();
    check_waiting_for_cells();
    check_ngrams();
    puts("every sequence ran its course");
    return 0;
}
