// Operations of our graphs that ggml does not have (GGML_OP_CUSTOM). The functions run on a CPU; csrc/kernels/choice
// has kernels for the same ones.
#pragma once

#include "sampling/candidates.h"

#include "ggml-backend.h"
#include "ggml.h"

namespace pmtp {

// Whether a device other than the CPU runs them.
bool runs_custom_ops(ggml_backend_dev_t device);

// Of an ARGMAX, whether it finds the first index where no value is a number, as it does on a CPU, and not -1: for rows
// that are looked up with what it finds.
inline void make_find_one(ggml_tensor * arg_max) { arg_max->op_params[0] = 1; }
inline bool finds_one(const ggml_tensor * arg_max) { return arg_max->op_params[0] != 0; }

// i32 [kCandidatesRowWords, n_rows] that begins with n_rows Candidates, from f32 [n_vocab, n_rows] and, last of the
// sources, i32 [kChoiceWords, n_rows], a ChoiceParams for each. Between the two there may be masks, i32
// [(n_vocab + 31) / 32, n_rows], of the tokens that may be chosen.
void find_candidates(ggml_tensor * dst, int ith, int nth, void * user);

// i32 [1 + 2 * n_table]: a token drawn from logits (f32 [n]; at most kMaxDrawnLogits on a device), whose ids are in a
// second tensor (i32 [n]) if they are not their indices.
//
// On a CPU `user` is a StepDraw (draft.h), which gets the table. On a device the last tensor is a ChoiceParams, the
// first one may be a Candidates instead of logits, and the table is in the result: n_table probabilities (bits of f32;
// 0 outside the support), then their tokens.
void draw_token(ggml_tensor * dst, int ith, int nth, void * user);

}  // namespace pmtp
