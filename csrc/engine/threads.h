// The threads that evaluate graphs, and how many of them take part.
//
// All threads of a graph wait for each other after every operation, so one that finds no CPU holds all of them up.
// Beside other work fewer threads are faster: as many as find a CPU.
#pragma once

#include <chrono>
#include <memory>
#include <vector>

struct ggml_threadpool;

namespace pmtp {

class Threads {
  public:
    // Starts n - 1 threads; the caller's is the first one. Throws Error(out_of_memory) if they cannot be started.
    explicit Threads(int n);
    ~Threads();
    Threads(const Threads &) = delete;
    Threads & operator=(const Threads &) = delete;

    ggml_threadpool * pool() const { return pool_.get(); }

    // How many should take part in the next graph. To be asked by the thread that evaluates it.
    int active();

  private:
    using Clock = std::chrono::steady_clock;
    struct Waiting;

    double seconds_without_cpu();
    void decide(double delayed, Clock::time_point now);

    std::unique_ptr<ggml_threadpool, void (*)(ggml_threadpool *)> pool_;
    std::vector<Waiting> waiting_;  // of each thread, the caller's first; empty where it is the only one
    int n_;
    int active_;
    int step_ = 1;                // threads that the next try adds
    Clock::duration patience_;    // between two tries to use more
    Clock::time_point tried_;     // the last one
    Clock::time_point next_try_;  // not before
    Clock::time_point since_;     // the last look at the threads
    double total_ = 0;            // seconds_without_cpu() then
};

}  // namespace pmtp
