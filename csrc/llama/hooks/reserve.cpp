#include "llama/hooks/reserve.h"

#include <cstdlib>
#include <mutex>
#include <new>

namespace {

std::mutex mutex;
thread_local uint64_t used = 0;

template <size_t kBytes, size_t kSlots> class Slots {
  public:
    void * take() {
        for (size_t i = 0; i < kSlots; i++) {
            if (!taken_[i]) {
                taken_[i] = true;
                return slots_[i];
            }
        }
        return nullptr;
    }

    bool holds(const char * slot) const { return slot >= slots_[0] && slot < slots_[0] + sizeof(slots_); }
    void give_back(const char * slot) { taken_[(slot - slots_[0]) / kBytes] = false; }

    static constexpr size_t bytes = kBytes;

  private:
    alignas(64) char slots_[kSlots][kBytes];
    bool taken_[kSlots];
};

// What ggml allocates in the course of an evaluation: heads of contexts and memory of empty ones; and the free blocks
// of a buffer that a graph is laid out in.
Slots<128, 1024> small;
Slots<8192, 64> large;

}  // namespace

void * pmtp_reserve_malloc(size_t size) {
    void * pointer = malloc(size);
    return pointer != nullptr ? pointer : pmtp_reserve_take(size);
}

void * pmtp_reserve_take(size_t size) {
    const std::lock_guard<std::mutex> lock(mutex);
    void * slot = size <= small.bytes ? small.take() : size <= large.bytes ? large.take() : nullptr;
    used += slot != nullptr;
    return slot;
}

void pmtp_reserve_free(void * pointer) {
    const char * slot = static_cast<char *>(pointer);
    if (!small.holds(slot) && !large.holds(slot)) {
        free(pointer);
        return;
    }
    const std::lock_guard<std::mutex> lock(mutex);
    if (small.holds(slot)) {
        small.give_back(slot);
    } else {
        large.give_back(slot);
    }
}

void pmtp_reserve_need(const void * made, void * otherwise) {
    if (made == nullptr) {
        pmtp_reserve_free(otherwise);
        pmtp_reserve_empty();
    }
}

void pmtp_reserve_empty(void) { throw std::bad_alloc(); }

uint64_t pmtp_reserve_used(void) { return used; }
