// test-backend-ops has every tensor in a plain buffer, where this project's kernels for weights are not used. Linked
// with
// --wrap=ggml_backend_compare_graph_backend, this compares with matrices where a model has them: repacked on a CPU, in
// a buffer of weights on a device.
#include "ggml-alloc.h"
#include "ggml-backend.h"
#include "ggml-cpp.h"
#include "ggml.h"

#include "ggml-impl.h"

#include <vector>

namespace {

// The kinds of memory that a device keeps weights in beside its own, as llama.cpp's loader asks for them.
std::vector<ggml_backend_buffer_type_t> kinds_of_memory(ggml_backend_dev_t device) {
    ggml_backend_reg_t reg = ggml_backend_dev_backend_reg(device);
    auto * get =
        (ggml_backend_dev_get_extra_bufts_t) ggml_backend_reg_get_proc_address(reg, "ggml_backend_dev_get_extra_bufts");
    std::vector<ggml_backend_buffer_type_t> kinds;
    for (auto * kind = get != nullptr ? get(device) : nullptr; kind != nullptr && *kind != nullptr; kind++) {
        kinds.push_back(*kind);
    }
    return kinds;
}

bool is_view(const ggml_tensor * node) {
    return node->op == GGML_OP_VIEW || node->op == GGML_OP_RESHAPE || node->op == GGML_OP_PERMUTE ||
           node->op == GGML_OP_TRANSPOSE;
}

// Weights of the products of a graph, where a loaded model has them; as before once it is destroyed.
class LoadedWeights {
  public:
    LoadedWeights(ggml_backend_t backend, ggml_cgraph * graph) : device_(ggml_backend_get_device(backend)) {
        for (int i = 0; i < graph->n_nodes; i++) {
            ggml_tensor * node = graph->nodes[i];
            for (ggml_tensor * source : node->src) {
                if (source != nullptr && source->op == GGML_OP_NONE && source->buffer != nullptr) {
                    ggml_backend_buffer_set_usage(source->buffer, GGML_BACKEND_BUFFER_USAGE_WEIGHTS);
                }
            }
            if (node->op == GGML_OP_MUL_MAT || node->op == GGML_OP_MUL_MAT_ID) {
                move(node);
            }
        }
    }
    ~LoadedWeights() {
        for (const Moved & moved : moved_) {
            moved.node->src[0] = moved.original;
        }
    }
    LoadedWeights(const LoadedWeights &) = delete;
    LoadedWeights & operator=(const LoadedWeights &) = delete;

  private:
    struct Moved {
        ggml_tensor * node;
        ggml_tensor * original;
        ggml_context_ptr context;
        ggml_backend_buffer_ptr memory;
    };

    // To the first kind of memory there with which the device can do the operation. ggml says that it can multiply
    // activations of four dimensions with repacked weights, and ends the process.
    void move(ggml_tensor * node) {
        ggml_tensor * original = node->src[0];
        if (original->op != GGML_OP_NONE || original->view_src != nullptr || !ggml_is_contiguous(original) ||
            node->src[1]->ne[3] != 1) {
            return;
        }
        for (ggml_backend_buffer_type_t kind : kinds_of_memory(device_)) {
            ggml_context_ptr context(ggml_init({ ggml_tensor_overhead(), nullptr, true }));
            ggml_tensor * weights = ggml_dup_tensor(context.get(), original);
            const ggml_backend_buffer_ptr none(ggml_backend_buft_alloc_buffer(kind, 0));
            weights->buffer = none.get();
            node->src[0] = weights;
            const bool supported = ggml_backend_dev_supports_op(device_, node);
            weights->buffer = nullptr;
            if (!supported) {
                node->src[0] = original;
                continue;
            }
            ggml_backend_buffer_ptr memory(ggml_backend_alloc_ctx_tensors_from_buft(context.get(), kind));
            GGML_ASSERT(memory != nullptr);
            std::vector<char> data(ggml_nbytes(original));
            ggml_backend_tensor_get(original, data.data(), 0, data.size());
            ggml_backend_tensor_set(weights, data.data(), 0, data.size());
            moved_.push_back({ node, original, std::move(context), std::move(memory) });
            return;
        }
    }

    ggml_backend_dev_t device_;
    std::vector<Moved> moved_;
};

}  // namespace

// As the function that it wraps: whole graphs if there are nodes to test, else node after node.
extern "C" bool __wrap_ggml_backend_compare_graph_backend(ggml_backend_t ours, ggml_backend_t reference,
                                                          ggml_cgraph * graph, ggml_backend_eval_callback callback,
                                                          void * user_data, const ggml_tensor * const * tested,
                                                          size_t n_tested) {
    const struct ggml_backend_graph_copy copy = ggml_backend_graph_copy(reference, graph);
    if (copy.buffer == nullptr) {
        return false;
    }
    const LoadedWeights weights(ours, graph);
    size_t n_compared = 0;
    if (n_tested != 0) {
        ggml_backend_graph_compute(ours, graph);
        ggml_backend_graph_compute(reference, copy.graph);
        for (int i = 0; i < graph->n_nodes; i++) {
            for (size_t j = 0; j < n_tested; j++) {
                if (graph->nodes[i] == tested[j]) {
                    callback(i, graph->nodes[i], copy.graph->nodes[i], user_data);
                    n_compared++;
                }
            }
        }
    } else {
        for (int i = 0; i < graph->n_nodes; i++) {
            ggml_cgraph our_node = ggml_graph_view(graph, i, i + 1);
            ggml_cgraph reference_node = ggml_graph_view(copy.graph, i, i + 1);
            ggml_backend_graph_compute(ours, &our_node);
            ggml_backend_graph_compute(reference, &reference_node);
            if (!is_view(graph->nodes[i])) {
                n_compared++;
                if (!callback(i, graph->nodes[i], copy.graph->nodes[i], user_data)) {
                    break;
                }
            }
        }
    }
    ggml_backend_graph_copy_free(copy);
    GGML_ASSERT(n_compared > 0);
    return true;
}
