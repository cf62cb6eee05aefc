#include "llama/hooks/weight_loads.h"

#include "ggml-backend.h"
#include "ggml.h"

#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <cstring>
#include <exception>
#include <stdexcept>
#include <string>
#include <thread>
#include <vector>

namespace {

constexpr size_t kSliceBytes = 4 << 20;  // between two looks at `stopped`
// Rows of a slice are a multiple of those that any type is repacked in.
constexpr size_t kRows = 64;

thread_local const WeightLoads * current = nullptr;

void advise(const void * begin, size_t size, int advice) {
    const uintptr_t page = (uintptr_t) sysconf(_SC_PAGESIZE);
    const uintptr_t first = (uintptr_t) begin / page * page;
    (void) madvise((void *) first, (uintptr_t) begin + size - first, advice);  // a wish
}

// work(first, size) for slices of `unit` bytes or a multiple of it, by the threads of the load.
template <class Work> void for_slices(size_t size, size_t unit, const Work & work) {
    const WeightLoads * load = current;
    const size_t slice = std::max<size_t>(1, kSliceBytes / unit) * unit;
    const size_t n_slices = (size + slice - 1) / slice;
    std::atomic<size_t> next{ 0 };
    std::atomic<bool> stopped{ false }, failed{ false };
    std::exception_ptr failure;
    const auto take = [&] {
        for (size_t i; !stopped && !failed && (i = next++) < n_slices;) {
            if (load != nullptr && load->stopped()) {
                stopped = true;
                break;
            }
            try {
                work(i * slice, std::min(slice, size - i * slice));
            } catch (...) {
                if (!failed.exchange(true)) {
                    failure = std::current_exception();
                }
            }
        }
    };
    std::vector<std::thread> helpers;
    const size_t n_threads = std::min<size_t>(load != nullptr ? load->n_threads : 1, n_slices);
    helpers.reserve(n_threads);
    try {
        while (helpers.size() + 1 < n_threads) {
            helpers.emplace_back(take);
        }
    } catch (const std::exception &) {  // no more threads can be started: these do all of it
    }
    take();
    for (std::thread & helper : helpers) {
        helper.join();
    }
    if (failure) {
        std::rethrow_exception(failure);
    }
    if (stopped) {
        throw std::runtime_error("the load was stopped");
    }
}

void check_values(const ggml_tensor * tensor, const char * data, size_t size) {
    if (!ggml_validate_row_data(tensor->type, data, size)) {
        throw std::runtime_error("tensor '" + std::string(tensor->name) + "' has invalid data");
    }
}

bool is_in(const ggml_tensor * tensor, const char * buffer) {
    return std::strcmp(ggml_backend_buffer_name(tensor->buffer), buffer) == 0;
}

// Rows of a tensor, as a tensor: those whose values lie from `first` on.
ggml_tensor rows_of(const ggml_tensor * tensor, size_t first, size_t size) {
    ggml_tensor rows = *tensor;
    rows.data = (char *) tensor->data + first;
    rows.ne[1] = (int64_t) (size / tensor->nb[1]);
    rows.ne[2] = rows.ne[3] = 1;
    rows.nb[2] = rows.nb[3] = size;
    return rows;
}

}  // namespace

WeightLoads::WeightLoads(int n_threads, std::function<bool()> stopped)
    : n_threads(n_threads),
      stopped(std::move(stopped)) {
    current = this;
}

WeightLoads::~WeightLoads() { current = nullptr; }

void pmtp_read_ahead(const void * begin, size_t size) { advise(begin, size, MADV_WILLNEED); }

void pmtp_keep_weights(const ggml_tensor * tensor, const void * data, size_t size, bool check) {
    if (check) {
        for_slices(size, ggml_type_size(tensor->type),
                   [&](size_t first, size_t n) { check_values(tensor, (const char *) data + first, n); });
    }
}

void pmtp_copy_weights(ggml_tensor * tensor, const void * data, size_t size, bool check) {
    const bool repacked = is_in(tensor, "CPU_REPACK");
    for_slices(size, repacked ? kRows * tensor->nb[1] : ggml_type_size(tensor->type), [&](size_t first, size_t n) {
        const char * values = (const char *) data + first;
        if (check) {
            check_values(tensor, values, n);
        }
        if (repacked) {
            ggml_tensor rows = rows_of(tensor, first, n);
            ggml_backend_tensor_set(&rows, values, 0, n);
        }
    });
    if (!repacked) {
        ggml_backend_tensor_set(tensor, data, 0, size);
    }
    advise(data, size, MADV_DONTNEED);
}

bool pmtp_forget_rows(const ggml_tensor * tensor) {
    const bool mapped = is_in(tensor, "CPU_Mapped");
    if (mapped) {
        advise(tensor->data, ggml_nbytes(tensor), MADV_DONTNEED);
    }
    return mapped;
}
