/* How models and sequences begin and end: stopped loads and calls, handles in slots, forked children, a log receiver
 * that frees models, and the end of the process while threads are in the library. */
#include "support.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <sys/wait.h>
#include <unistd.h>

static const char *target, *head;

static pmtp_model_params small(pmtp_watch * watch) {
    pmtp_model_params params = pmtp_default_model_params();
    params.n_ctx = N_CTX;
    params.n_batch = 32;
    params.n_threads = 2;
    params.watch = watch;
    return params;
}

typedef struct {
    pmtp_watch watch;
    int32_t from; /* stop when that much of the load is done: 1000 a stage */
    atomic_bool ended;
} stopper;

static void * stop_at(void * argument) {
    stopper * s = argument;
    int32_t done = 0;
    while (!atomic_load(&s->ended) && done < s->from) {
        done = 1000 * __atomic_load_n(&s->watch.stage, __ATOMIC_RELAXED) +
               __atomic_load_n(&s->watch.per_mille, __ATOMIC_RELAXED);
    }
    __atomic_store_n(&s->watch.stop, 1, __ATOMIC_RELAXED);
    return NULL;
}

static void check_stopped_loads(void) {
    int stopped = 0;
    for (int32_t from = 0; from <= 2900; from += 100) {
        stopper s = { .from = from };
        pthread_t thread;
        CHECK(pthread_create(&thread, NULL, stop_at, &s) == 0);
        const pmtp_model_params params = small(&s.watch);
        pmtp_model * model = NULL;
        const pmtp_status status = pmtp_model_load(target, head, &params, &model);
        atomic_store(&s.ended, true);
        CHECK(pthread_join(thread, NULL) == 0);
        CHECK(status == PMTP_OK || status == PMTP_ERROR_CANCELLED);
        CHECK((model != NULL) == (status == PMTP_OK));
        stopped += status == PMTP_ERROR_CANCELLED;
        pmtp_model_free(model);
    }
    CHECK(stopped > 0);
}

static void check_stopped_calls(pmtp_model * model) {
    const pmtp_watch stop = { .stop = 1 };
    int32_t n = 0;
    int32_t * prompt = tokenize(model, PROMPT, &n);
    pmtp_model_info info;
    CHECK(pmtp_model_get_info(model, &info) == PMTP_OK);
    float * logits = malloc(sizeof *logits * (size_t) n * (size_t) info.n_vocab);
    CHECK_FAILS(PMTP_ERROR_CANCELLED, pmtp_logits(model, prompt, n, 8, logits, &stop));
    CHECK(pmtp_logits(model, prompt, n, 8, logits, NULL) == PMTP_OK);
    free(logits);
    free(prompt);

    const size_t size = 1 << 20;
    char * text = malloc(size);
    int32_t * tokens = malloc(size * sizeof *tokens);
    memset(text, 'a', size);
    CHECK_FAILS(PMTP_ERROR_CANCELLED, pmtp_tokenize(model, text, size, 1, 1, tokens, (int32_t) size, &n, &stop));
    free(tokens);
    free(text);
    CHECK_FAILS(PMTP_ERROR_CANCELLED, pmtp_quantize(head, "/dev/null", "q4_k_m", 1, &stop));
}

/* Handles in slots; a model that is freed before its sequences: running, ended and waiting ones. */
static void check_slots(void) {
    pmtp_model * model = load(target, head, 1);
    int32_t n = 0, n_bursts;
    int32_t * prompt = tokenize(model, PROMPT, &n);
    const pmtp_sequence_params params = greedy(8, 3), one = greedy(1, 0);
    pmtp_sequence *running = NULL, *ended = start(model, prompt, n, &one), *waiting = NULL;
    while (step(model, ended).finish == PMTP_FINISH_NONE) {
    }
    running = start(model, prompt, n, &params);
    waiting = start(model, prompt, n, &params);
    pmtp_burst burst;
    CHECK(pmtp_step(model, &burst, 1, &n_bursts) == PMTP_OK && n_bursts == 1 && burst.sequence == running);
    CHECK_FAILS(PMTP_ERROR_INVALID_ARGUMENT, try_start(model, prompt, 0, &params, &burst.sequence));
    CHECK(burst.sequence == NULL);
    pmtp_model_release(&model);
    pmtp_model_release(&model);
    pmtp_model_release(NULL);
    CHECK(model == NULL);
    pmtp_sequence * all[] = { running, ended, waiting };
    for (int i = 0; i < 3; i++) {
        pmtp_stats stats;
        CHECK(pmtp_sequence_get_stats(all[i], &stats) == PMTP_OK && stats.prompt_tokens == n);
        CHECK(stats.completion_tokens <= 1 && strlen(pmtp_sequence_error(all[i])) == 0);
        pmtp_sequence_cancel(all[i]);
        CHECK(pmtp_sequence_truncate(all[i], 0) == PMTP_OK);
        pmtp_sequence_release(&all[i]);
        pmtp_sequence_release(&all[i]);
        CHECK(all[i] == NULL);
    }
    free(prompt);
}

