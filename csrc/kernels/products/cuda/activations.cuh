// Activations quantised for ggml-cuda's products of a few rows with quantised weights. ggml-cuda quantises them in a
// kernel of its own before every product; here the kernel that computes them does it, and products of the same
// activations (queries, keys, values) share the result.
#pragma once

#include "ggml.h"

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

    size_t size() const { return 2 * n_bytes + n_order_bytes; }  // of device memory, for use(); 0: nothing is shared
    void use(char * memory) { data = memory; }                   // must outlive this

  private:
    friend PmtpSharedRows pmtp_shared_rows_or_tiles(const ggml_tensor * x, size_t n_bytes);
    friend PmtpSharedRows pmtp_shared_order(const ggml_tensor * ids);
    friend bool pmtp_multiplies_floats(int64_t n_rows);
    friend bool pmtp_shares_activations(const ggml_cgraph * graph);
    friend bool pmtp_is_multiplied(const ggml_tensor * x);
    friend const ggml_tensor * pmtp_rows_of_attention(const ggml_tensor * op);
    friend void pmtp_mark_rotated(const ggml_tensor * rotation);
    friend bool pmtp_is_rotated(const ggml_tensor * rotation);
    friend const ggml_cgraph * pmtp_graph_of_shared();

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
    int64_t n_floats = 0;     // values of the weights that rows are multiplied with,
    int64_t n_quantised = 0;  // by kind
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

// Whether products of so many rows with weights that are floats are ours: of a prompt's rows only where most of the
// graph's weights are quantised.
bool pmtp_multiplies_floats(int64_t n_rows);
