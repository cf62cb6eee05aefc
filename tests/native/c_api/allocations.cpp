// Allocations that fail, one after the other, in the course of a completion, of three completions together and of a
// load: each ends in an error or is done without, sequences that have not ended go on, no token is lost, the model is
// as good as before, and another one can be loaded.
//
//     allocations TARGET HEAD [STRIDE [FIRST [LOADS]]]
//
// lets every STRIDE-th one fail, up to FIRST of each completion, and one in each of LOADS loads.
// The library's allocations come here because the program defines malloc and its kin, or, in a sanitised build, because
// they are wrapped by the linker and operator new is defined here.
#include "support.h"

#include <algorithm>
#include <cerrno>
#include <cstddef>
#include <new>

namespace {

// Of this thread's allocations, while they are counted: the n-th fails, or it and all after it.
thread_local bool counted = false;
thread_local long n_allocations = 0, failing = 0;
thread_local bool lasting = false;

// Of a load: the allocations that were counted before each of its stages.
enum { STAGES = 3 };
thread_local const pmtp_watch * watched = nullptr;
thread_local long before_stage[STAGES + 1];

bool fails() {
    if (!counted) {
        return false;
    }
    if (watched != nullptr) {
        for (int stage = watched->stage + 1; stage <= STAGES; stage++) {
            before_stage[stage] = n_allocations + 1;
        }
    }
    n_allocations++;
    const bool is_one = failing > 0 && (lasting ? n_allocations >= failing : n_allocations == failing);
    if (is_one) {
        errno = ENOMEM;
    }
    return is_one;
}

}  // namespace

#ifdef WRAPPED
#define NAME(function) __wrap_##function
#define REAL(function) __real_##function
#else
#define NAME(function) function
#define REAL(function) __libc_##function
#endif

extern "C" {
void * REAL(malloc)(size_t size);
void * REAL(calloc)(size_t n, size_t size);
void * REAL(realloc)(void * pointer, size_t size);

void * NAME(malloc)(size_t size) { return fails() ? nullptr : REAL(malloc)(size); }
void * NAME(calloc)(size_t n, size_t size) { return fails() ? nullptr : REAL(calloc)(n, size); }
void * NAME(realloc)(void * pointer, size_t size) { return fails() ? nullptr : REAL(realloc)(pointer, size); }
#ifdef WRAPPED
int __real_posix_memalign(void ** out, size_t alignment, size_t size);
int __wrap_posix_memalign(void ** out, size_t alignment, size_t size) {
    return fails() ? ENOMEM : __real_posix_memalign(out, alignment, size);
}
#else
void * __libc_memalign(size_t alignment, size_t size);
int posix_memalign(void ** out, size_t alignment, size_t size) {
    *out = fails() ? nullptr : __libc_memalign(alignment, size);
    return *out != nullptr ? 0 : ENOMEM;
}
#endif
}

#ifdef WRAPPED
void * operator new(size_t size, const std::nothrow_t &) noexcept { return malloc(size > 0 ? size : 1); }
void * operator new[](size_t size, const std::nothrow_t & tag) noexcept { return operator new(size, tag); }
void * operator new(size_t size) {
    void * pointer = operator new(size, std::nothrow);
    return pointer != nullptr ? pointer : throw std::bad_alloc();
}
void * operator new[](size_t size) { return operator new(size); }
void operator delete(void * pointer) noexcept { free(pointer); }
void operator delete[](void * pointer) noexcept { free(pointer); }
void operator delete(void * pointer, size_t) noexcept { free(pointer); }
void operator delete[](void * pointer, size_t) noexcept { free(pointer); }
#endif

namespace {

constexpr int kMost = 3;  // sequences together

// Completions of texts that begin alike, with K/V to evaluate, drafts, and a part of the first one taken back. Where a
// call fails there is memory again afterwards, if there was none.
struct Course {
    explicit Course(int n) : n(n) {}

    const int n;
    completion done[kMost] = {};
    int32_t status[kMost] = {};  // of the last burst
    bool failed = false;         // a call, or a sequence

