// What a block of threads computes: which columns of which head, which chunk and which of its pages.
#pragma once

#include "kernels/attention/cuda/pages.cuh"
#include "kernels/attention/cuda/table.cuh"
#include "kernels/cuda/reduce.cuh"

namespace pmtp::attention::cuda {

class BlockPlace {
  protected:
    __device__ BlockPlace(const Plan & plan, char * memory, int n_columns)
        : plan_(plan),
          task_(plan.task),
          memory_(memory),
          n_columns_(n_columns),
          unit_((int) blockIdx.z),
          batch_(plan.task.n_batches == 1 ? 0 : unit_ / plan.task.n_kv_heads),
          head_(unit_ - batch_ * plan.task.n_kv_heads),
          first_column_((int) blockIdx.x * n_columns),
          lane_((int) threadIdx.x % kWarp),
          warp_((int) threadIdx.x / kWarp) {}

    template <typename T> __device__ __forceinline__ T * at(int offset) const { return (T *) (memory_ + offset); }
    __device__ __forceinline__ DeviceTable::Chunk & chunk() const { return at<ChunkPlace>(plan_.place_at)->chunk; }
    __device__ __forceinline__ uint32_t & seen() const { return at<ChunkPlace>(plan_.place_at)->seen; }

    // Whether it is one of those that see the chunk.
    __device__ __forceinline__ bool is_column(int column) const {
        const int row = task_.first_row + plan_.row_of(first_column_ + column);
        return first_column_ + column < plan_.columns && row >= chunk().first_row && row < chunk().end_row;
    }

    __device__ __forceinline__ MaskRow mask_of(int row) const {
        const int batch = task_.mask_batches == 1 ? 0 : batch_ % task_.mask_batches;
        return { task_.mask == nullptr
                     ? nullptr
                     : (const uint16_t *) (task_.mask + batch * task_.mask_batch_stride + row * task_.mask_row_stride),
                 task_.n_cells, plan_.mask_is_aligned };
    }

    // Finds out what the i-th chunk is: one of a sequence's positions, or without a table of the cells as they lie.
    __device__ __forceinline__ int find_place(int i) const {
        using Table = DeviceTable;
        const int thread = (int) threadIdx.x;
        if (task_.table != nullptr) {
            // There is room for as many as there are blocks: no need to wait for how many there are.
            const int32_t * words = task_.table + Table::chunks_at(task_.all_rows) + i * Table::kChunkWords;
            const int word = thread < Table::kChunkWords ? words[thread] : 0;
            const int n_chunks = chunks_of_table(task_);
            if (n_chunks > 0) {
                if (thread < Table::kChunkWords) {
                    // Beyond the last nothing is seen by any row.
                    ((int *) &chunk())[thread] = i < n_chunks ? word : 0;
                }
                return n_chunks;
            }
        }
        const int first_page = chunk_begin(i);
        const int n_pages = min(chunk_begin(i + 1), (task_.n_cells + kPage - 1) / kPage) - first_page;
        if (thread < kMaxChunkPages) {
            chunk().first_cells[thread] = (first_page + thread) * kPage;
        }
        if (thread == 0) {
            chunk().number = i;
            chunk().first_row = 0;
            chunk().end_row = task_.all_rows;
            chunk().n_pages = n_pages;
        }
        return plan_.n_chunks;
    }

    // A bit for every page of the chunk that some column sees.
    template <int n_warps> __device__ __forceinline__ uint32_t find_pages() const {
        if (threadIdx.x == 0) {
            seen() = 0;
        }
        __syncthreads();
        const int n_pages = chunk().n_pages;
        if (task_.mask == nullptr) {
            return (1u << n_pages) - 1;
        }
        const int first_row = max(plan_.row_of(first_column_), chunk().first_row - task_.first_row);
        const int end_row = min(plan_.row_of(min(first_column_ + n_columns_, plan_.columns) - 1) + 1,
                                chunk().end_row - task_.first_row);
        for (int page = warp_; page < n_pages; page += n_warps) {
            const int cell = chunk().first_cells[page];
            bool any = false;
            for (int row = first_row + lane_ / 8; cell >= 0 && row < end_row; row += kWarp / 8) {
                any = any || mask_of(row).sees_eight(cell + lane_ % 8 * 8);
            }
            if (__any_sync(0xffffffffu, any) && lane_ == 0) {
                atomicOr(&seen(), 1u << page);
            }
        }
        __syncthreads();
        return seen();
    }

    const Plan & plan_;
    const Task & task_;
    char * const memory_;
    const int n_columns_, unit_, batch_, head_, first_column_, lane_, warp_;
};

}  // namespace pmtp::attention::cuda
