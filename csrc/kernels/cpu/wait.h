// How a thread of a graph waits for the others; hooked into ggml's thread pool by
// csrc/llama/patches/0017-waiting.patch.
//
// Most waits end within microseconds, so a thread spins at first. Then it sleeps: where more threads are ready than
// CPUs are free, one that spins keeps its CPU from the very thread that it waits for.
#pragma once

#include <stdatomic.h>

// Waits until *word is not `value` any more, or for a while: the caller looks again.
void pmtp_wait(atomic_int * word, int value);

// To be called after every change of a word that is waited for.
void pmtp_wake(atomic_int * word);
