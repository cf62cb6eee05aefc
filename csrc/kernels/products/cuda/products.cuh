// Products of up to 8 rows of activations, a verify batch, with Q4_0 weights, on tensor cores: an instruction takes 8
// columns, so a batch costs what one row costs, and a row's sums are taken in the same order whatever the batch.
#pragma once

#include "kernels/rows/cuda/quantise.cuh"

struct Q4Product {
    const void * weights;     // block_q4_0 [n_in / 32] a row, n_out rows
    const void * gate;        // the same, or null. Then out = gelu(gate x) * (weights x)
    const PmtpQ8Block * x;    // pmtp_row_blocks(n_in) a row
    float * out;              // [n_out] a row
    PmtpQ8Block * quantised;  // of out, with a gate; pmtp_row_blocks(n_out) a row; or null
    int n_in;
    int n_out;
    int n_rows;  // of x and out
};

// Whether there is a kernel for the shape on this device.
bool pmtp_cuda_has_q4_product(const Q4Product & product);
void pmtp_cuda_multiply_q4(const Q4Product & product, cudaStream_t stream);