    void run(pmtp_model * model, const int32_t * prompt, int32_t n_prompt, pmtp_sequence_params params);

  private:
    void check(pmtp_status status);
    void step(pmtp_model * model);

    pmtp_sequence * sequences[kMost] = {};
};

void Course::check(pmtp_status status) {
    CHECK(status == PMTP_OK || status == PMTP_ERROR_OUT_OF_MEMORY);
    if (status != PMTP_OK) {
        failed = true;
        counted = false;
    }
}

void Course::step(pmtp_model * model) {
    pmtp_burst bursts[kMost];
    int32_t n_bursts = 0;
    const pmtp_status called = pmtp_step(model, bursts, kMost, &n_bursts);
    check(called);
    CHECK(called == PMTP_OK ? n_bursts > 0 && n_bursts <= kMost : n_bursts == 0);
    for (int32_t i = 0; i < n_bursts; i++) {
        const long k = std::find(sequences, sequences + n, bursts[i].sequence) - sequences;
        CHECK(k < n);
        add(&done[k], &bursts[i], 3);
        status[k] = bursts[i].status;
        if (bursts[i].finish == PMTP_FINISH_FAILED) {
            check((pmtp_status) bursts[i].status);
            CHECK(strlen(pmtp_sequence_error(bursts[i].sequence)) > 0);
        }
    }
}

void Course::run(pmtp_model * model, const int32_t * prompt, int32_t n_prompt, pmtp_sequence_params params) {
    for (int i = 0; i < n; i++) {
        params.seed++;
        const pmtp_status status = try_start(model, prompt, n_prompt - i, &params, &sequences[i]);
        CHECK((sequences[i] != nullptr) == (status == PMTP_OK));
        check(status);
    }
    for (int i = 0; i < n; i++) {
        while (sequences[i] != nullptr && done[i].finish == PMTP_FINISH_NONE) {
            step(model);
        }
    }
    for (int i = 0; i < n; i++) {
        if (sequences[i] == nullptr) {
            continue;
        }
        CHECK(pmtp_sequence_get_stats(sequences[i], &done[i].stats) == PMTP_OK);
        CHECK(done[i].stats.completion_tokens == done[i].n);
        if (i == 0) {
            check(pmtp_sequence_truncate(sequences[i], std::min(3, done[i].n)));
        }
        pmtp_sequence_free(sequences[i]);
    }
    counted = false;
}

pmtp_sequence_params completion_params(int kind) {
    pmtp_sequence_params params = greedy(10, 2 + kind);  // other drafts than the completion before: another graph
    params.ignore_eos = 1;
    params.n_logprobs = 3;
    if (kind > 0) {
        params.temperature = 0.9;
        params.seed = 5;
        params.acceptance = kind == 2 ? PMTP_ACCEPTANCE_REJECTION : PMTP_ACCEPTANCE_COUPLED;
    }
    return params;
}

// Leaves nothing in any slot that a prompt of ours begins with.
void forget(pmtp_model * model) {
    const pmtp_sequence_params params = greedy(2, 1);
    const int32_t token = 300;
    pmtp_sequence * sequences[kMost];
    pmtp_burst bursts[kMost];
    int32_t n = 0;
    for (pmtp_sequence *& sequence : sequences) {
        sequence = start(model, &token, 1, &params);
    }
    do {
        CHECK(pmtp_step(model, bursts, kMost, &n) == PMTP_OK);
    } while (n > 0);
    for (pmtp_sequence * sequence : sequences) {
        pmtp_sequence_free(sequence);
    }
}

// Lets the i-th allocation fail, or it and all after it.
void arm(long i, bool all) {
    lasting = all;
    n_allocations = 0;
    failing = i;
    counted = true;
}

pmtp_status try_to_load(const char * target, const char * head) {
    pmtp_watch watch = {};
    pmtp_model_params params = pmtp_default_model_params();
    params.n_ctx = N_CTX;
    params.n_batch = 32;
    params.n_threads = 2;
    params.watch = &watch;
    pmtp_model * model = nullptr;
    watched = &watch;
    n_allocations = 0;
    counted = true;
    const pmtp_status status = pmtp_model_load(target, head, &params, &model);
    counted = false;
    watched = nullptr;
    CHECK((model != nullptr) == (status == PMTP_OK));
    pmtp_model_free(model);
    return status;
}

// As many points in every stage: nearly all allocations of a load are those of the vocabulary.
void check_loads(const char * target, const char * head, long n, const completion & expected) {
    failing = 0;
    CHECK(try_to_load(target, head) == PMTP_OK);
    long bounds[STAGES + 1];
    std::copy_n(before_stage, STAGES + 1, bounds);
    const pmtp_sequence_params reference = greedy(16, 3);
    long n_failed = 0;
    for (long i = 0; i < n; i++) {
        const int stage = (int) (i % STAGES);
        const long size = bounds[stage + 1] - bounds[stage];
        CHECK(size > 0);
        failing = bounds[stage] + 1 + size * (i / STAGES) / ((n + STAGES - 1) / STAGES);
        lasting = i / STAGES % 3 == 0;
        const pmtp_status status = try_to_load(target, head);
        CHECK(status == PMTP_OK || status == PMTP_ERROR_OUT_OF_MEMORY || status == PMTP_ERROR_MODEL_LOAD);
        n_failed += status != PMTP_OK;
        if (i % 100 == 99 || i == n - 1) {
            pmtp_model * model = load(target, head, 1);
            const completion done = complete(model, PROMPT, &reference);
            CHECK(same(&expected, &done));
            pmtp_model_free(model);
        }
    }
    printf("loads: %ld of %ld failed; of %ld, %ld and %ld allocations\n", n_failed, n, bounds[1], bounds[2] - bounds[1],
           bounds[3] - bounds[2]);
}

}  // namespace

