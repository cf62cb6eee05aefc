// Which kernel multiplies with which weights.
#pragma once

#include "kernels/products/cpu/kernels.h"

struct ggml_tensor;

namespace pmtp::products {

struct Choice {
    Kernel kernel;  // null: there is none
    Coding coding;
    int columns;  // weight rows in a group that a thread takes whole
};

// For a matrix, or the matrices of experts, in groups of `columns` rows interleaved by `interleave` bytes (1 and 0: in
// the plain layout).
Choice choose(const ggml_tensor * weights, int columns, int interleave);

}  // namespace pmtp::products
