#include "engine/batch_invariance.h"

#include "base/error.h"
#include "kernels/invariance.h"
#include "llama/internal.h"

#include <cstring>
#include <map>
#include <set>
#include <vector>

namespace pmtp {
namespace {

// null: the CPU.
ggml_backend_dev_t device_of(const ggml_tensor * tensor) {
    ggml_backend_dev_t device = ggml_backend_buft_get_device(ggml_backend_buffer_get_type(tensor->buffer));
    return device != nullptr && ggml_backend_dev_type(device) == GGML_BACKEND_DEVICE_TYPE_CPU ? nullptr : device;
}

bool is_cuda(ggml_backend_dev_t device) {
    return std::strcmp(ggml_backend_reg_name(ggml_backend_dev_backend_reg(device)), "CUDA") == 0;
}

// What rows are only looked up in.
bool is_looked_up(const llama_model & model, const ggml_tensor * tensor) {
    return (tensor == model.tok_embd || tensor == model.per_layer_tok_embd) && tensor != model.output;
}

// Where a model's matrices are, those of experts among them, and which kernels do not serve.
struct Matrices {
    std::set<ggml_backend_dev_t> devices;
    std::map<ggml_type, int> served_elsewhere;

    explicit Matrices(const llama_model & model) {
        for (const auto & [name, tensor] : llama_internal_get_tensor_map(&model)) {
            if (is_looked_up(model, tensor)) {
                continue;
            }
            ggml_backend_dev_t device = device_of(tensor);
            devices.insert(device);
            if (ggml_n_dims(tensor) < 2) {
                continue;
            }
            if (!(device != nullptr && is_cuda(device) ? cuda_product_is_batch_invariant(tensor)
                                                       : product_is_batch_invariant(tensor))) {
                served_elsewhere[tensor->type]++;
            }
        }
    }
    bool on_cpu() const { return devices == std::set<ggml_backend_dev_t>{ nullptr }; }
    bool on_one_cuda_device() const {
        return devices.size() == 1 && *devices.begin() != nullptr && is_cuda(*devices.begin());
    }
};

bool attention_is_served(const llama_model & model, const CacheTypes & types, bool on_cpu) {
    const llama_hparams & h = model.hparams;
    for (uint32_t layer = 0; layer < h.n_layer(); layer++) {
        const int k_size = (int) h.n_embd_head_k(layer), v_size = (int) h.n_embd_head_v(layer);
        const bool sliding = h.is_swa(layer);
        const bool served =
            on_cpu ? attention_is_batch_invariant(k_size) && attention_is_batch_invariant(v_size)
                   : k_size == v_size && cuda_attention_is_batch_invariant(
                                             k_size, (int) (h.n_head(layer) / h.n_head_kv(layer)),
                                             sliding ? types.k_swa : types.k, sliding ? types.v_swa : types.v);
        if (!served) {
            return false;
        }
    }
    return true;
}

}  // namespace

std::string batch_dependence(const llama_context & context, const CacheTypes & types) {
    const llama_model & model = context.get_model();
    if (model.arch != LLM_ARCH_GEMMA4) {
        return "no architecture but gemma4 has been looked at";
    }
    std::vector<std::string> reasons;
    const Matrices matrices(model);
    if (!matrices.on_cpu() && !matrices.on_one_cuda_device()) {
        reasons.push_back("layers on several devices, or on one without kernels of ours");
    }
    for (const auto & [type, n] : matrices.served_elsewhere) {
        reasons.push_back(format("%d matrices of type %s", n, ggml_type_name(type)));
    }
    if (!context.get_cparams().flash_attn) {
        reasons.push_back("flash attention is off");
    } else if (!attention_is_served(model, types, matrices.on_cpu())) {
        reasons.push_back("attention by llama.cpp's own kernel");
    }
    if (!matrices.on_cpu() && (int) model.hparams.n_swa > kCudaWindow) {
        reasons.push_back(format("a sliding window of %d tokens on a GPU", (int) model.hparams.n_swa));
    }
    std::string line;
    for (const std::string & reason : reasons) {
        line += (line.empty() ? "" : "; ") + reason;
    }
    return line;
}

}  // namespace pmtp
