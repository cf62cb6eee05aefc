#include "engine/target_weights.h"

#include "llama/hooks/weight_loads.h"
#include "llama/internal.h"

#include <set>

namespace pmtp {

TargetWeights take_stock(const llama_model & model) {
    TargetWeights weights;
    std::set<const void *> seen;  // a tied output may be the embedding itself
    const auto is_table = [&](const ggml_tensor * tensor) {
        return (tensor == model.tok_embd || tensor == model.per_layer_tok_embd) &&
               (model.output == nullptr || model.output->data != tensor->data);
    };
    for (const auto & [name, tensor] : llama_internal_get_tensor_map(&model)) {
        if (!seen.insert(tensor->data).second) {
            continue;
        }
        if (is_table(tensor) && pmtp_forget_rows(tensor)) {
            weights.embedding_bytes += ggml_nbytes(tensor);
        } else {
            weights.bytes[ggml_backend_buffer_get_type(tensor->buffer)] += ggml_nbytes(tensor);
        }
    }
    return weights;
}

}  // namespace pmtp
