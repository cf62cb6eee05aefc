// What the target's memory holds, slot by slot: the only user of llama.cpp's memory and its cells.
//
// A slot is one of llama.cpp's sequence ids. All slots share one pool of cells, which are handed out in pages
// (llama/hooks/pages.h).
#pragma once

#include <cstdint>
#include <vector>

struct llama_context;

namespace pmtp {

constexpr int kPageCells = 64;
constexpr int pages_of(int n_tokens) { return (n_tokens + kPageCells - 1) / kPageCells; }

// Positions low..high-1 that the sliding layers hold of a slot.
struct WindowRange {
    int low = 0, high = 0;
};

class KvCache {
  public:
    // n_slots: ids. The context must outlive the cache.
    KvCache(llama_context & context, int n_slots);

    int n_slots() const { return n_slots_; }

    // Forgets all but the first n positions of a slot. Returns false if the memory cannot do that: then it has
    // forgotten everything of the slot.
    bool truncate(int slot, int n);

    // Forgets everything of all slots, whatever state an exception left the cells in.
    void clear();

    // Gives an empty slot the first n positions of another, whole pages of them, in the layers that see all positions.
    void share(int from, int to, int n);

    // Whether the page that holds position n of the slot is shared with another, which may have filled the rest of it.
    bool shares_page(int slot, int n) const;

    // Sliding layers keep a window only: what a query behind position n needs, which may be gone after going back far.
    bool has_windows() const { return n_swa_ > 0; }
    WindowRange window(int slot) const;
    // Whether a query at position n finds all that it may see.
    bool serves(const WindowRange & range, int n) const {
        return !has_windows() || (n <= range.high && (range.low == 0 || n - n_swa_ + 1 >= range.low));
    }
    // The range that save_window() of a slot would keep, if it holds positions up to `high`.
    WindowRange saved_range(int high) const { return { high > n_swa_ ? high - n_swa_ : 0, high }; }
    std::vector<uint8_t> save_window(int slot) const;
    // Gives a slot, whose window is lost, the first n positions of a saved one. Returns false if there is no room.
    bool restore_window(int slot, const std::vector<uint8_t> & saved, int n);
    void drop_window(int slot);

    // What all the other layers hold of a slot. restore_full() is for an empty slot, and returns false, with the slot
    // empty, where the bytes do not fit this cache or there is no room.
    std::vector<uint8_t> save_full(int slot) const;
    bool restore_full(int slot, const std::vector<uint8_t> & saved, int n);

    // Whether the bytes begin like a window of these positions, each of them once: llama.cpp takes that for granted.
    bool is_window(const std::vector<uint8_t> & saved, const WindowRange & range) const;

    // Of the model's weights, and of what the cache looks like.
    uint64_t fingerprint() const;

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
    int n_swa_;  // 0: no sliding layers
    bool can_truncate_;
};

}  // namespace pmtp
