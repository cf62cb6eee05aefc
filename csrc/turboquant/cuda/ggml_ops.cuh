// ggml's operations on turbo types on a CUDA device; patches hook them into ggml-cuda. Attention is in
// kernels/attention/cuda.
#pragma once

#include "ggml.h"

#include <cuda_fp16.h>
#include <cuda_runtime.h>

bool pmtp_cuda_is_turbo(ggml_type type);

// SET_ROWS and CPY: whether there is a kernel, and its launch, which returns false with nothing launched if there is
// none.
bool pmtp_cuda_turbo_writes(const ggml_tensor * op);
bool pmtp_cuda_turbo_write(const ggml_tensor * op, cudaStream_t stream);

// MUL_MAT with a rotation that has signs (csrc/llama/patches/*-cuda-rotation.patch marks it): out = rotation x. Returns
// false likewise. The tensors may be slices made for the call, which no graph holds.
bool pmtp_cuda_is_signed_rotation(const ggml_tensor * op);
bool pmtp_cuda_rotate(const ggml_tensor * rotation, const ggml_tensor * x, const ggml_tensor * out,
                      cudaStream_t stream);

// Converters to f16 under ggml-cuda's signatures; null for other types. n: values; ne and s: sizes, and blocks from one
// row, matrix, batch to the next.
typedef void (*pmtp_cuda_to_fp16_t)(const void * x, half * y, int64_t n, cudaStream_t stream);
typedef void (*pmtp_cuda_to_fp16_nc_t)(const void * x, half * y, int64_t ne0, int64_t ne1, int64_t ne2, int64_t ne3,
                                       int64_t s1, int64_t s2, int64_t s3, cudaStream_t stream);
pmtp_cuda_to_fp16_t pmtp_cuda_turbo_to_fp16(ggml_type type);
pmtp_cuda_to_fp16_nc_t pmtp_cuda_turbo_to_fp16_nc(ggml_type type);
