// The definition behind launch_chunks(), for the sources that instantiate it.
#pragma once

#include "kernels/attention/cuda/attend.cuh"

namespace pmtp::attention::cuda {

template <int head_size> void launch_chunks(const Task & task, void * work, cudaStream_t stream) {
    const Cut cut(task);
    const dim3 grid((unsigned) cut.n_chunks, (unsigned) cut.n_column_blocks, (unsigned) cut.n_units);
    const size_t shared_bytes = (size_t) shared_of<head_size>(task, cut.n_tiles).n_bytes;
    launch_early(attend_chunks<head_size>, grid, Geometry<head_size>::kWarps * kWarp, stream, shared_bytes, task, work);
}

}  // namespace pmtp::attention::cuda
