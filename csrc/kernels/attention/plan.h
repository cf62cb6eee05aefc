// Attention of query rows over a KV cache, in pieces that threads take.
//
// A sequence's positions are cut into chunks (FlashDecoding: Dao, Haziza, Massa, Sizov 2023). An item of work is one KV
// head, one tile of columns (query rows of one sequence times the heads of the group) and one chunk: keys and values
// are decoded once for all columns, the softmax is taken online (Milakov, Gimelshein, arXiv 1805.02867), and the
// partial results (maximum, sum, accumulator) are merged in the order of the chunks.
//
// What a column's result is computed from, and in which order, depends on its own query and on the keys, values and
// positions that it sees: not on where their cells lie, on other columns and sequences, the number of threads or the
// length of the cache. So one row and several give the same bits, alone and among others.
#pragma once

#include "kernels/attention/cells.h"
#include "kernels/attention/chunks.h"
#include "kernels/attention/pages.h"

#include <cstddef>
#include <cstdint>

namespace pmtp::attention {

// Bytes, of work memory.
constexpr size_t kAlignment = 64;
// Columns of a tile.
constexpr int kMaxColumns = 144;
// Up to as many query rows of a sequence, and of all, an item is one chunk; with more (prefill) it takes all chunks in
// turn, which bounds the partial results.
constexpr int kMaxSplitRows = 17, kMaxSplitRowsInAll = 64;

struct Task {
    Cells k, v;
    const char * q;  // f32 [n_batches][n_heads][n_rows][k.head_size]
    size_t q_row_stride, q_head_stride, q_batch_stride;
    const char * mask;  // f16 [mask_batches][mask_heads][n_rows][n_cells], or null: every cell is visible
    size_t mask_row_stride, mask_head_stride, mask_batch_stride;
    int64_t mask_heads, mask_batches;
    const Pages * pages;  // of the rows, for one batch; or null: position p of every row is cell p
    const float * sinks;  // [n_heads], or null: a logit a head that takes its share of the softmax and has no value
    float * result;       // [n_batches][n_rows][n_heads][v.head_size]
    int64_t n_cells;
    int n_rows, n_heads, n_kv_heads, n_batches, kv_batches;
    float scale, softcap;  // logits: scale * q.k, then softcap * tanh(. / softcap) unless it is 0
};

// How a task is cut for a number of threads; the same for every thread of one run. No result depends on it.
class Plan {
  public:
    Plan(const Task & task, int n_threads);

    // Whether a group of `group` query heads fits a tile.
    static bool serves(int64_t group) { return group >= 1 && group <= kMaxColumns; }

    size_t work_size(int n_threads) const;  // bytes
    int64_t n_items() const { return n_units_ * (split_ ? n_chunks_ : 1); }
    // None where an item is all that a unit has.
    int64_t n_merges() const { return split_ && n_chunks_ > 1 ? n_units_ * tile_rows_ * tile_heads_ : 0; }

    void run_item(int64_t item, int thread, void * work) const;
    // One column's chunks, after all items (a barrier between).
    void merge(int64_t index, void * work) const;

  private:
    struct Tile;
    Tile tile(int64_t unit) const;
    int n_runs() const { return task_.pages != nullptr ? (int) task_.pages->runs.size() : 1; }
    const Pages::Run & run(int i) const { return task_.pages != nullptr ? task_.pages->runs[i] : whole_; }
    struct ChunkRange {
        int64_t first, n;
    };
    ChunkRange chunks_of(const Pages::Run & run) const;
    int64_t count_row_tiles() const;
    float * partial(int64_t unit, int64_t chunk, void * work) const;
    void finish(const Tile & tile, int column, float max, float sum, const float * values) const;

    const Task & task_;
    const Chunks chunks_;
    const Pages::Run whole_;                             // of a task without pages
    int group_, tile_rows_, tile_heads_, tile_columns_;  // tile_columns_: padded
    int64_t n_chunks_;                                   // of the run that has most
    int64_t n_row_tiles_, n_units_;                      // unit: a batch, a KV head and a tile of its columns
    size_t partial_size_, scratch_size_;                 // floats
    bool split_;
};

}  // namespace pmtp::attention
