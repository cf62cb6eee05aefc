// What the target's memory holds, slot by slot: the only user of llama.cpp's memory and its cells.
//
// A slot is one of llama.cpp's sequence ids. All slots share one pool of cells, which are handed out in pages
// (llama/hooks/pages.h).
#pragma once

struct llama_context;

namespace pmtp {

constexpr int kPageCells = 64;
constexpr int pages_of(int n_tokens) { return (n_tokens + kPageCells - 1) / kPageCells; }

class KvCache {
  public:
    // The context must outlive the cache.
    KvCache(llama_context & context, int n_slots);

    int n_slots() const { return n_slots_; }

    // Forgets all but the first n positions of a slot. Returns false if the memory cannot do that: then it has
    // forgotten everything of the slot.
    bool truncate(int slot, int n);

    // Whether a sliding-window cache still holds every position that a query at position n of the slot may see. Its
    // cells are used again, so after going back far enough some are gone.
    bool window_intact(int slot, int n) const;

    // Pages of the layers that see all positions, in all and those that are free. A memory that has no cells has as
    // many pages as it has positions.
    int n_pages() const { return n_pages_; }
    int free_pages() const;

    // Whether positions at the end of a slot can be taken back: not where states are recurrent.
    bool can_truncate() const { return can_truncate_; }

  private:
    llama_context & context_;
    int n_slots_;
    int n_pages_;
    bool can_truncate_;
};

}  // namespace pmtp
