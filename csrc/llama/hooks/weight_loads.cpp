#include "llama/hooks/weight_checks.h"

#include "ggml.h"

#include <algorithm>
#include <atomic>
#include <stdexcept>
#include <string>
#include <thread>
#include <vector>

namespace {

constexpr size_t kSliceBytes = 4 << 20;  // between two looks at `stopped`

thread_local const WeightChecks * current = nullptr;

}  // namespace

WeightChecks::WeightChecks(int n_threads, std::function<bool()> stopped)
    : n_threads(n_threads),
      stopped(std::move(stopped)) {
    current = this;
}

WeightChecks::~WeightChecks() { current = nullptr; }

void pmtp_check_weights(const ggml_tensor * tensor, const void * data, size_t size) {
    const WeightChecks * load = current;
    const size_t block = ggml_type_size(tensor->type), slice = std::max<size_t>(1, kSliceBytes / block) * block;
    const size_t n_slices = (size + slice - 1) / slice;
    std::atomic<size_t> next{ 0 };
    std::atomic<bool> valid{ true }, stopped{ false };
    const auto work = [&] {
        for (size_t i; valid && !stopped && (i = next++) < n_slices;) {
            if (load != nullptr && load->stopped()) {
                stopped = true;
            } else if (!ggml_validate_row_data(tensor->type, static_cast<const char *>(data) + i * slice,
                                               std::min(slice, size - i * slice))) {
                valid = false;
            }
        }
    };
    std::vector<std::thread> helpers;
    const size_t n_threads = std::min<size_t>(load != nullptr ? load->n_threads : 1, n_slices);
    helpers.reserve(n_threads);
    try {
        while (helpers.size() + 1 < n_threads) {
            helpers.emplace_back(work);
        }
    } catch (const std::exception &) {  // no more threads can be started: these do all of it
    }
    work();
    for (std::thread & helper : helpers) {
        helper.join();
    }
    if (stopped) {
        throw std::runtime_error("the load was stopped");
    }
    if (!valid) {
        throw std::runtime_error("tensor '" + std::string(tensor->name) + "' has invalid data");
    }
}
