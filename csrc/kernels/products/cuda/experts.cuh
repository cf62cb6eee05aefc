// Products of a mixture of experts: each row is multiplied with the matrices of a few experts that a router chose. Rows
// of the same expert are put together on the device, eight a time, so that its weights are read from memory once. A
// row's sums are taken in the same order whatever else is in the batch.
#pragma once

#include "kernels/products/cuda/products.cuh"

// Most tokens of a verify batch; more are a prompt's.
constexpr int kPmtpVerifyTokens = 64;
// Most tokens.
constexpr int kPmtpMostTokens = kPmtpMostRows;
// Most pairs of a token and one of its experts in a verify batch.
constexpr int kPmtpMostPairs = 1024;
// And at all.
constexpr int kPmtpMostPromptPairs = 65535;
constexpr int kPmtpMostExperts = 1024;

struct ExpertProduct {
    WeightFormat format;      // that takes no floats
    const void * weights;     // of the first expert: n_out rows of n_in values; 16-byte aligned
    const void * gate;        // the same, or null. Then out = gelu(gate x) * (weights x)
    size_t expert_bytes;      // from an expert's to the next one's
    const PmtpQ8Block * x;    // rows one after another, whatever their number, of pmtp_row_blocks(n_in)
    bool x_in_tiles;          // where pmtp_place() puts them instead, n_tokens rows
    bool x_of_pairs;          // a row a pair, or a token
    const float * scales;     // [n_experts] that multiply an expert's results, without a gate; or null
    const float * by;         // [n_used] a token that multiply a pair's, without a gate; or null
    float * out;              // [n_out] a pair, n_used a token
    PmtpQ8Block * quantised;  // of out, with a gate, as x is; or null
    const int32_t * ids;      // [n_used] a token; any that names no expert counts as 0. Or null: all are 0
    int ids_stride;           // from a token's to the next one's
    bool ids_are_old;         // written before the launch in front of this one, which was a product of the same ids
    void * order;             // of a prompt's pairs by expert, pmtp_cuda_expert_order_bytes(), 16-byte aligned; or null
    bool is_ordered;          // it is written, by a product of the same ids
    int n_in;
    int n_out;
    int n_experts;
    int n_used;
    int n_tokens;
};

// Whether there is a kernel for the shape on this device.
bool pmtp_cuda_has_expert_product(const ExpertProduct & product);
void pmtp_cuda_launch_expert_product(const ExpertProduct & product, cudaStream_t stream);
// Of a prompt; pmtp_cuda_launch_expert_product() calls it.
void pmtp_cuda_launch_prompt_experts(const ExpertProduct & product, cudaStream_t stream);

constexpr bool pmtp_is_prompt_of_experts(int64_t n_tokens, int64_t n_used) {
    return n_tokens > kPmtpVerifyTokens || n_used * n_tokens > kPmtpMostPairs;
}
// Bytes of `order`; 0: it is not needed.
size_t pmtp_cuda_expert_order_bytes(int64_t n_tokens, int64_t n_used, int64_t n_experts);

// out [n a token] = the sum of x [n a pair] over a token's pairs, in their order. n: a multiple of 4. 16-byte aligned,
// and apart.
void pmtp_cuda_sum_pairs(const float * x, float * out, int n, int n_used, int n_tokens, cudaStream_t stream);
