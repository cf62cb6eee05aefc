// Products with weights of f32, as routers have them. A row's sums are taken in the same order whatever the batch.
#pragma once

#include <cuda_runtime.h>

struct FloatProduct {
    const float * weights;  // n_out rows of n_in values; all 16-byte aligned
    const float * x;        // n_rows of n_in
    float * out;            // n_rows of n_out
    int n_in;               // a multiple of 4
    int n_out;
    int n_rows;  // at most kPmtpMostFloatRows
};

// Most rows of a verify batch; more are a prompt's.
constexpr int kPmtpVerifyFloatRows = 64;
constexpr int kPmtpMostFloatRows = 65535 * 8;

void pmtp_cuda_launch_float_product(const FloatProduct & product, cudaStream_t stream);
