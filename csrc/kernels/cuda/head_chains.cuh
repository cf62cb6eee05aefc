// The operations of a graph that make up a layer's queries, keys or values: shapes and links alone, no memory.
#pragma once

#include "kernels/cuda/tensors.cuh"
#include "kernels/rows/cuda/heads.cuh"

#include <array>

// Reads a graph's nodes one after another.
struct NodeReader {
    const ggml_cgraph * graph;
    int at;

    const ggml_tensor * peek(int ahead = 0) const {
        return at + ahead < graph->n_nodes ? graph->nodes[at + ahead] : nullptr;
    }
    // The next node, if it is this operation of the source.
    const ggml_tensor * take(ggml_op op, const ggml_tensor * source) {
        const ggml_tensor * node = peek();
        const bool fits = node != nullptr && node->op == op && node->src[0] == source;
        at += fits;
        return fits ? node : nullptr;
    }
};

inline bool is_rotation(const ggml_tensor * node) {
    return node != nullptr && node->op == GGML_OP_MUL_MAT && node->op_params[1] == GGML_HINT_SRC0_IS_HADAMARD;
}

// RMS_NORM, and what follows of: MUL by a weight, ROPE, a rotation between reshapes.
struct HeadChain {
    const ggml_tensor * x = nullptr;  // [n, n_heads, n_rows]
    const ggml_tensor * norm = nullptr;
    const ggml_tensor * weight = nullptr;
    const ggml_tensor * rope = nullptr;
    const ggml_tensor * rotation = nullptr;
    const ggml_tensor * last = nullptr;

    // Whether x begins such a chain, all steps of which the kernel can take.
    bool read(NodeReader & nodes, const ggml_tensor * from);
    int64_t n() const { return x->ne[0]; }
    int64_t n_rows() const { return x->ne[2]; }
    Heads heads() const;
    Turn turn() const;
};

// A layer's three chains with their products and writes.
struct Projections {
    std::array<const ggml_tensor *, 3> product{};  // of queries, keys, values; null where keys are the values too
    std::array<HeadChain, 3> chain{};
    std::array<const ggml_tensor *, 3> write{};  // SET_ROWS of keys and values
    int n_nodes = 0;

    // Whether they begin at node i.
    bool read(const ggml_cgraph * graph, int i);
};

// Whether SET_ROWS of heads that lie one after another can be written by the kernel, and where to.
bool pmtp_cell_rows(const ggml_tensor * set_rows, CellRows & cells);

// Whether nothing outside uses what lies between node i and the last of n, but the outputs.
bool pmtp_is_closed(const ggml_cgraph * graph, int i, int n, std::initializer_list<const ggml_tensor *> outputs);