int main(int argc, char ** argv) {
    CHECK(argc >= 3);
    const long stride = argc > 3 ? atol(argv[3]) : 1, first = argc > 4 ? atol(argv[4]) : 1000;
    const long n_loads = argc > 5 ? atol(argv[5]) : 1400;
    pmtp_model_params model_params = pmtp_default_model_params();
    model_params.n_ctx = N_CTX;
    model_params.n_batch = 32;
    model_params.n_threads = 1;
    model_params.max_num_seqs = kMost;
    pmtp_model * model = nullptr;
    CHECK(pmtp_model_load(argv[1], argv[2], &model_params, &model) == PMTP_OK);
    int32_t n_prompt = 0;
    int32_t * prompt = tokenize(model, PROMPT, &n_prompt);
    const pmtp_sequence_params reference = greedy(16, 3);
    const completion expected = complete(model, PROMPT, &reference);
    long n_failed = 0, n_done_without = 0;
    for (int kind = 0; kind < 4; kind++) {
        const pmtp_sequence_params params = completion_params(kind);
        const int n_together = kind < 3 ? 1 : kMost;
        forget(model);
        Course whole(n_together);
        arm(0, false);
        whole.run(model, prompt, n_prompt, params);
        CHECK(!whole.failed);
        const long n = std::min(n_allocations, first);
        CHECK(n > 100);
        for (long i = 1; i <= n; i += stride) {
            forget(model);
            Course course(n_together);
            arm(i, i % 3 == 0);
            course.run(model, prompt, n_prompt, params);
            (course.failed ? n_failed : n_done_without)++;
            for (int k = 0; k < n_together; k++) {
                CHECK(course.failed || course.done[k].finish == PMTP_FINISH_LENGTH);
                CHECK(course.done[k].finish != PMTP_FINISH_LENGTH || same(&whole.done[k], &course.done[k]));
            }
            pmtp_model_info info;
            CHECK(pmtp_model_get_info(model, &info) == PMTP_OK);
            const completion done = complete(model, PROMPT, &reference);
            CHECK(same(&expected, &done));
        }
    }
    free(prompt);
    pmtp_model_free(model);
    CHECK(n_failed > n_done_without);
    printf("every failure was survived: %ld, and %ld done without\n", n_failed, n_done_without);
    check_loads(argv[1], argv[2], n_loads, expected);
    return 0;
}
