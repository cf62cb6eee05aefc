// Where a block of threads has what in shared memory, and the partial results in work memory.
#pragma once

#include "kernels/attention/cuda/attention.cuh"
#include "kernels/attention/cuda/chunks.cuh"
#include "kernels/attention/cuda/formats.cuh"

namespace pmtp::attention::cuda {

// Columns of a tile of tensor-core instructions, and most such tiles of a block.
constexpr int kTileColumns = 8, kMaxTiles = 4;

// What a head size sets.
template <int head_size> struct Geometry {
    // Of 64 values.
    static constexpr int kBlocks = head_size / 64;
    static constexpr int kWarps = kBlocks > 4 ? kBlocks : 4;
    // Four warps have 16 keys of a page each; twice as many have half of their values each.
    static constexpr int kKeySplits = kWarps / 4;
    // A warp has one block of the values; several have parts of the page.
    static constexpr int kValueSplits = kWarps / kBlocks;
};

// Rows begin 16 bytes further than a multiple of 128 apart, so that a warp's reads are free of conflicts.
__host__ __device__ constexpr int padded(int bytes) { return (bytes + 111) / 128 * 128 + 16; }

constexpr int kScorePitch = kPage + 4;   // floats
constexpr int kWeightPitch = kPage + 8;  // halves

struct Shared {
    int k_pitch, v_pitch, q_pitch;                          // bytes
    int k, v, q, scores, weights, factors, pages, n_bytes;  // offsets, and all
};

template <int head_size> __host__ __device__ __forceinline__ Shared shared_of(const Task & task, int n_tiles) {
    using G = Geometry<head_size>;
    const int columns = n_tiles * kTileColumns;
    Shared s;
    s.k_pitch = padded(G::kBlocks * with_format(task.k.format, [](auto f) { return decltype(f)::kBytes; }));
    s.v_pitch = padded(G::kBlocks * with_format(task.v.format, [](auto f) { return decltype(f)::kBytes; }));
    s.q_pitch = padded(head_size * (int) sizeof(half));
    s.k = 0;
    s.v = s.k + kPage * s.k_pitch;
    s.q = s.v + kPage * s.v_pitch;
    s.scores = s.q + columns * s.q_pitch;
    s.weights = s.scores + G::kKeySplits * columns * kScorePitch * (int) sizeof(float);
    s.factors = s.weights + columns * kWeightPitch * (int) sizeof(half);
    s.pages = s.factors + columns * (int) sizeof(float);
    s.n_bytes = s.pages + 2 * kMaxChunkPages * (int) sizeof(int);
    // At the end the sums of parts of the page are put together there.
    const int sums = (G::kValueSplits - 1) * columns * head_size * (int) sizeof(float);
    s.n_bytes = s.n_bytes > sums ? s.n_bytes : sums;
    return s;
}

// How a task is cut.
struct Cut {
    int group, columns;            // of one KV head
    int n_tiles, n_column_blocks;  // of a block, and blocks
    int n_chunks, n_units;         // a unit: a KV head of a batch

    __host__ __device__ explicit Cut(const Task & task)
        : group(task.n_heads / task.n_kv_heads),
          columns(task.n_rows * group),
          n_tiles(min_of(kMaxTiles, (columns + kTileColumns - 1) / kTileColumns)),
          n_column_blocks((columns + block_columns() - 1) / block_columns()),
          n_chunks(chunk_count((task.n_cells + kPage - 1) / kPage)),
          n_units(task.n_kv_heads * task.n_batches) {}

    __host__ __device__ int block_columns() const { return n_tiles * kTileColumns; }

    // Partial results: [unit][chunk][column].
    __host__ __device__ size_t state(int unit, int chunk, int column) const {
        return ((size_t) unit * n_chunks + chunk) * (n_column_blocks * block_columns()) + column;
    }
    __host__ __device__ size_t n_states() const { return state(n_units, 0, 0); }

    static __host__ __device__ constexpr int min_of(int a, int b) { return a < b ? a : b; }
};

// Of a column and a chunk; unnormalised.
struct State {
    float max;  // of the logits
    float sum;  // of e^(logit - max); 0: nothing seen, and the values are not set
};

// Work memory: states, then their values, [head_size] each.
struct Work {
    State * states;
    float * values;

    __host__ __device__ Work(void * memory, const Cut & cut)
        : states((State *) memory),
          values((float *) ((char *) memory + (cut.n_states() * sizeof(State) + 15) / 16 * 16)) {}
};

}  // namespace pmtp::attention::cuda
