/* A barrier as ggml's, of pmtp_wait and pmtp_wake: nobody passes it before all have come, and nobody is left asleep.
 *
 *     wait_check THREADS ROUNDS      prints the rounds that were passed; hangs if a sleeper is not woken
 */
#include "kernels/cpu/wait.h"

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

static int n_threads, n_rounds;
static atomic_int n_arrived, n_passed;
static int * at; /* the round of each thread; ordered by the barrier alone */

static void barrier(void) {
    const int passed = atomic_load_explicit(&n_passed, memory_order_relaxed);
    if (atomic_fetch_add(&n_arrived, 1) == n_threads - 1) {
        atomic_store_explicit(&n_arrived, 0, memory_order_relaxed);
        atomic_fetch_add(&n_passed, 1);
        pmtp_wake(&n_passed);
        return;
    }
    while (atomic_load_explicit(&n_passed, memory_order_relaxed) == passed) {
        pmtp_wait(&n_passed, passed);
    }
    atomic_fetch_add(&n_passed, 0); /* a fence that thread sanitisers know */
}

static void * run(void * argument) {
    const int self = (int) (long) argument;
    unsigned random = 12345u + (unsigned) self;
    for (int round = 1; round <= n_rounds; round++) {
        random = random * 1664525u + 1013904223u;
        if (random % 64 == 0) { /* long enough for the others to fall asleep, or just about to */
            const struct timespec time = { 0, 30000 + random % 60000 };
            nanosleep(&time, NULL);
        }
        at[self] = round;
        barrier();
        for (int other = 0; other < n_threads; other++) {
            if (at[other] != round) {
                printf("thread %d is in round %d, thread %d in %d\n", self, round, other, at[other]);
                exit(1);
            }
        }
        barrier();
    }
    return NULL;
}

int main(int argc, char ** argv) {
    if (argc != 3) {
        return 2;
    }
    n_threads = atoi(argv[1]);
    n_rounds = atoi(argv[2]);
    at = calloc((size_t) n_threads, sizeof(int));
    pthread_t threads[64];
    for (int i = 0; i < n_threads; i++) {
        pthread_create(&threads[i], NULL, run, (void *) (long) i);
    }
    for (int i = 0; i < n_threads; i++) {
        pthread_join(threads[i], NULL);
    }
    printf("%d\n", n_rounds);
    return 0;
}
