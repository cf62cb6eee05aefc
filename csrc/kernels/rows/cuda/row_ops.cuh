// Kernels that do with each row, in one launch, what a layer does between two products: norms, residuals, gates, and
// quantising the result.
#pragma once

#include "kernels/rows/cuda/quantise.cuh"

// y = (x / rms(x) * by * weight + add) * factor, then z = y / rms(y) * next_weight, for rows of n values one after
// another. rms(x) = sqrt(mean(x^2) + eps) (Zhang, Sennrich, arXiv 1910.07467). Pointers may be null but x, weight and
// y; z and next_weight go together. y and z may be x or add. 16-byte aligned.
struct NormChain {
    const float * x;
    const float * weight;  // [n]
    const float * add;     // [n] a row
    const float * factor;  // [1]
    float * y;
    const float * next_weight;  // [n]
    float * z;
    PmtpQ8Block * quantised;  // of z, or of y if there is no z; see pmtp_place()
    float eps;
    float next_eps;
    int n;  // a multiple of 32, at most kMaxNormChain
    float by = 1.0f;
};
constexpr int kMaxNormChain = 8192;
void pmtp_cuda_norm_chain(const NormChain & chain, int n_rows, cudaStream_t stream);

// y = gelu(x) * gate. x, y: rows one after another. n: a multiple of 32.
struct GeluGate {
    const float * x;
    const float * gate;
    int64_t gate_stride;      // values from one row to the next
    float * y;                // may be x
    PmtpQ8Block * quantised;  // of y, or null
    int n;
};
void pmtp_cuda_gelu_gate(const GeluGate & op, int n_rows, cudaStream_t stream);

// x: n_rows rows of n values one after another, n a multiple of 32. They lie as pmtp_place() says, or without tiles.
void pmtp_cuda_quantise_rows(const float * x, PmtpQ8Block * quantised, int n, int n_rows, cudaStream_t stream,
                             bool in_tiles = true);
