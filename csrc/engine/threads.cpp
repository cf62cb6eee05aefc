#include "engine/threads.h"

#include "base/error.h"
#include "base/handle.h"

#include "ggml-cpu.h"
#include "ggml.h"

#include <fcntl.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <utility>

namespace pmtp {

namespace {

using std::chrono::milliseconds;

// Time between two looks at the threads: long against a look and a moment's disturbance, short against a generation.
constexpr milliseconds kLook{ 8 };
// While one of n threads has no CPU all wait: without it 1/n of the speed is lost, with it this part of the time.
constexpr double kCrowded = 0.8, kLeast = 0.1;
// Between two tries to use more threads, the first time and after many that failed.
constexpr milliseconds kSoon{ 50 }, kLate{ 1600 };
// The same in looks, where an evaluation is longer than kLook: a moment's disturbance costs little, and tries that fail
// take little of the time.
constexpr int kFew = 2, kRare = 16;
// Looks after a try that tell whether it failed.
constexpr int kTold = 4;

ggml_threadpool * start(int n) {
    ggml_threadpool_params params = ggml_threadpool_params_default(n);
    params.poll = 1;  // a few milliseconds, longer than what lies between two graphs
    return ggml_threadpool_new(&params);
}

int thread_id() { return (int) syscall(SYS_gettid); }

void note_id(ggml_tensor *, int ith, int, void * user) { (*static_cast<std::vector<int> *>(user))[ith] = thread_id(); }

// The kernel's ids of a pool's threads, told by themselves; 0: it was not started.
std::vector<int> thread_ids(ggml_threadpool * pool, int n) {
    std::vector<int> ids(n);
    const Handle<ggml_context> ctx(
        ggml_init({ ggml_tensor_overhead() + ggml_graph_overhead_custom(1, false), nullptr, /*no_alloc*/ true }),
        ggml_free);
    ggml_cgraph * graph = ggml_new_graph_custom(ctx.get(), 1, false);
    ggml_build_forward_expand(
        graph, ggml_custom_4d(ctx.get(), GGML_TYPE_I32, 1, 1, 1, 1, nullptr, 0, note_id, GGML_N_TASKS_MAX, &ids));
    ggml_cplan plan = ggml_graph_plan(graph, n, pool);
    std::vector<uint8_t> work(plan.work_size);
    plan.work_data = work.data();
    ggml_graph_compute(graph, &plan);
    return ids;
}

}  // namespace

// How long a thread has been ready to run and had no CPU, by the kernel's account.
struct Threads::Waiting {
    explicit Waiting(int id) : id(id) {
        file = open(format("/proc/self/task/%d/schedstat", id).c_str(), O_RDONLY | O_CLOEXEC);
    }
    Waiting(Waiting && other) noexcept : id(other.id), file(std::exchange(other.file, -1)) {}
    Waiting & operator=(Waiting && other) noexcept {
        std::swap(id, other.id);
        std::swap(file, other.file);
        return *this;
    }
    ~Waiting() {
        if (file >= 0) {
            close(file);
        }
    }

    // Seconds since the thread began; 0 if the kernel does not tell.
    double seconds() const {
        char text[96];
        const ssize_t size = file < 0 ? -1 : pread(file, text, sizeof(text) - 1, 0);
        if (size <= 0) {
            return 0;
        }
        text[size] = '\0';
        char * second;
        std::strtoull(text, &second, 10);  // nanoseconds on a CPU
        return (double) std::strtoull(second, nullptr, 10) * 1e-9;
    }

    int id;
    int file;
};

Threads::Threads(int n) : pool_(start(n), ggml_threadpool_free), n_(n), active_(n), patience_(kSoon) {
    if (n == 1) {
        return;
    }
    const std::vector<int> ids = thread_ids(pool_.get(), n);
    const int started = n - (int) std::count(ids.begin(), ids.end(), 0);
    if (started < n) {
        throw Error(Status::out_of_memory,
                    format("only %d of %d threads could be started: lower n_threads, or raise the limits of processes "
                           "and memory",
                           started, n));
    }
    for (int id : ids) {
        waiting_.emplace_back(id);
    }
    since_ = Clock::now();
    total_ = seconds_without_cpu();
}

Threads::~Threads() = default;

int Threads::active() {
    const Clock::time_point now = Clock::now();
    if (n_ == 1 || now - since_ < kLook) {
        return active_;
    }
    const int caller = thread_id();
    if (waiting_[0].id != caller) {  // models may be handed from thread to thread
        waiting_[0] = Waiting(caller);
    } else {
        decide(seconds_without_cpu() - total_, now);
    }
    since_ = now;
    total_ = seconds_without_cpu();
    return active_;
}

double Threads::seconds_without_cpu() {
    double total = 0;
    for (const Waiting & waiting : waiting_) {
        total += waiting.seconds();
    }
    return total;
}

// delayed: seconds that the threads had no CPU, together, since the last look.
void Threads::decide(double delayed, Clock::time_point now) {
    const Clock::duration passed = now - since_;
    const double crowd = delayed / std::chrono::duration<double>(passed).count();
    if (crowd > std::max(kCrowded / active_, kLeast)) {
        if (active_ == 1) {
            return;
        }
        const bool failed = now - tried_ < std::max(patience_, kTold * passed);
        patience_ = failed ? std::min(2 * patience_, std::max<Clock::duration>(kLate, kRare * passed))
                           : std::max<Clock::duration>(kSoon, kFew * passed);
        active_ = std::max(1, active_ - std::max(1, (int) std::lround(crowd)));
        step_ = 1;
        next_try_ = now + patience_;
    } else if (active_ < n_ && now >= next_try_) {
        active_ = std::min(n_, active_ + step_);
        step_ *= 2;
        tried_ = now;
    }
}

}  // namespace pmtp
