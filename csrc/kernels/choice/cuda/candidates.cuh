// CUDA kernels that find the tokens of a row of logits that can be chosen.
#pragma once

#include "sampling/candidates.h"

#include <cuda_runtime.h>

// out: n_rows Candidates, one for each row; scratch: as many. logits: f32 [n, n_rows], rows one after another. masks:
// [(n + 31) / 32, n_rows], or nullptr. Four launches, all rows together.
void pmtp_cuda_candidates(const float * logits, const pmtp::ChoiceParams * params, const uint32_t * masks,
                          pmtp::Candidates * out, pmtp::CandidatesScratch * scratch, int n, int n_rows,
                          cudaStream_t stream);
