// What kernels/cuda/invariance.cu says, where nothing is built for CUDA.
#include "kernels/invariance.h"

bool pmtp::cuda_product_is_batch_invariant(const ggml_tensor *) { return false; }

bool pmtp::cuda_attention_is_batch_invariant(int, int, ggml_type, ggml_type) { return false; }
