// What the engine knows about a drafter.
#pragma once

#include "sampling/draft.h"

#include "ggml-backend.h"
#include "ggml.h"

#include <cstddef>
#include <cstdint>
#include <vector>

namespace pmtp {

// Where a backend has drafted tokens: in a tensor (i32), one after another from `first` on, until the next draft
// begins.
struct DraftPlace {
    ggml_backend_t backend = nullptr;
    const ggml_tensor * tokens = nullptr;  // nullptr: nowhere but on the host
    int first = 0;
};

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
    DraftPlace place = {};                   // of all k, if the drafter says so
};

class Drafter {
  public:
    virtual ~Drafter() = default;

    // Whether begin() reads the target's states.
    virtual bool reads_states() const = 0;

    // Begins to draft for all turns, and says how many drafts each gets; what they are is known after finish(). Returns
    // false if it was aborted. Throws Error.
    virtual bool begin(std::vector<DraftTurn> & turns) = 0;

    // The drafts of the same turns, when the target's backends have been waited for. Throws std::bad_alloc.
    virtual void finish(std::vector<DraftTurn> & turns) = 0;

    // Bytes of scratch memory.
    virtual size_t compute_bytes() const = 0;
};

}  // namespace pmtp
