// Launches that begin before the kernel in front of them has ended (programmatic dependent launch, from Hopper on).
// Such a kernel may do what depends on no other kernel, calls wait_for_previous(), and only then reads or writes what
// others do.
#pragma once

#include <cuda_runtime.h>

#include <utility>

// shared_bytes: of dynamic shared memory.
template <typename... Params, typename... Args> void launch_early(void (*kernel)(Params...), dim3 grid, dim3 block,
                                                                  cudaStream_t stream, size_t shared_bytes,
                                                                  Args &&... args) {
    constexpr size_t kAlwaysAllowed = 48 << 10;
    cudaFuncAttributes attributes = {};
    cudaFuncGetAttributes(&attributes, kernel);
    if (shared_bytes + attributes.sharedSizeBytes >
        kAlwaysAllowed) {  // all that there is: another thread may launch the kernel with more or less
        int device = 0, limit = 0;
        cudaGetDevice(&device);
        cudaDeviceGetAttribute(&limit, cudaDevAttrMaxSharedMemoryPerBlockOptin, device);
        cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize,
                             limit - (int) attributes.sharedSizeBytes);
    }
    cudaLaunchAttribute early = {};
    early.id = cudaLaunchAttributeProgrammaticStreamSerialization;
    early.val.programmaticStreamSerializationAllowed = 1;
    cudaLaunchConfig_t config = {};
    config.gridDim = grid;
    config.blockDim = block;
    config.stream = stream;
    config.dynamicSmemBytes = shared_bytes;
    config.attrs = &early;
    config.numAttrs = attributes.ptxVersion >= 90 ? 1 : 0;  // compiled for older devices, kernels do not wait
    cudaLaunchKernelEx(&config, kernel, std::forward<Args>(args)...);
}

#ifdef __CUDACC__
__device__ __forceinline__ void wait_for_previous() {
#if __CUDA_ARCH__ >= 900
    cudaGridDependencySynchronize();
#endif
}

// From here on the next kernel may begin. Called behind wait_for_previous(): of several kernels that wait at once the
// blocks would fill the multiprocessors unevenly, and each link of a chain would take longer.
__device__ __forceinline__ void let_next_begin() {
#if __CUDA_ARCH__ >= 900
    cudaTriggerProgrammaticLaunchCompletion();
#endif
}
#endif
