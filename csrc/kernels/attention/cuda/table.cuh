// Reads the DeviceTable of a mask.
#pragma once

#include "kernels/attention/cuda/layout.cuh"

namespace pmtp::attention::cuda {

// Of the table; of the cells as they lie 0.
__device__ __forceinline__ int chunks_of_table(const Task & task) {
    return task.table != nullptr ? ((const DeviceTable::Header *) task.table)->n_chunks : 0;
}

// Of how many chunks the columns of a row have results, counted from the part's first row.
__device__ __forceinline__ int chunks_of(const Plan & plan, int row) {
    const Task & task = plan.task;
    if (task.table == nullptr) {
        return plan.n_chunks;
    }
    const int own = task.table[DeviceTable::kHeaderWords + task.first_row + row];
    return chunks_of_table(task) > 0 ? own : plan.n_chunks;
}

}  // namespace pmtp::attention::cuda
