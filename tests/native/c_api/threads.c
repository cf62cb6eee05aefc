/* What pyllama_mtp.h promises about threads: cancelling while a step runs, starting, cancelling, reading and freeing
 * sequences while another thread steps, handing a model from thread to thread, models side by side, messages by thread,
 * a log receiver that changes. For a build with a thread sanitiser, and any other.
 *
 *     threads TARGET.gguf ASSISTANT.gguf
 */
#include "several.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
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

enum { N_CLIENTS = 4, N_REQUESTS = 16 };

/* A model that one thread steps, and what its clients share. */
static struct {
    pmtp_model * model;
    pthread_mutex_t mutex; /* of what follows */
    pthread_cond_t changed;
    course courses[N_CLIENTS]; /* one a client */
    completion expected[MAX_COURSES];
    int n_steps;  /* whose bursts were given to the courses */
    int reusable; /* steps, before handles that were freed may be given to other sequences */
    int n_left;   /* clients that are at it */
} shared;

static void start_shared(course * c, int kind) {
    CHECK(pthread_mutex_lock(&shared.mutex) == 0);
    while (shared.n_steps < shared.reusable) {
        CHECK(pthread_cond_wait(&shared.changed, &shared.mutex) == 0);
    }
    begin_course(shared.model, c, kind);
    CHECK(pthread_mutex_unlock(&shared.mutex) == 0);
}

static void free_shared(course * c) {
    CHECK(pthread_mutex_lock(&shared.mutex) == 0);
    end_course(c);
    shared.reusable = shared.n_steps + 1; /* a step under way may name it */
    CHECK(pthread_mutex_unlock(&shared.mutex) == 0);
}

/* The course as the thread that steps has left it. */
static course look(const course * c) {
    CHECK(pthread_mutex_lock(&shared.mutex) == 0);
    const course copy = *c;
    CHECK(pthread_mutex_unlock(&shared.mutex) == 0);
    return copy;
}

/* Completes texts; cancels every fourth, frees another fourth in its course, and reads statistics meanwhile. */
static void * request(void * argument) {
    course * c = argument;
    const int client = (int) (c - shared.courses);
    for (int i = 0; i < N_REQUESTS; i++) {
        const int kind = (client + 3 * i) % MAX_COURSES;
        start_shared(c, kind);
        pmtp_sequence * sequence = look(c).sequence;
        if (i % 4 > 1) {
            wait_microseconds(300L * (i + client) % 3000);
        }
        if (i % 4 == 2) {
            pmtp_sequence_cancel(sequence);
        }
        pmtp_stats stats = { 0 };
        int32_t n = 0;
        while (i % 4 != 3 && look(c).done.finish == PMTP_FINISH_NONE) {
            CHECK(pmtp_sequence_get_stats(sequence, &stats) == PMTP_OK && stats.completion_tokens >= n);
            CHECK(strlen(pmtp_sequence_error(sequence)) == 0);
            n = stats.completion_tokens;
            wait_microseconds(200);
        }
        const course seen = look(c);
        free_shared(c);
        CHECK(memcmp(seen.done.tokens, shared.expected[kind].tokens, 4 * (size_t) seen.done.n) == 0);
        CHECK(i % 4 > 1 || same(&seen.done, &shared.expected[kind]));
        CHECK(i % 4 != 2 || seen.done.finish != PMTP_FINISH_NONE);
    }
    CHECK(pthread_mutex_lock(&shared.mutex) == 0);
    shared.n_left--;
    CHECK(pthread_mutex_unlock(&shared.mutex) == 0);
    return NULL;
}

/* Gives the bursts that have a course to it. Returns whether there is more to do. */
static bool give_shared(const pmtp_burst * bursts, int32_t n) {
    CHECK(pthread_mutex_lock(&shared.mutex) == 0);
    for (int32_t i = 0; i < n; i++) {
        for (int k = 0; k < N_CLIENTS; k++) {
            if (shared.courses[k].sequence == bursts[i].sequence) {
                give_courses(&shared.courses[k], 1, &bursts[i], 1);
            }
        }
    }
    shared.n_steps++;
    const bool more = shared.n_left > 0;
    CHECK(pthread_cond_broadcast(&shared.changed) == 0);
    CHECK(pthread_mutex_unlock(&shared.mutex) == 0);
    return more;
}

/* More clients than sequences run, fewer bursts a call than sequences. */
static void check_clients(void) {
    pthread_t threads[N_CLIENTS];
    pmtp_burst bursts[2];
    int32_t n;
    shared.model = load_several(target, head, 3, 0);
    for (int kind = 0; kind < MAX_COURSES; kind++) {
        course alone;
        begin_course(shared.model, &alone, kind);
        run_courses(shared.model, &alone, 1, 1);
        shared.expected[kind] = alone.done;
    }
    CHECK(pthread_mutex_init(&shared.mutex, NULL) == 0 && pthread_cond_init(&shared.changed, NULL) == 0);
    shared.n_left = N_CLIENTS;
    for (int i = 0; i < N_CLIENTS; i++) {
        threads[i] = begin(request, &shared.courses[i]);
    }
    do {
        CHECK(pmtp_step(shared.model, bursts, 2, &n) == PMTP_OK);
        if (n == 0) {
            wait_microseconds(100);
        }
    } while (give_shared(bursts, n));
    for (int i = 0; i < N_CLIENTS; i++) {
        CHECK(pthread_join(threads[i], NULL) == 0);
    }
    check_idle(shared.model);
    pmtp_model_free(shared.model);
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
    check_clients();
    puts("every thread behaved");
    return 0;
}
