#include "base/log.h"

#include "llama.h"

#include <algorithm>
#include <mutex>

namespace pmtp {

namespace {

std::mutex receiver_mutex;
LogReceiver receiver = nullptr;
void * receiver_user = nullptr;
thread_local std::string * error_lines = nullptr;

int level_of(ggml_log_level level) {
    switch (level) {
        case GGML_LOG_LEVEL_DEBUG: return 1;
        case GGML_LOG_LEVEL_WARN: return 3;
        case GGML_LOG_LEVEL_ERROR: return 4;
        default: return 2;
    }
}

void on_line(ggml_log_level level, const char * text, void *) {
    if (level == GGML_LOG_LEVEL_ERROR && error_lines != nullptr) {
        *error_lines += text;
    }
    const std::lock_guard<std::mutex> lock(receiver_mutex);
    if (receiver != nullptr) {
        receiver(level_of(level), text, receiver_user);
    }
}

// llama.cpp prints to stderr until told otherwise.
const bool installed = [] {
    llama_log_set(on_line, nullptr);
    return true;
}();

}  // namespace

void set_log(LogReceiver log, void * user) {
    const std::lock_guard<std::mutex> lock(receiver_mutex);
    receiver = log;
    receiver_user = user;
}

ErrorLines::ErrorLines() : previous_(error_lines) { error_lines = &lines_; }

ErrorLines::~ErrorLines() { error_lines = previous_; }

std::string ErrorLines::text() const {
    std::string text;
    size_t begin = 0;
    while (begin < lines_.size()) {
        const size_t end = std::min(lines_.find('\n', begin), lines_.size());
        std::string line = lines_.substr(begin, end - begin);
        const size_t colon = line.find(": ");
        if (colon != std::string::npos && line.find(' ') > colon) {
            line = line.substr(colon + 2);  // "function: message"
        }
        text += (text.empty() || line.empty() ? "" : "; ") + line;
        begin = end + 1;
    }
    return text.empty() ? "llama.cpp gave no reason" : text;
}

}  // namespace pmtp
