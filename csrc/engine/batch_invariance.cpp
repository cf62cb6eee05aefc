#include "engine/batch_invariance.h"

#include "base/error.h"
#include "kernels/invariance.h"
#include "llama/internal.h"

#include <map>
#include <vector>

namespace pmtp {
namespace {

bool on_cpu(const ggml_tensor * tensor) {
    ggml_backend_dev_t device = ggml_backend_buft_get_device(ggml_backend_buffer_get_type(tensor->buffer));
    return device == nullptr || ggml_backend_dev_type(device) == GGML_BACKEND_DEVICE_TYPE_CPU;
}

// Matrices that rows are multiplied with, those of experts among them: not what rows are only looked up in.
bool is_multiplied(const llama_model & model, const ggml_tensor * tensor) {
    const bool looked_up = tensor == model.tok_embd || tensor == model.per_layer_tok_embd;
    return ggml_n_dims(tensor) >= 2 && (!looked_up || tensor == model.output);
}

}  // namespace

std::string batch_dependence(const llama_context & context) {
    const llama_model & model = context.get_model();
    if (model.arch != LLM_ARCH_GEMMA4) {
        return "no architecture but gemma4 has been looked at";
    }
    std::vector<std::string> reasons;
    std::map<ggml_type, int> served_elsewhere;
    bool off_cpu = false;
    for (const auto & [name, tensor] : llama_internal_get_tensor_map(&model)) {
        off_cpu = off_cpu || !on_cpu(tensor);
        if (is_multiplied(model, tensor) && !product_is_batch_invariant(tensor)) {
            served_elsewhere[tensor->type]++;
        }
    }
    if (off_cpu) {
        reasons.push_back("layers on a GPU");
    }
    for (const auto & [type, n] : served_elsewhere) {
        reasons.push_back(format("%d matrices of type %s", n, ggml_type_name(type)));
    }
    bool attention = context.get_cparams().flash_attn;
    for (uint32_t layer = 0; layer < model.hparams.n_layer(); layer++) {
        attention = attention && attention_is_batch_invariant((int) model.hparams.n_embd_head_k(layer)) &&
                    attention_is_batch_invariant((int) model.hparams.n_embd_head_v(layer));
    }
    if (!attention) {
        reasons.push_back(context.get_cparams().flash_attn ? "attention by llama.cpp's own kernel"
                                                           : "flash attention is off");
    }
    std::string line;
    for (const std::string & reason : reasons) {
        line += (line.empty() ? "" : "; ") + reason;
    }
    return line;
}

}  // namespace pmtp
