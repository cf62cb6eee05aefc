#include "llama/hooks/kept_rotations.h"

#include "llama/hooks/cache_types.h"

#include "ggml-alloc.h"
#include "ggml-backend.h"
#include "ggml-cpp.h"

#include <new>

struct KeptRotations::Memory {
    ggml_context_ptr context;
    ggml_backend_buffer_ptr buffer;
};

KeptRotations::KeptRotations() = default;
KeptRotations::~KeptRotations() = default;

void KeptRotations::keep(const ggml_tensor * cache_k, int64_t n_k, const ggml_tensor * cache_v, int64_t n_v,
                         const std::unordered_map<int64_t, std::vector<float>> & rotations, int sign_word) {
    const auto make = [&](const ggml_tensor * cache, int64_t n, const char * name) -> ggml_tensor * {
        if (n == 0 || cache == nullptr || cache->buffer == nullptr || ggml_backend_buffer_is_host(cache->buffer)) {
            return nullptr;
        }
        auto memory = std::make_unique<Memory>();
        memory->context.reset(ggml_init({ ggml_tensor_overhead(), nullptr, /*no_alloc*/ true }));
        ggml_tensor * tensor = ggml_new_tensor_2d(memory->context.get(), GGML_TYPE_F32, n, n);
        memory->buffer.reset(ggml_backend_alloc_ctx_tensors_from_buft(memory->context.get(),
                                                                      ggml_backend_buffer_get_type(cache->buffer)));
        if (memory->buffer == nullptr) {
            throw std::bad_alloc();
        }
        const bool has_signs = pmtp_is_turbo(cache->type);
        ggml_set_name(tensor, name);
        tensor->op_params[sign_word] = has_signs;
        ggml_backend_tensor_set(tensor, rotations.at(has_signs ? -n : n).data(), 0, ggml_nbytes(tensor));
        memory_.push_back(std::move(memory));
        return tensor;
    };
    k = make(cache_k, n_k, "attn_k_rot");
    v = make(cache_v, n_v, "attn_v_rot");
}
