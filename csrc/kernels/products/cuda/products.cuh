// Products of up to 8 rows of activations, a verify batch, with weights on tensor cores: an instruction takes 8
// columns, so a batch costs what one row costs; and of more rows, 16 an instruction. A row's sums are taken in the same
// order whatever the batch.
#pragma once

#include "kernels/rows/cuda/quantise.cuh"

enum class WeightFormat { q4_0, q4_1, q5_0, q5_1, q8_0, iq4_nl, iq4_xs, q4_K, q5_K, q6_K, f16, bf16 };

// Whether activations are multiplied as they are. With other weights they are quantised.
constexpr bool pmtp_takes_floats(WeightFormat format) {
    return format == WeightFormat::f16 || format == WeightFormat::bf16;
}

// Most rows of sequences that are verified; more are those of prompts.
constexpr int kPmtpVerifyRows = 64;
// Most rows.
constexpr int kPmtpMostRows = 65535;

// Another matrix of n_in columns that the same activations are multiplied with.
struct OtherMatrix {
    const void * weights;  // or null
    float * out;
    int n_out;
};

struct WeightProduct {
    WeightFormat format;
    const void * weights;     // n_out rows of n_in values; 16-byte aligned
    const void * gate;        // the same, or null. Then out = gelu(gate x) * (weights x)
    const PmtpQ8Block * x;    // see pmtp_place(),
    const float * floats;     // or [n_in] a row, 16-byte aligned
    float * out;              // [n_out] a row
    PmtpQ8Block * quantised;  // of out, with a gate or factor, likewise; or null
    int n_in;
    int n_out;
    int n_rows;             // of x and out
    const float * factor;   // [n_out] a row, or null. Then out = gelu(weights x) * factor
    int64_t factor_stride;  // values from one of its rows to the next
    OtherMatrix others[2];  // without gate and factor
    const void *
        parts;  // of floats, see pmtp_cuda_split_rows(), or null: then more rows than kPmtpVerifyRows take long
};

// Whether there is a kernel for the shape on this device.
bool pmtp_cuda_has_product(const WeightProduct & product);
void pmtp_cuda_launch_product(const WeightProduct & product, cudaStream_t stream);
// Of more than kPmtpFewRows rows; pmtp_cuda_launch_product() calls it.
void pmtp_cuda_launch_tiled_product(const WeightProduct & product, cudaStream_t stream);
// Of other shapes; pmtp_cuda_has_product() and pmtp_cuda_launch_product() call them.
bool pmtp_cuda_has_odd_product(const WeightProduct & product);
void pmtp_cuda_launch_odd_product(const WeightProduct & product, cudaStream_t stream);
// Of more than kPmtpVerifyRows rows; likewise.
void pmtp_cuda_launch_prompt_product(const WeightProduct & product, cudaStream_t stream);
void pmtp_cuda_launch_prompt_floats(const WeightProduct & product, cudaStream_t stream);

// Whether the product takes its rows' parts, and how many bytes those of rows are. n_in: a multiple of 128.
bool pmtp_cuda_takes_parts(const WeightProduct & product);
size_t pmtp_cuda_part_bytes(WeightFormat format, int64_t n_in, int64_t n_rows);
void pmtp_cuda_split_rows(WeightFormat format, const float * x, void * parts, int n_in, int n_rows,
                          cudaStream_t stream);
