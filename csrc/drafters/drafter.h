// What the engine knows about a drafter.
#pragma once

#include "sampling/draft.h"

#include <cstddef>
#include <cstdint>
#include <vector>

namespace pmtp {

// What a sequence wants drafted.
struct DraftTurn {
    int slot;             // whose K/V in the cache is at positions 0..position-1
    int32_t token;        // the last one, not in the KV cache yet
    int position;         // its position in the text
    const float * state;  // f32[n_embd], the target's post-norm state at position-1; where the drafter reads states
    int k;                // tokens to draft, >= 1
    Draw draw;
    Warp warp;  // of the head's distribution, as of the target's
    uint64_t seed;
    uint64_t counter;  // of independent draws: step i uses counter + i
    const std::vector<int32_t> * prompt;
    const std::vector<int32_t> * generated;  // `token` is the last of them
    std::vector<Draft> * drafts;             // to be replaced by k continuations or fewer
};

class Drafter {
  public:
    virtual ~Drafter() = default;

    // Whether draft() reads the target's states.
    virtual bool reads_states() const = 0;

    // Drafts for all turns. Returns false if it was aborted. Throws Error.
    virtual bool draft(std::vector<DraftTurn> & turns) = 0;

    // Bytes of scratch memory.
    virtual size_t compute_bytes() const = 0;
};

}  // namespace pmtp
