// What a block of threads reads of the cache and its mask.
#pragma once

#include "kernels/attention/cuda/layout.cuh"
#include "kernels/cuda/async_copies.cuh"

namespace pmtp::attention::cuda {

constexpr uint32_t kHidden = 0xfc00;  // minus infinity, as a half
constexpr uint32_t kBothHidden = kHidden << 16 | kHidden;

// Copies n_bytes in the background; 0 are written where `there` is false.
template <int n_bytes> __device__ __forceinline__ void copy(char * to, const char * from, bool there) {
    if constexpr (n_bytes == 2) {
        *(uint16_t *) to = there ? *(const uint16_t *) from : (uint16_t) 0;
    } else if constexpr (n_bytes == 16) {
        copy_16(to, from, there ? 16 : 0);
    } else {
        copy_cached<n_bytes>(to, from, there ? n_bytes : 0);
    }
}

template <int n_bytes> __device__ __forceinline__ void copy_all(char * to, const char * from) {
    if constexpr (n_bytes == 2) {
        *(uint16_t *) to = *(const uint16_t *) from;
    } else if constexpr (n_bytes == 16) {
        copy_16(to, from);
    } else {
        copy_cached<n_bytes>(to, from);
    }
}

// Copies a page of one head, of which n_there cells are there. cells: its first cell.
template <int n_threads, int n_bytes> __device__ __forceinline__ void copy_page(const Rows & rows, int64_t stride,
                                                                                const char * cells, int n_there,
                                                                                char * to) {
    const int step = n_threads >> rows.lanes_log2, first = (int) threadIdx.x >> rows.lanes_log2;
    const int at = ((int) threadIdx.x & ((1 << rows.lanes_log2) - 1)) * n_bytes;
    const char * from = cells + first * stride + at;
    to += first * rows.pitch + at;
    if (n_there >= kPage && rows.n_bytes <= (2 * n_bytes << rows.lanes_log2)) {  // up to two copies a lane and row
        const int64_t step_from = step * stride;
        const int step_to = step * rows.pitch, second = n_bytes << rows.lanes_log2;
        const bool has_first = at < rows.n_bytes, has_second = at + second < rows.n_bytes;
#pragma unroll 4
        for (int cell = first; cell < kPage; cell += step, from += step_from, to += step_to) {
            if (has_first) {
                copy_all<n_bytes>(to, from);
            }
            if (has_second) {
                copy_all<n_bytes>(to + second, from + second);
            }
        }
        return;
    }
#pragma unroll 2
    for (int cell = first; cell < kPage; cell += step, from += step * stride, to += step * rows.pitch) {
        for (int i = 0; i < rows.n_bytes - at; i += n_bytes << rows.lanes_log2) {
            copy<n_bytes>(to + i, cell < n_there ? from + i : cells, cell < n_there);
        }
    }
}

template <int n_threads> __device__ __forceinline__ void load_page(const Rows & rows, int64_t stride,
                                                                   const char * cells, int n_there, char * to) {
    switch (rows.copy_bytes) {
        case 16: copy_page<n_threads, 16>(rows, stride, cells, n_there, to); break;
        case 8: copy_page<n_threads, 8>(rows, stride, cells, n_there, to); break;
        case 4: copy_page<n_threads, 4>(rows, stride, cells, n_there, to); break;
        default: copy_page<n_threads, 2>(rows, stride, cells, n_there, to); break;
    }
}

// A row of the mask; null: all cells are seen.
struct MaskRow {
    const uint16_t * halves;
    int n_cells;
    bool aligned;

    __device__ __forceinline__ uint32_t at(int cell) const {
        return cell >= n_cells ? kHidden : halves != nullptr ? halves[cell] : 0;
    }
    __device__ __forceinline__ uint32_t two(int cell) const { return at(cell) | at(cell + 1) << 16; }

    // Four cells' halves from a multiple of 4 on.
    __device__ __forceinline__ uint2 four(int cell) const {
        if (aligned && halves != nullptr && cell + 4 <= n_cells) {
            return *(const uint2 *) (halves + cell);
        }
        return { two(cell), two(cell + 2) };
    }

    // Whether any of eight cells from a multiple of 8 on is seen.
    __device__ __forceinline__ bool sees_eight(int cell) const {
        const uint2 x = four(cell), y = four(cell + 4);
        return x.x != kBothHidden || x.y != kBothHidden || y.x != kBothHidden || y.y != kBothHidden;
    }
};

}  // namespace pmtp::attention::cuda
