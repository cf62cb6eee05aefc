#include "engine/device_tables.h"

#include "base/handle.h"

#include "ggml-backend.h"
#include "gguf.h"

#include <utility>

namespace pmtp {

namespace {

// Tensors, and the patterns for llama.cpp.
constexpr std::pair<const char *, const char *> kTables[] = {
    { "token_embd.weight", "^token_embd\\.weight$" },
    { "per_layer_token_embd.weight", "^per_layer_token_embd\\.weight$" },
};

// Null where there is none or more than one.
ggml_backend_dev_t only_gpu() {
    ggml_backend_dev_t gpu = nullptr;
    for (size_t i = 0; i < ggml_backend_dev_count(); i++) {
        ggml_backend_dev_t device = ggml_backend_dev_get(i);
        if (ggml_backend_dev_type(device) == GGML_BACKEND_DEVICE_TYPE_GPU) {
            if (gpu != nullptr) {
                return nullptr;
            }
            gpu = device;
        }
    }
    return gpu;
}

bool can_look_up(ggml_backend_dev_t device, ggml_context * ctx, ggml_tensor * table) {
    return ggml_backend_dev_supports_op(device, ggml_get_rows(ctx, table, ggml_new_tensor_1d(ctx, GGML_TYPE_I32, 1)));
}

}  // namespace

// What is wrong with the file the load will say.
DeviceTables::DeviceTables(const std::string & path, int n_gpu_layers) {
    ggml_backend_dev_t gpu = n_gpu_layers < 0 ? only_gpu() : nullptr;
    if (gpu == nullptr) {
        return;
    }
    ggml_context * infos = nullptr;
    const Handle<gguf_context> file(gguf_init_from_file(path.c_str(), { /*no_alloc*/ true, &infos }), gguf_free);
    const Handle<ggml_context> tensors(infos, ggml_free);
    if (!file) {
        return;
    }
    size_t bytes = 0, free = 0, total = 0;
    for (ggml_tensor * t = ggml_get_first_tensor(infos); t != nullptr; t = ggml_get_next_tensor(infos, t)) {
        bytes += ggml_nbytes(t);
    }
    ggml_backend_dev_memory(gpu, &free, &total);
    if (free / 2 < bytes) {
        return;
    }
    const Handle<ggml_context> ctx(ggml_init({ 8 * ggml_tensor_overhead(), nullptr, /*no_alloc*/ true }), ggml_free);
    for (const auto & [name, pattern] : kTables) {
        ggml_tensor * table = ggml_get_tensor(infos, name);
        if (table != nullptr && can_look_up(gpu, ctx.get(), table)) {
            overrides_.push_back({ pattern, ggml_backend_dev_buffer_type(gpu) });
        }
    }
    if (!overrides_.empty()) {
        overrides_.push_back({ nullptr, nullptr });
    }
}

}  // namespace pmtp
