#include "kernels/cpu/wait.h"

#include <linux/futex.h>
#include <limits.h>
#include <stdbool.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

// Nanoseconds of spinning: about what it costs to go to sleep and to be woken.
#define SPIN_TIME 50000
// Looks at the word between two looks at the clock: a microsecond or two.
#define SPINS 64

// Sleeping threads of all pools: while there are none, nobody has to be woken.
static atomic_int sleepers;

static void relax(void) {
#if defined(__x86_64__)
    _mm_pause();
#elif defined(__aarch64__)
    __asm__ volatile("yield" ::: "memory");
#endif
}

static long long now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec * 1000000000ll + t.tv_nsec;
}

// Whether the word changed meanwhile.
static bool spin(atomic_int * word, int value) {
    for (int i = 0; i < SPINS; i++) {
        if (atomic_load_explicit(word, memory_order_relaxed) != value) {
            return true;
        }
        relax();
    }
    return false;
}

void pmtp_wait(atomic_int * word, int value) {
    if (spin(word, value)) {
        return;
    }
    const long long end = now() + SPIN_TIME;
    do {
        if (spin(word, value)) {
            return;
        }
    } while (now() < end);
    // The kernel compares once more, after the count: whoever changes the word before that is noticed here, and whoever
    // does so later sees the count.
    atomic_fetch_add(&sleepers, 1);
    syscall(SYS_futex, word, FUTEX_WAIT_PRIVATE, value, NULL, NULL, 0);
    atomic_fetch_sub(&sleepers, 1);
}

void pmtp_wake(atomic_int * word) {
    if (atomic_load(&sleepers) > 0) {
        syscall(SYS_futex, word, FUTEX_WAKE_PRIVATE, INT_MAX, NULL, NULL, 0);
    }
}
