// Attention of query rows over a KV cache of any type on tensor cores.
//
// Cells are taken in pages of 64, pages in chunks (device_chunks.h). A block of threads computes one chunk for one KV
// head and one tile of columns, query rows times the heads of the group: its keys and values are copied to shared
// memory as they are and decoded there, once for all columns. The softmax is taken online (Milakov, Gimelshein, arXiv
// 1805.02867), and a second kernel merges the chunks in fixed point (FlashDecoding: Dao, Haziza, Massa, Sizov 2023).
//
// A column's bits depend on its query and on the cells that it sees, keys, values and places: not on other columns and
// rows, nor on cells that it does not see, nor on how many follow.
#pragma once

#include "kernels/rows/cuda/quantise.cuh"

#include <cuda_fp16.h>
#include <cuda_runtime.h>

#include <cstddef>
#include <cstdint>

namespace pmtp::attention::cuda {

enum class Format { f16, bf16, q8_0, q4_0, turbo4, turbo3, turbo2 };

// Most of a group's heads.
constexpr int kMaxGroup = 16;
// Most rows of a verify batch; more are a prompt's.
constexpr int kVerifyRows = 16;

// K or V: a cell's row of one head is head_size contiguous values. Cells that no row sees must hold finite values if a
// cell of their page is seen.
struct Cells {
    const char * data;
    int64_t cell_stride, head_stride, batch_stride;  // bytes
    Format format;
};

struct Task {
    Cells k, v;
    const char * q;  // f32 [n_batches][n_heads][n_rows][head_size], 16-byte aligned
    int64_t q_row_stride, q_head_stride, q_batch_stride;  // bytes
    const char * mask;                                    // f16 [mask_batches][n_rows][n_cells], or null: all are seen
    int64_t mask_row_stride, mask_batch_stride;           // bytes
    const int32_t * table;  // a DeviceTable of the rows, 16-byte aligned, as old as the mask; or null
    const float * sinks;    // [n_heads], or null: a logit a head that takes its share of the softmax and has no value
    float * result;         // [n_batches][n_rows][n_heads][head_size], 16-byte aligned
    int head_size, n_cells, n_rows, n_heads, n_kv_heads, n_batches, kv_batches, mask_batches;
    float scale, softcap;  // logits: scale * q.k, then softcap * tanh(. / softcap) unless it is 0
    bool mask_is_old;      // no kernel that may still run writes it
    // The result is R x of each 64 values, R = D H D with the signs of D, [64], or null where all are positive
    // (turboquant/cuda/kernels.cuh).
    bool rotates;
    const float * signs;  // constants
    // Of the result's rows, all heads of one together, as pmtp_place() says; or null. With one batch.
    PmtpQ8Block * quantised;
    int first_row, all_rows;  // in result and quantised; attend() sets them
};

// Bytes of work memory, 16-byte aligned; 0: there is no kernel for the sizes, or the device, which must be one of the
// Ampere generation or later, has too little shared memory. Depends on neither pointers nor values.
size_t work_size(const Task & task);

void attend(const Task & task, void * work, cudaStream_t stream);

}  // namespace pmtp::attention::cuda
