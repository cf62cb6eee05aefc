// Activations quantised for products with quantised weights, or split for those with floats. ggml-cuda quantises them
// in a kernel of its own before every product; here the kernel that computes them does it, and products of the same
// activations (queries, keys, values) share the result.
#pragma once

#include "ggml.h"

#include "kernels/products/cuda/products.cuh"
#include "kernels/rows/cuda/quantise.cuh"

#include <unordered_map>
#include <unordered_set>

struct ggml_cgraph;

struct PmtpSharedRows {
    char * data;   // null: the caller's own memory
    bool written;  // by an earlier operation of the graph
};

// While it lives, operations of one graph, on one stream, share quantised rows. Two tensors' rows are kept: an
// operation may read one and write the other. Tensors are told apart by their address: a tensor keeps its value until
// its last use.
class PmtpSharedActivations {
  public:
    explicit PmtpSharedActivations(const ggml_cgraph * graph);  // null: nothing is shared
    ~PmtpSharedActivations();
    PmtpSharedActivations(const PmtpSharedActivations &) = delete;
    PmtpSharedActivations & operator=(const PmtpSharedActivations &) = delete;

    // Of device memory, for use(); 0: nothing is shared.
    size_t size() const { return n_part_bytes > 0 ? before_parts() + n_part_bytes : 2 * n_bytes + n_order_bytes; }
    void use(char * memory) { data = memory; }  // must outlive this

  private:
    friend PmtpSharedRows pmtp_shared_rows_or_tiles(const ggml_tensor * x, size_t n_bytes);
    friend PmtpSharedRows pmtp_shared_order(const ggml_tensor * ids);
    friend PmtpSharedRows pmtp_shared_parts(const ggml_tensor * x, WeightFormat format);
    friend bool pmtp_shares_activations(const ggml_cgraph * graph);
    friend bool pmtp_is_multiplied(const ggml_tensor * x);
    friend const ggml_tensor * pmtp_rows_of_attention(const ggml_tensor * op);
    friend void pmtp_mark_rotated(const ggml_tensor * rotation);
    friend bool pmtp_is_rotated(const ggml_tensor * rotation);
    friend const ggml_cgraph * pmtp_graph_of_shared();

    size_t before_parts() const { return (2 * n_bytes + n_order_bytes + 127) / 128 * 128; }

    const ggml_cgraph * graph;
    std::unordered_set<const ggml_tensor *> multiplied;
    std::unordered_map<const ggml_tensor *, const ggml_tensor *> rows_of_attention;
    std::unordered_set<const ggml_tensor *> rotated;
    size_t n_bytes = 0;
    size_t n_order_bytes = 0;
    char * data = nullptr;
    const ggml_tensor * kept[2] = {};
    int last = 0;  // of the two, what was asked for last
    const ggml_tensor * ordered = nullptr;
    size_t n_part_bytes = 0;
    const ggml_tensor * split = nullptr;
    WeightFormat split_for = {};
    PmtpSharedActivations * outer;
};

// Whether an object for this graph lives.
bool pmtp_shares_activations(const ggml_cgraph * graph);

// Whether x has a place there.
bool pmtp_is_multiplied(const ggml_tensor * x);

// What holds the rows x of a MUL_MAT_ID, which lie one after another whatever their number: the operation that computes
// them where that would put them so, so that it can quantise them.
const ggml_tensor * pmtp_rows_of_experts(const ggml_tensor * x);

// What a product takes of an attention: its rows, all heads of one together; or null.
const ggml_tensor * pmtp_rows_of_attention(const ggml_tensor * op);

// The graph, or null; and which of its rotations the attention in front of them has done.
const ggml_cgraph * pmtp_graph_of_shared();
void pmtp_mark_rotated(const ggml_tensor * rotation);
bool pmtp_is_rotated(const ggml_tensor * rotation);

// Where x, quantised to n_bytes, is or belongs; null if no product asks for it. The caller writes it if it is not
// there. pmtp_shared_rows(): few rows, as ggml-cuda has them; null if x has more.
PmtpSharedRows pmtp_shared_rows(const ggml_tensor * x, size_t n_bytes);
PmtpSharedRows pmtp_shared_rows_or_tiles(const ggml_tensor * x, size_t n_bytes);

// Where the order of a prompt's pairs by expert is or belongs, of the ids of a MUL_MAT_ID that the graph has.
PmtpSharedRows pmtp_shared_order(const ggml_tensor * ids);

// Where the parts of a prompt's rows x are or belong, for products with weights that are floats; null without memory.
PmtpSharedRows pmtp_shared_parts(const ggml_tensor * x, WeightFormat format);
