// Native log lines: handed to the caller's receiver, and remembered where a failure has to be explained.
#pragma once

#include "base/watch.h"

#include <cstdint>
#include <string>

namespace pmtp {

// As pmtp_log_fn.
using LogReceiver = void (*)(int32_t level, const char * text, void * user);

void set_log(LogReceiver log, void * user);

// The receiver that keeps lines, and what it has kept: see pmtp_log_keep and pmtp_log_take.
void keep_line(int level, const char * text);
int take_line(char * text, int capacity, int & level);

// Collects the error lines that llama.cpp logs on this thread while it lives: its loaders report causes in no other
// way.
class ErrorLines {
  public:
    ErrorLines();
    ~ErrorLines();
    ErrorLines(const ErrorLines &) = delete;
    ErrorLines & operator=(const ErrorLines &) = delete;

    std::string text() const;  // one line, without function names; a general phrase if nothing was logged

  private:
    std::string * previous_;
    std::string lines_;
};

// While it lives, lines below errors that are logged on this thread are dropped, and the first of them after
// the call was stopped ends what logs it with an exception: llama.cpp's quantiser can be stopped in no other way.
class Quiet {
  public:
    explicit Quiet(const Watch & watch);
    ~Quiet();
    Quiet(const Quiet &) = delete;
    Quiet & operator=(const Quiet &) = delete;
};

}  // namespace pmtp
