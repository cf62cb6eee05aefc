#include "base/log.h"

#include "llama.h"

#include <pthread.h>

#include <algorithm>
#include <condition_variable>
#include <cstring>
#include <deque>
#include <memory>
#include <mutex>
#include <utility>

namespace pmtp {

namespace {

struct Receiver {
    LogReceiver log;
    void * user;
    int running = 0;  // calls under way
};

constexpr size_t kMostKept = 1 << 14;

struct Line {
    int level;
    std::string text;
};

// Held for moments, and never while a receiver runs: it may do anything, waiting for another thread's lines included.
std::mutex mutex;
std::condition_variable returned;
std::shared_ptr<Receiver> receiver;
std::deque<Line> kept;

thread_local std::string * error_lines = nullptr;
thread_local const Watch * quiet = nullptr;

int level_of(ggml_log_level level) {
    switch (level) {
        case GGML_LOG_LEVEL_DEBUG: return 1;
        case GGML_LOG_LEVEL_WARN: return 3;
        case GGML_LOG_LEVEL_ERROR: return 4;
        default: return 2;
    }
}

class Running {
  public:
    Running() {
        const std::lock_guard<std::mutex> lock(mutex);
        receiver_ = receiver;
        if (receiver_ != nullptr) {
            receiver_->running++;
        }
    }
    ~Running() {
        if (receiver_ != nullptr) {
            const std::lock_guard<std::mutex> lock(mutex);
            receiver_->running--;
            returned.notify_all();
        }
    }
    const Receiver * operator->() const { return receiver_.get(); }
    explicit operator bool() const { return receiver_ != nullptr; }

  private:
    std::shared_ptr<Receiver> receiver_;
};

void on_line(ggml_log_level level, const char * text, void *) {
    if (level == GGML_LOG_LEVEL_ERROR && error_lines != nullptr) {
        try {
            *error_lines += text;
        } catch (const std::bad_alloc &) {
        }  // a cause less in the message
    }
    if (quiet != nullptr && level != GGML_LOG_LEVEL_ERROR) {
        if (strlen(text) < 128) {  // a longer one lies in memory that llama.cpp frees when this returns
            quiet->check();
        }
        return;
    }
    if (const Running running; running) {
        running->log(level_of(level), text, running->user);
    }
}

// llama.cpp prints to stderr until told otherwise. A child that another thread's fork makes must find the lock free.
const bool installed = [] {
    llama_log_set(on_line, nullptr);
    pthread_atfork([] { mutex.lock(); }, [] { mutex.unlock(); },
                   [] {
                       if (receiver != nullptr) {
                           receiver->running = 0;
                       }
                       mutex.unlock();
                   });
    return true;
}();

}  // namespace

void set_log(LogReceiver log, void * user) {
    std::shared_ptr<Receiver> next;
    if (log != nullptr) {
        next = std::make_shared<Receiver>(Receiver{ log, user });
    }
    std::unique_lock<std::mutex> lock(mutex);
    std::swap(receiver, next);
    returned.wait(lock, [&] { return next == nullptr || next->running <= 0; });
}

void keep_line(int level, const char * text) {
    thread_local Line line = { 0, "" };  // llama.cpp writes some lines in pieces
    try {
        if (line.text.empty()) {
            line.level = level;
        }
        line.text += text;
        if (line.text.empty() || line.text.back() != '\n') {
            return;
        }
        line.text.pop_back();
        const std::lock_guard<std::mutex> lock(mutex);
        kept.push_back(std::exchange(line, { 0, "" }));
        if (kept.size() > kMostKept) {
            kept.pop_front();
        }
    } catch (const std::bad_alloc &) {
        line.text.clear();
    }
}

int take_line(char * text, int capacity, int & level) {
    const std::lock_guard<std::mutex> lock(mutex);
    if (kept.empty()) {
        return -1;
    }
    const int size = (int) std::min<size_t>(kept.front().text.size(), INT32_MAX);
    if (size <= capacity) {
        level = kept.front().level;
        std::copy_n(kept.front().text.data(), size, text);
        kept.pop_front();
    }
    return size;
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

Quiet::Quiet(const Watch & watch) { quiet = &watch; }

Quiet::~Quiet() { quiet = nullptr; }

}  // namespace pmtp
