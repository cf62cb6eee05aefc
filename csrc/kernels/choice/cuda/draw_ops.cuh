// ARGMAX, TOP_K and the custom operations of sampling/draw_ops.h on a CUDA device. Hooked into ggml-cuda.
#pragma once

#include <cuda_runtime.h>

struct ggml_tensor;

// ARGMAX or TOP_K of x: whether it was launched.
bool pmtp_cuda_choose(const ggml_tensor * x, const ggml_tensor * out, cudaStream_t stream);

// Whether there is a kernel for an operation of type GGML_OP_CUSTOM.
bool pmtp_cuda_has_custom(const ggml_tensor * op);

// Launches it. Only where there is one.
void pmtp_cuda_custom(ggml_tensor * op, cudaStream_t stream);
