// Native log lines: handed to the caller's receiver, and remembered where a failure has to be explained.
#pragma once

#include <cstdint>
#include <string>

namespace pmtp {

// As pmtp_log_fn.
using LogReceiver = void (*)(int32_t level, const char * text, void * user);

void set_log(LogReceiver log, void * user);

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

}  // namespace pmtp