/* A forked child is told so by every call, frees nothing, and may load models of its own. */
static void check_fork(void) {
#ifndef __SANITIZE_THREAD__
    pmtp_model * model = load(target, head, 2);
    int32_t n = 0;
    int32_t * prompt = tokenize(model, PROMPT, &n);
    const pmtp_sequence_params params = greedy(8, 3);
    pmtp_sequence * sequence = start(model, prompt, n, &params);
    pmtp_burst burst = step(model, sequence);
    const pid_t child = fork();
    CHECK(child >= 0);
    if (child == 0) {
        pmtp_sequence * other = NULL;
        pmtp_stats stats;
        pmtp_model_info info;
        int32_t tokens[64];
        float logits[1];
        CHECK_FAILS(PMTP_ERROR_OTHER_PROCESS, pmtp_step(model, &burst, 1, &n));
        CHECK_FAILS(PMTP_ERROR_OTHER_PROCESS, pmtp_sequence_truncate(sequence, 0));
        CHECK_FAILS(PMTP_ERROR_OTHER_PROCESS, pmtp_sequence_get_stats(sequence, &stats));
        CHECK_FAILS(PMTP_ERROR_OTHER_PROCESS, try_start(model, prompt, n, &params, &other));
        CHECK_FAILS(PMTP_ERROR_OTHER_PROCESS, pmtp_model_get_info(model, &info));
        CHECK_FAILS(PMTP_ERROR_OTHER_PROCESS, pmtp_logits(model, prompt, n, 1, logits, NULL));
        CHECK_FAILS(PMTP_ERROR_OTHER_PROCESS, pmtp_tokenize(model, "x", 1, 1, 1, tokens, 64, &n, NULL));
        pmtp_sequence_cancel(sequence);
        pmtp_sequence_free(sequence);
        pmtp_model_free(model);
        model = load(target, head, 2);
        const pmtp_sequence_params own = greedy(8, 3);
        CHECK(complete(model, PROMPT, &own).n > 0);
        pmtp_model_free(model);
        pmtp_shutdown();
        _Exit(0);
    }
    int status = 1;
    CHECK(waitpid(child, &status, 0) == child && WIFEXITED(status) && WEXITSTATUS(status) == 0);
    pmtp_sequence_free(sequence);
    CHECK(complete(model, PROMPT, &params).n > 0);
    pmtp_model_free(model);
    free(prompt);
#endif
}

static pmtp_model * doomed;

static void free_doomed(int32_t level, const char * text, void * user) {
    (void) level, (void) text, (void) user;
    pmtp_model_release(&doomed); /* a garbage collector may do that anywhere */
}

static void check_log(void) {
    doomed = load(target, head, 2);
    pmtp_set_log(free_doomed, NULL);
    pmtp_model * model = load(target, head, 2);
    CHECK(doomed == NULL);
    pmtp_set_log(pmtp_log_keep, NULL);
    pmtp_model_free(model);
    model = load(target, head, 2);
    pmtp_set_log(NULL, NULL);
    char line[8192];
    int32_t level = 0, size, lines = 0;
    CHECK(pmtp_log_take(line, 0, &level) > 0 && level == 0);
    while ((size = pmtp_log_take(line, sizeof line, &level)) >= 0) {
        CHECK(size <= (int32_t) sizeof line && level >= 1 && level <= 4);
        lines++;
    }
    CHECK(lines > 10 && pmtp_log_take(NULL, 0, &level) == -1);
    pmtp_model_free(model);
}

static pmtp_model * running[2];
static atomic_int begun;

static void * step_for_ever(void * model) {
    const pmtp_sequence_params params = greedy(200, 3);
    for (;;) {
        atomic_fetch_add(&begun, 1);
        complete(model, PROMPT, &params);
    }
    return NULL;
}

static void * load_for_ever(void * unused) {
    for (;;) {
        atomic_fetch_add(&begun, 1);
        pmtp_model_free(load(target, head, 2));
    }
    return unused;
}

/* The last thing: threads that compute stay in the library, whose static objects exit() destroys. */
static void end_while_threads_run(void) {
    pthread_t threads[3];
    for (int i = 0; i < 2; i++) {
        running[i] = load(target, head, 2);
        CHECK(pthread_create(&threads[i], NULL, step_for_ever, running[i]) == 0);
    }
    CHECK(pthread_create(&threads[2], NULL, load_for_ever, NULL) == 0);
    while (atomic_load(&begun) < 8) {
        usleep(1000);
    }
    pmtp_shutdown();
    pmtp_model * model = NULL;
    const pmtp_model_params params = small(NULL);
    CHECK_FAILS(PMTP_ERROR_CANCELLED, pmtp_model_load(target, head, &params, &model));
    pmtp_model_free(running[0]);
}

int main(int argc, char ** argv) {
    CHECK(argc == 3);
    target = argv[1];
    head = argv[2];
    check_stopped_loads();
    pmtp_model * model = load(target, head, 1);
    check_stopped_calls(model);
    pmtp_model_free(model);
    check_slots();
    check_fork();
    check_log();
    end_while_threads_run();
    puts("every life ended well");
    return 0;
}
