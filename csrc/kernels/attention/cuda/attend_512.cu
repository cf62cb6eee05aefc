#include "kernels/attention/cuda/launch_chunks.cuh"

namespace pmtp::attention::cuda {

template void launch_chunks<512>(const Plan &, void *, cudaStream_t);

}  // namespace pmtp::attention::cuda
