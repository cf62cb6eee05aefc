// Failures inside the library: thrown as Error, turned into a status and a message by the C entry points.
#pragma once

#include <cstdarg>
#include <cstdio>
#include <stdexcept>
#include <string>

namespace pmtp {

// Kinds of failure, by the numbers of pmtp_status.
enum class Status {
    invalid_argument = 1,
    model_load,
    incompatible_head,
    context_overflow,
    out_of_memory,
    busy,
    internal,
    cancelled,
    other_process,
};

struct Error : std::runtime_error {
    Error(Status status, const std::string & message) : std::runtime_error(message), status(status) {}
    Status status;
};

#if defined(__GNUC__)
__attribute__((format(printf, 1, 2)))
#endif
inline std::string format(const char * fmt, ...) {
    va_list args;
    va_start(args, fmt);
    va_list again;
    va_copy(again, args);
    const int size = vsnprintf(nullptr, 0, fmt, args);
    va_end(args);
    std::string text(size > 0 ? size : 0, '\0');
    vsnprintf(text.data(), text.size() + 1, fmt, again);
    va_end(again);
    return text;
}

}  // namespace pmtp
