// Calls that another thread watches and stops.
#pragma once

#include "base/calls.h"
#include "base/error.h"

#include <cstdint>

namespace pmtp {

// Steps of a load, by the numbers of pmtp_stage.
enum class Stage { target, context, head };

// The fields of a pmtp_watch.
class Watch {
  public:
    Watch() = default;  // nobody watches
    Watch(int32_t * stage, int32_t * per_mille, const int32_t * stop)
        : stage_(stage),
          per_mille_(per_mille),
          stop_(stop) {}

    // Whether the call shall end.
    bool stopped() const { return ending() || (stop_ != nullptr && __atomic_load_n(stop_, __ATOMIC_RELAXED) != 0); }

    // Throws Error(CANCELLED) then.
    void check() const {
        if (stopped()) {
            throw Error(Status::cancelled, "the call was stopped");
        }
    }

    void report(Stage stage, double share) const {
        if (stage_ != nullptr) {
            __atomic_store_n(stage_, (int32_t) stage, __ATOMIC_RELAXED);
            __atomic_store_n(per_mille_, (int32_t) (share * 1000), __ATOMIC_RELAXED);
        }
    }

  private:
    int32_t * stage_ = nullptr;
    int32_t * per_mille_ = nullptr;
    const int32_t * stop_ = nullptr;
};

}  // namespace pmtp
