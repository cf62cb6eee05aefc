#include "llama/hooks/placed_tokens.h"

#include <algorithm>

namespace {

thread_local PlacedTokens * current = nullptr;

// n values of an i32 tensor, from one on.
ggml_tensor part(const ggml_tensor & tensor, int first, int n) {
    ggml_tensor part = tensor;
    part.ne[0] = n;
    part.ne[1] = part.ne[2] = part.ne[3] = 1;
    part.nb[1] = part.nb[2] = part.nb[3] = n * sizeof(int32_t);
    part.data = static_cast<int32_t *>(tensor.data) + first;
    return part;
}

}  // namespace

PlacedTokens::PlacedTokens(const std::vector<const ggml_tensor *> & tables, const std::vector<DeviceTokens> & tokens,
                           int n_rows)
    : tables_(tables),
      tokens_(tokens),
      n_rows_(n_rows) {
    current = this;
}

PlacedTokens::~PlacedTokens() { current = nullptr; }

void PlacedTokens::place(ggml_backend_t backend, ggml_cgraph * graph) {
    for (int i = 0; i < ggml_graph_n_nodes(graph) && !complete(); i++) {
        const ggml_tensor * node = ggml_graph_node(graph, i);
        if (node->op != GGML_OP_GET_ROWS || std::find(tables_.begin(), tables_.end(), node->src[0]) == tables_.end() ||
            ggml_nelements(node->src[1]) != n_rows_) {
            continue;
        }
        for (const DeviceTokens & t : tokens_) {
            const ggml_tensor from = part(*t.tensor, t.first, t.n);
            ggml_tensor to = part(*node->src[1], t.row, t.n);
            ggml_backend_tensor_copy_async(t.backend, backend, &from, &to);
        }
        n_placed_++;
    }
}

void pmtp_place_tokens(ggml_backend_t backend, ggml_cgraph * graph) {
    if (current != nullptr) {
        current->place(backend, graph);
    }
}
