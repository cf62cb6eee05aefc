/* What pyllama_mtp.h promises about threads: cancelling while a step runs, handing a model from thread to thread,
 * models side by side, messages by thread, a log receiver that changes. For a build with a thread sanitiser, and any
 * other.
 *
 *     threads TARGET.gguf ASSISTANT.gguf
 */
#include "support.h"

#include <pthread.h>
#include <stdatomic.h>
#include <time.h>

enum { N_CANCELS = 24, N_PROMPT = 400 };

static const char *target, *head;
static completion reference;
static atomic_int log_lines, working;
static pthread_barrier_t both_failed;

static void wait_microseconds(long n) {
    const struct timespec time = { n / 1000000, n % 1000000 * 1000 };
    nanosleep(&time, NULL);
}

static pthread_t begin(void * (*body)(void *), void * argument) {
    pthread_t thread;
    CHECK(pthread_create(&thread, NULL, body, argument) == 0);
    return thread;
}

static void check_unharmed(pmtp_model * model) {
    const pmtp_sequence_params params = greedy(32, 3);
    const completion done = complete(model, PROMPT, &params);
    CHECK(same(&reference, &done));
}

typedef struct {
    pmtp_sequence * sequence;
    long delay; /* microseconds */
} cancellation;

static void * cancel_later(void * argument) {
    const cancellation * c = argument;
    wait_microseconds(c->delay);
    pmtp_sequence_cancel(c->sequence);
    pmtp_sequence_cancel(c->sequence);
    return NULL;
}

/* From before the first step, through a long prefill, into the rounds. The model gives the same text afterwards. */
static void check_cancel(void) {
    pmtp_model * model = load(target, head, 2);
    int32_t prompt[N_PROMPT];
    int cancelled = 0;
    for (int i = 0; i < N_CANCELS; i++) {
        for (int32_t t = 0; t < N_PROMPT; t++) {
            prompt[t] = 100 + (t * 7 + i) % 200; /* no common beginning: prefill again */
        }
        pmtp_sequence_params params = greedy(N_CTX - N_PROMPT, PMTP_MAX_DRAFT);
        params.ignore_eos = 1;
        cancellation c = { start(model, prompt, N_PROMPT, &params), i * 1500L };
        const pthread_t thread = begin(cancel_later, &c);
        pmtp_burst burst;
        do {
            burst = step(model, c.sequence);
        } while (burst.finish == PMTP_FINISH_NONE);
        CHECK(burst.finish == PMTP_FINISH_CANCELLED || burst.finish == PMTP_FINISH_LENGTH);
        cancelled += burst.finish == PMTP_FINISH_CANCELLED;
        CHECK(pthread_join(thread, NULL) == 0);
        pmtp_sequence_free(c.sequence);
        if (i % 6 == 5) {
            check_unharmed(model);
        }
    }
    CHECK(cancelled > 0);
    pmtp_model_free(model);
}

typedef struct {
    pmtp_model * model;
    pmtp_sequence * sequence;
    pmtp_burst burst;
} single_step;

static void * step_once(void * argument) {
    single_step * s = argument;
    s->burst = step(s->model, s->sequence);
    return NULL;
}

/* Every step on a new thread; the model is closed by a thread that did not load it. */
static void * hand_over(void * model) {
    int32_t n = 0;
    int32_t * prompt = tokenize(model, PROMPT, &n);
    const pmtp_sequence_params params = greedy(32, 3);
    single_step single = { .model = model, .sequence = start(model, prompt, n, &params) };
    free(prompt);
    completion done = { { 0 }, 0, PMTP_FINISH_NONE, { 0 } };
    while (done.finish == PMTP_FINISH_NONE) {
        CHECK(pthread_join(begin(step_once, &single), NULL) == 0);
        add(&done, &single.burst, -1);
    }
    CHECK(same(&reference, &done));
    pmtp_sequence_free(single.sequence);
    pmtp_model_free(model);
    return NULL;
}

static void count_line(int32_t level, const char * text, void * user) {
    CHECK(level >= 1 && level <= 4 && text != NULL && user == &log_lines);
    atomic_fetch_add(&log_lines, 1);
}

/* Loads and runs a model of its own; its failures leave their messages in this thread alone. */
static void * work(void * number) {
    char name[64];
    pmtp_model * none = NULL;
    const pmtp_model_params params = pmtp_default_model_params();
    snprintf(name, sizeof name, "/nowhere/%d.gguf", *(const int *) number);
    CHECK_FAILS(PMTP_ERROR_MODEL_LOAD, pmtp_model_load(name, NULL, &params, &none));
    pthread_barrier_wait(&both_failed);
    CHECK(strstr(pmtp_last_error(), name) != NULL);
    pmtp_model * model = load(target, head, 1);
    check_unharmed(model);
    CHECK(pthread_join(begin(hand_over, model), NULL) == 0);
    atomic_fetch_sub(&working, 1);
    return NULL;
}

static void check_side_by_side(void) {
    int numbers[] = { 1, 2 };
    pthread_t threads[2];
    CHECK(pthread_barrier_init(&both_failed, NULL, 2) == 0);
    atomic_store(&working, 2);
    for (int i = 0; i < 2; i++) {
        threads[i] = begin(work, &numbers[i]);
    }
    while (atomic_load(&working) > 0) {
        pmtp_set_log(count_line, &log_lines);
        wait_microseconds(200);
        pmtp_set_log(NULL, NULL);
    }
    for (int i = 0; i < 2; i++) {
        CHECK(pthread_join(threads[i], NULL) == 0);
    }
    CHECK(atomic_load(&log_lines) > 0 && pthread_barrier_destroy(&both_failed) == 0);
}

int main(int argc, char ** argv) {
    CHECK(argc == 3);
    target = argv[1];
    head = argv[2];
    pmtp_model * model = load(target, head, 1);
    const pmtp_sequence_params params = greedy(32, 3);
    reference = complete(model, PROMPT, &params);
    hand_over(model);
    check_side_by_side();
    check_cancel();
    puts("every thread behaved");
    return 0;
}
