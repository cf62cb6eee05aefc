// What the draft/verify loop knows about a drafter.
#pragma once

#include "sampling/draft.h"

#include <cstddef>
#include <cstdint>
#include <vector>

namespace pmtp {

struct DraftRequest {
    int32_t token;        // the last one, not in the KV cache yet
    int32_t position;     // its position in the text; the cache holds 0..position-1
    const float * state;  // f32[n_embd], the target's post-norm state at position-1
    int k;                // tokens to draft, >= 1
    Draw draw;
    Warp warp;  // of the head's distribution, as of the target's
    uint64_t seed;
    uint64_t counter;  // of independent draws: step i uses counter + i
};

class Drafter {
  public:
    virtual ~Drafter() = default;

    // Replaces `drafts` by k continuations. Returns false if it was aborted. Throws Error.
    virtual bool draft(const DraftRequest & request, std::vector<Draft> & drafts) = 0;

    // Bytes of scratch memory.
    virtual size_t compute_bytes() const = 0;
};

}  // namespace pmtp
