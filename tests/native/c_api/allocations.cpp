// Allocations that fail, one after the other, in the course of a completion and of a load: each ends in an error or is
// done without, the model is as good as before, and another one can be loaded.
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

// A completion with K/V to evaluate, drafts, and a part taken back.
pmtp_status run(pmtp_model * model, const int32_t * prompt, int32_t n_prompt, const pmtp_sequence_params & params) {
    pmtp_generation * generation = nullptr;
    pmtp_status status = pmtp_generation_start(model, prompt, n_prompt, &params, &generation);
    CHECK((generation != nullptr) == (status == PMTP_OK));
    pmtp_burst burst = {};
    while (status == PMTP_OK && burst.finish == PMTP_FINISH_NONE) {
        status = pmtp_generation_step(generation, &burst);
    }
    pmtp_stats stats;
    CHECK(generation == nullptr || pmtp_generation_get_stats(generation, &stats) == PMTP_OK);
    if (status == PMTP_OK) {
        status = pmtp_generation_truncate(generation, 3);
    }
    pmtp_generation_free(generation);
    return status;
}

pmtp_sequence_params completion_params(int kind) {
    pmtp_sequence_params params = greedy(10, 2 + kind);  // other drafts than the completion before: another graph
    params.ignore_eos = 1;
    if (kind > 0) {
        params.temperature = 0.9;
        params.seed = 5;
        params.n_logprobs = 3;
        params.acceptance = kind == 1 ? PMTP_ACCEPTANCE_COUPLED : PMTP_ACCEPTANCE_REJECTION;
    }
    return params;
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
    const pmtp_generation_params reference = greedy(16, 3);
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
    pmtp_model * model = load(argv[1], argv[2], 1);
    int32_t n_prompt = 0;
    int32_t * prompt = tokenize(model, PROMPT, &n_prompt);
    const pmtp_sequence_params other = greedy(2, 1), reference = greedy(16, 3);
    const completion expected = complete(model, PROMPT, &reference);
    long n_failed = 0, n_done_without = 0;
    for (int kind = 0; kind < 3; kind++) {
        const pmtp_sequence_params params = completion_params(kind);
        complete(model, "x", &other);
        counted = true;
        n_allocations = failing = 0;
        CHECK(run(model, prompt, n_prompt, params) == PMTP_OK);
        counted = false;
        const long n = std::min(n_allocations, first);
        CHECK(n > 100);
        for (long i = 1; i <= n; i += stride) {
            complete(model, "x", &other); /* leaves nothing of the prompt in the cache */
            lasting = i % 3 == 0;
            n_allocations = 0;
            failing = i;
            counted = true;
            const pmtp_status status = run(model, prompt, n_prompt, params);
            counted = false;
            CHECK(status == PMTP_OK || status == PMTP_ERROR_OUT_OF_MEMORY);
            (status == PMTP_OK ? n_done_without : n_failed)++;
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
