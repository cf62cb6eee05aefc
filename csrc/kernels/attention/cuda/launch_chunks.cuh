// The definition behind launch_chunks(), for the sources that instantiate it.
#pragma once

#include "kernels/attention/cuda/attend.cuh"

namespace pmtp::attention::cuda {

template <int head_size> void launch_chunks(const Plan & plan, void * work, cudaStream_t stream) {
    // Side by side, the columns' blocks find a chunk's cells in the cache of the device.
    const dim3 grid((unsigned) plan.n_column_blocks, (unsigned) plan.n_chunks, (unsigned) plan.n_units);
    const auto kernel = plan.tiles == 1   ? attend_chunks<head_size, 1>
                        : plan.tiles == 2 ? attend_chunks<head_size, 2>
                                          : attend_chunks<head_size, kMaxTiles>;
    launch_early(kernel, grid, Geometry<head_size>::kThreads, stream, (size_t) plan.shared_bytes, plan, work);
}

}  // namespace pmtp::attention::cuda
