// Which sequence holds a cell of a KV cache, in four bytes a cell: what a mask asks of every cell. Built into
// llama_kv_cells, whose sets of sequences take 32 (csrc/llama/patches/0026).
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

namespace pmtp::attention {

class CellHolders {
  public:
    void reset(size_t n_cells) {
        holders_.assign(n_cells, 0);
        n_shared_ = 0;
    }
    void add(size_t cell, int sequence) {
        n_shared_ += is_held(cell) && !is_shared(cell);
        holders_[cell] += only(sequence);
    }
    void remove(size_t cell, int sequence) {
        const bool shared = is_shared(cell);
        holders_[cell] -= only(sequence);
        n_shared_ -= shared && !is_shared(cell);
    }

    // What data() has for a cell that this sequence holds and no other.
    static constexpr int32_t only(int sequence) { return kOne + sequence; }
    const int32_t * data() const { return holders_.data(); }
    bool is_shared(size_t cell) const { return holders_[cell] >= 2 * kOne; }
    bool any_shared() const { return n_shared_ > 0; }

  private:
    bool is_held(size_t cell) const { return holders_[cell] >= kOne; }

    // Above the sum of all sequences' numbers, of which llama.cpp has 256.
    static constexpr int32_t kOne = 1 << 16;

    std::vector<int32_t> holders_;  // kOne for every sequence, and the sum of their numbers
    size_t n_shared_ = 0;           // cells of several sequences
};

}  // namespace pmtp::attention
