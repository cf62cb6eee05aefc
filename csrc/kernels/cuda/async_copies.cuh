// Copies from device memory to shared memory in the background, in groups. Before sm_80, for which nothing here is
// launched, they do nothing.
#pragma once

#include <cstdint>

namespace pmtp {

// 16 bytes past the first cache.
__device__ __forceinline__ void copy_16(void * to, const void * from) {
#if __CUDA_ARCH__ >= 800
    const auto at = (uint32_t) __cvta_generic_to_shared(to);
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(at), "l"(from));
#endif
}
// Those from n_read on are 0 and are not read.
__device__ __forceinline__ void copy_16(void * to, const void * from, int n_read) {
#if __CUDA_ARCH__ >= 800
    const auto at = (uint32_t) __cvta_generic_to_shared(to);
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(at), "l"(from), "r"(n_read));
#endif
}

// 4, 8 or 16 bytes through the first cache, where other blocks of the multiprocessor find them.
template <int n_bytes> __device__ __forceinline__ void copy_cached(void * to, const void * from) {
#if __CUDA_ARCH__ >= 800
    const auto at = (uint32_t) __cvta_generic_to_shared(to);
    asm volatile("cp.async.ca.shared.global [%0], [%1], %2;" ::"r"(at), "l"(from), "n"(n_bytes));
#endif
}
template <int n_bytes> __device__ __forceinline__ void copy_cached(void * to, const void * from, int n_read) {
#if __CUDA_ARCH__ >= 800
    const auto at = (uint32_t) __cvta_generic_to_shared(to);
    asm volatile("cp.async.ca.shared.global [%0], [%1], %2, %3;" ::"r"(at), "l"(from), "n"(n_bytes), "r"(n_read));
#endif
}

__device__ __forceinline__ void end_group() {
#if __CUDA_ARCH__ >= 800
    asm volatile("cp.async.commit_group;");
#endif
}

// Until all groups but the last n_newer have come.
template <int n_newer> __device__ __forceinline__ void wait_for_group() {
#if __CUDA_ARCH__ >= 800
    asm volatile("cp.async.wait_group %0;" ::"n"(n_newer));
#endif
}

}  // namespace pmtp
