#include "base/calls.h"

#include "base/error.h"

#include <pthread.h>
#include <unistd.h>

#include <atomic>

namespace pmtp {

namespace {

std::atomic<int> running{ 0 };
std::atomic<bool> shut{ false };
std::atomic<uint64_t> forks{ 0 };
thread_local bool shuts = false;  // this thread called shut_down()

// The other threads, and with them their calls, are not there in a forked child.
const bool installed = [] {
    pthread_atfork(nullptr, nullptr, [] {
        running = 0;
        forks++;
    });
    return true;
}();

}  // namespace

// Counted first, looked at afterwards: either shut_down() sees the call, or the call sees shut_down().
Call::Call() {
    running++;
    if (shut) {
        running--;
        stay_if_ending();
        throw Error(Status::cancelled, "the process is ending");
    }
}

Call::~Call() { running--; }

Free::Free() { running++; }

Free::~Free() { running--; }

bool ending() { return shut.load(std::memory_order_relaxed); }

void shut_down() {
    shuts = true;
    shut = true;
    while (running > 0) {
        usleep(500);
    }
}

void stay_if_ending() {
    while (shut && !shuts) {
        pause();
    }
}

uint64_t process() { return forks; }

}  // namespace pmtp
