// Ended sequences whose K/V is still in the cache, for prompts that begin alike.
#pragma once

#include "engine/kv_cache.h"

#include <cstdint>
#include <vector>

namespace pmtp {

// A slot that a sequence has got, and how many tokens of its prompt are in it already.
struct Place {
    int slot;
    int n_cached;
};

class PrefixCache {
  public:
    explicit PrefixCache(KvCache & kv);

    bool has_slot() const;  // that no running sequence has

    // A slot for the prompt: the one that holds its longest usable beginning, which leaves at least one token to
    // evaluate. has_slot() must hold.
    Place take(const std::vector<int32_t> & prompt);

    // Gives a slot back with the tokens that it holds.
    void keep(int slot, std::vector<int32_t> tokens);

    // Gives up what was kept longest ago. Returns false if nothing is kept.
    bool evict();

  private:
    struct Entry {
        bool running = false;
        std::vector<int32_t> tokens;
        uint64_t used = 0;  // when; a larger number is later
    };

    KvCache & kv_;
    std::vector<Entry> entries_;  // of each slot
    uint64_t clock_ = 0;
};

}  // namespace pmtp
