// What the draft/verify loop knows about a drafter.
#pragma once

#include "sampling.h"

#include <cstddef>
#include <cstdint>
#include <vector>

namespace pmtp {

class Drafter {
  public:
    virtual ~Drafter() = default;

    // Drafts k >= 1 tokens that continue `token`, which stands at `position` and is not in the KV cache yet; the cache holds
    // 0..position-1. state: f32[n_embd], the target's post-norm state at position-1. A draft is drawn under the noise that the
    // target will draw its token with (sampling.h), so that the two agree as often as they can without knowing each other.
    // Clears and fills `drafted`. Returns false if it was aborted.
    virtual bool draft(int32_t token, int32_t position, const float * state, int k, const Warp & warp, uint64_t seed,
                       std::vector<int32_t> & drafted) = 0;

    // Bytes of scratch memory.
    virtual size_t compute_bytes() const = 0;
};

}  // namespace pmtp
