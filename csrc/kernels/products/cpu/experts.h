// Rows of a mixture of experts: each is multiplied with the matrices of a few experts that a router chose. Rows of the
// same expert are put together, so that its weights are read once for all of them.
#pragma once

#include "kernels/products/cpu/kernels.h"

#include <cstddef>
#include <cstdint>

namespace pmtp::products {

// A pair of a token and one of its experts has an activation row and a row of the result.
struct Pairs {
    int64_t n_experts;
    int64_t n_used;  // experts of a token
    int64_t n_tokens;
    int64_t n_rows;    // activation rows of a token: pair i has row i % n_rows of them
    const char * ids;  // int32_t: expert i of token t is at i * step + t * stride
    size_t step, stride;

    int64_t count() const { return n_used * n_tokens; }
};

class ExpertRows {
  public:
    // `buffer` has bytes(..) bytes.
    ExpertRows(void * buffer, Coding coding, int64_t n_in, const Pairs & pairs);

    static size_t bytes(Coding coding, int64_t n_in, const Pairs & pairs);

    // Puts the pairs of an expert together. Returns false if an id names no expert. By one thread, before the others
    // call anything else.
    bool sort() const;

    // Writes share `i` of `n` of all activations; row r begins r * stride bytes after x. Then products can be made.
    void encode(const float * x, size_t stride, int i, int n) const;

    // Experts that have pairs, and the pairs of the i-th of them.
    int64_t n_active() const { return *n_active_; }
    int64_t n_pairs(int64_t i) const { return ends_[active_[i]] - first_pair(i); }

    // Columns first..last of the pairs of active expert i. An expert's matrix has `size` bytes, all lie one behind the
    // other. Column c of pair p (expert p % n_used of token p / n_used) is at result + p * stride + c.
    void multiply(Kernel kernel, const void * weights, size_t size, int64_t i, float * result, int64_t stride,
                  int64_t first, int64_t last) const;

    // Activations of active expert i.
    Activations activations(int64_t i) const;

  private:
    int64_t first_pair(int64_t i) const { return active_[i] == 0 ? 0 : ends_[active_[i] - 1]; }

    const Pairs pairs_;
    const Coding coding_;
    const int64_t n_in_;
    int32_t * n_active_;
    int32_t * active_;  // [at most n_experts] their numbers
    int32_t * ends_;    // [n_experts] in `order_`, the pairs of the expert end here
    int32_t * order_;   // [count] pairs, by expert
    int32_t * rows_;    // [count] their activation rows
    char * coded_;
};

}  // namespace pmtp::products
