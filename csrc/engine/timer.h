// How long the parts of a step take.
#pragma once

#include <chrono>

namespace pmtp {

// Adds the time until its destruction to a counter of seconds.
class Timer {
  public:
    using Clock = std::chrono::steady_clock;

    explicit Timer(double & seconds) : seconds_(seconds), begin_(Clock::now()) {}
    ~Timer() { seconds_ += std::chrono::duration<double>(Clock::now() - begin_).count(); }

  private:
    double & seconds_;
    Clock::time_point begin_;
};

}  // namespace pmtp
