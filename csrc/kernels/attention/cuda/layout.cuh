// How a task is cut, where a block of threads has what in shared memory, and the partial results in work memory.
#pragma once

#include "kernels/attention/cuda/attention.cuh"
#include "kernels/attention/device_table.h"
#include "kernels/attention/cuda/formats.cuh"

#include <algorithm>

namespace pmtp::attention::cuda {

// Columns of a tile of tensor-core instructions, and most such tiles of a block of threads.
constexpr int kTileColumns = 8, kMaxTiles = 4;
// Most columns that row_of() tells apart.
constexpr int kMaxColumns = 4096;
// Most blocks of threads of a task that get one tile each, which all multiprocessors hold at once.
constexpr int kFewBlocks = 64;

// What a head size sets.
template <int head_size> struct Geometry {
    // Of 64 values.
    static constexpr int kBlocks = head_size / 64;
    static constexpr int kWarps = kBlocks >= 4 ? 8 : 4;
    static constexpr int kThreads = 32 * kWarps;
    // Four warps have 16 keys of a page each; twice as many have half of their values each.
    static constexpr int kKeySplits = kWarps / 4;
    // A warp has one block of the values; several have parts of the page.
    static constexpr int kValueSplits = kWarps / kBlocks;
};

constexpr int kScorePitch = kPage + 4;   // floats
constexpr int kWeightPitch = kPage + 8;  // halves

// Keys or values on their way to shared memory.
struct Rows {
    int n_bytes, pitch;  // of a cell's row of a head, there and in shared memory
    int copy_bytes;      // at a time
    int lanes_log2;      // of a warp that copy a row

    Rows() = default;
    Rows(const Cells & cells, int head_size)
        : n_bytes(head_size / 64 * bytes_of_64(cells.format)),
          pitch(padded(n_bytes)) {
        const auto offsets = (uint64_t) (uintptr_t) cells.data | (uint64_t) cells.cell_stride |
                             (uint64_t) cells.head_stride | (uint64_t) cells.batch_stride | (uint64_t) n_bytes;
        copy_bytes = offsets % 16 == 0 ? 16 : offsets % 8 == 0 ? 8 : offsets % 4 == 0 ? 4 : 2;
        lanes_log2 = n_bytes <= 8 * copy_bytes ? 3 : n_bytes <= 24 * copy_bytes ? 4 : 5;
    }

    // Rows begin 16 bytes further than a multiple of 32 apart, so that a warp's reads are free of conflicts.
    static int padded(int bytes) { return (bytes + 15) / 32 * 32 + 16; }
};

// A chunk, in shared memory; without a table one of the cells as they lie, which all rows see.
struct ChunkPlace {
    DeviceTable::Chunk chunk;
    uint32_t seen;  // a bit for each page that some column sees
};

// A task with all that is the same for its blocks of threads. Those compute a chunk, a KV head of a batch (a unit) and
// block_columns columns each.
struct Plan {
    Task task;
    Rows k, v;
    int group, columns, tiles, block_columns, n_column_blocks, n_chunks, n_units;
    int column_stride;       // of partial results: [unit][chunk][column]
    unsigned group_inverse;  // see row_of()
    int batches_of_a_kv_batch;
    bool mask_is_aligned;  // to 16 bytes, of each row
    // Offsets in shared memory, and bytes in all.
    int q_pitch, k_at, v_at, q_at, scores_at, weights_at, factors_at, place_at, shared_bytes;

    // With as many tiles as the shared memory of a block allows.
    template <int head_size> static Plan of(const Task & task, int shared_limit) {
        Plan p = of_tiles<head_size>(task, kMaxTiles);
        for (int most = kMaxTiles / 2; p.shared_bytes > shared_limit && most > 0; most /= 2) {
            p = of_tiles<head_size>(task, most);
        }
        return p;
    }

    template <int head_size> static Plan of_tiles(const Task & task, int most_tiles) {
        using G = Geometry<head_size>;
        Plan p;
        p.task = task;
        p.k = Rows(task.k, head_size);
        p.v = Rows(task.v, head_size);
        p.cut(most_tiles);
        p.q_pitch = Rows::padded(head_size * (int) sizeof(half));
        p.k_at = 0;
        p.v_at = p.k_at + kPage * p.k.pitch;
        p.q_at = p.v_at + kPage * p.v.pitch;
        p.scores_at = p.q_at + p.block_columns * p.q_pitch;
        p.weights_at = p.scores_at + G::kKeySplits * p.block_columns * kScorePitch * (int) sizeof(float);
        // At the end the sums of parts of the page are put together at 0.
        const int sums = (G::kValueSplits - 1) * p.block_columns * head_size * (int) sizeof(float);
        p.factors_at = std::max(p.weights_at + p.block_columns * kWeightPitch * (int) sizeof(half), sums);
        p.place_at = p.factors_at + p.block_columns * (int) sizeof(float);
        p.shared_bytes = p.place_at + (int) sizeof(ChunkPlace);
        return p;
    }

    void cut(int most_tiles) {
        group = task.n_heads / task.n_kv_heads;
        columns = task.n_rows * group;
        const int all_tiles = (columns + kTileColumns - 1) / kTileColumns;
        n_chunks = chunk_count((task.n_cells + kPage - 1) / kPage);
        n_units = task.n_kv_heads * task.n_batches;
        // Behind few cells each tile has blocks of its own: to wait for several costs more than to read cells again.
        tiles = n_chunks * n_units * all_tiles <= kFewBlocks
                    ? 1
                    : std::min(all_tiles <= 2 ? all_tiles : kMaxTiles, most_tiles);
        block_columns = tiles * kTileColumns;
        n_column_blocks = (columns + block_columns - 1) / block_columns;
        column_stride = n_column_blocks * block_columns;
        group_inverse = (65536u + group - 1) / group;
        batches_of_a_kv_batch = task.n_batches / task.kv_batches;
        mask_is_aligned =
            ((uintptr_t) task.mask | (uintptr_t) task.mask_row_stride | (uintptr_t) task.mask_batch_stride) % 16 == 0;
    }

    // Exact for up to kMaxColumns.
    __device__ __forceinline__ int row_of(int column) const { return (int) (column * group_inverse >> 16); }

    size_t n_states() const { return (size_t) n_units * n_chunks * column_stride; }
    __device__ __forceinline__ size_t state(int unit, int chunk, int column) const {
        return ((size_t) unit * n_chunks + chunk) * column_stride + column;
    }
};

// Of a column and a chunk.
struct State {
    float max;  // of the logits
    float sum;  // of e^(logit - max); 0: nothing seen, and the values are not set
};

// Work memory: states, then their values, f16 [head_size] each, the weighted means.
__host__ __device__ __forceinline__ size_t values_at(size_t n_states) {
    return (n_states * sizeof(State) + 15) / 16 * 16;
}

struct Work {
    State * states;
    half * values;

    __device__ __forceinline__ Work(void * memory, const Plan & plan)
        : states((State *) memory),
          values((half *) ((char *) memory + values_at((size_t) plan.n_units * plan.n_chunks * plan.column_stride))) {}
};

}  // namespace pmtp::attention::cuda
