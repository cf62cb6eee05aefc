// Attention of a few query rows over a quantised KV cache, in pieces that threads take.
//
// The KV axis is cut into chunks (FlashDecoding: Dao, Haziza, Massa, Sizov 2023). An item of work is one KV head, one
// tile of columns (query rows times the heads of the group) and one chunk: keys and values are decoded once for all
// columns, the softmax is taken online (Milakov, Gimelshein, arXiv 1805.02867), and the partial results (maximum, sum,
// accumulator) are merged in the order of the chunks.
//
// What a column's result is computed from, and in which order, depends on its own query, mask and cells alone: not on
// the other columns, the number of threads or the length of the cache behind its last visible cell. So one row and
// several give the same bits.
#pragma once

#include <cstddef>
#include <cstdint>

namespace pmtp::attention {

constexpr int kMaxHeadSize = 512;
constexpr int kMaxColumns = 144;  // of a tile
constexpr int kMaxSplitRows =
    17;  // up to as many query rows an item is one chunk; with more (prefill) it takes all chunks in turn

// Decodes n values (a multiple of 64) to x.
using Decode = void (*)(const void * blocks, float * x, int64_t n);

// K or V. A cell's row of one head is `head_size` contiguous values.
struct Cells {
    const char * data;
    size_t cell_stride, head_stride, batch_stride;  // bytes
    int turbo_bits;                                 // 2, 3, 4; 0: `decode`
    Decode decode;
    size_t bytes64;  // of 64 values
    int head_size;   // multiple of 64, at most kMaxHeadSize
};

struct Task {
    Cells k, v;
    const char * q;  // f32 [n_batches][n_heads][n_rows][k.head_size]
    size_t q_row_stride, q_head_stride, q_batch_stride;
    const char * mask;  // f16 [mask_batches][mask_heads][n_rows][n_cells], or null: every cell is visible
    size_t mask_row_stride, mask_head_stride, mask_batch_stride;
    int64_t mask_heads, mask_batches;
    const float * sinks;  // [n_heads], or null: a logit a head that takes its share of the softmax and has no value
    float * result;       // [n_batches][n_rows][n_heads][v.head_size]
    int64_t n_cells;
    int n_rows, n_heads, n_kv_heads, n_batches, kv_batches;
    float scale, softcap;  // logits: scale * q.k, then softcap * tanh(. / softcap) unless it is 0
};

constexpr size_t kAlignment = 64;  // bytes, of work memory

// How a task is cut; the same for every thread of one run.
class Plan {
  public:
    explicit Plan(const Task & task);

    // Whether a group of `group` query heads fits a tile.
    static bool serves(int64_t group) { return group >= 1 && group <= kMaxColumns; }

    size_t work_size(int n_threads) const;  // bytes
    int64_t n_items() const { return n_units_ * (split_ ? n_chunks_ : 1); }
    int64_t n_merges() const { return split_ ? n_units_ * tile_rows_ * group_ : 0; }

    void run_item(int64_t item, int thread, void * work) const;
    // One column's chunks, after all items (a barrier between).
    void merge(int64_t index, void * work) const;

  private:
    struct Tile;
    Tile tile(int64_t unit) const;
    float * partial(int64_t unit, int64_t chunk, void * work) const;
    void finish(const Tile & tile, int column, float max, float sum, const float * values) const;

    const Task & task_;
    int group_, tile_rows_, tile_columns_;      // tile_columns_: padded
    int64_t n_row_tiles_, n_units_, n_chunks_;  // unit: a batch, a KV head and a tile of rows
    size_t partial_size_, scratch_size_;        // floats
    bool split_;
};

}  // namespace pmtp::attention
