// What the operations of a graph must be for a kernel of ours to take them.
#pragma once

#include "ggml-backend.h"
#include "ggml-impl.h"

#include <cstring>

inline bool is_weight(const ggml_tensor * t) {
    return t->op == GGML_OP_NONE && t->buffer != nullptr &&
           ggml_backend_buffer_get_usage(t->buffer) == GGML_BACKEND_BUFFER_USAGE_WEIGHTS;
}

inline bool is_aligned(const ggml_tensor * t) { return (uintptr_t) t->data % 16 == 0; }

// f32, one after another.
inline bool is_floats(const ggml_tensor * t) {
    return t->type == GGML_TYPE_F32 && ggml_is_contiguous(t) && is_aligned(t);
}

// Rows of a matrix of them.
inline bool is_rows(const ggml_tensor * t) { return is_floats(t) && ggml_is_matrix(t); }

// A weight of n values that multiplies every row, or of one.
inline bool is_row_weight(const ggml_tensor * t, int64_t n) {
    return is_rows(t) && ggml_nelements(t) == n && t->ne[0] == n && is_weight(t);
}

inline bool are_apart(const ggml_tensor * a, const ggml_tensor * b) {
    const auto * begin_a = (const char *) a->data;
    const auto * begin_b = (const char *) b->data;
    return begin_a + ggml_nbytes(a) <= begin_b || begin_b + ggml_nbytes(b) <= begin_a;
}

// A kernel that reads a row and then writes it may have both in one place, but not half a row further on.
inline bool apart_or_same(const ggml_tensor * out, const ggml_tensor * in) {
    return out->data == in->data || are_apart(out, in);
}

inline const ggml_tensor * other_source(const ggml_tensor * op, const ggml_tensor * source) {
    return op->src[0] == source ? op->src[1] : op->src[0];
}

inline float epsilon(const ggml_tensor * norm) {
    float eps;
    memcpy(&eps, norm->op_params, sizeof(eps));
    return eps;
}
