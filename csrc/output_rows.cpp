#include "output_rows.h"

#include "handle.h"
#include "llama_hooks/keep_logits.h"
#include "llama_internal.h"

namespace pmtp {

namespace {

thread_local OutputRows * decoding = nullptr;  // whose batch this thread decodes

}  // namespace

// Arg-max of n rows as a graph of one operation. Its source is pointed at the rows of the batch in hand.
struct OutputRows::ArgMax {
    ArgMax(ggml_backend_t backend, ggml_tensor * logits);

    Handle<ggml_context> ctx{ nullptr, ggml_free };
    Handle<ggml_backend_buffer> buffer{ nullptr, ggml_backend_buffer_free };  // nullptr: out of memory
    ggml_cgraph * graph;
    ggml_tensor * rows;   // f32 [n_vocab, n]
    ggml_tensor * token;  // i32 [n]
};

OutputRows::ArgMax::ArgMax(ggml_backend_t backend, ggml_tensor * logits) {
    constexpr size_t kNodes = 4;
    ctx.reset(ggml_init({ kNodes * ggml_tensor_overhead() + ggml_graph_overhead_custom(kNodes, false), nullptr, /*no_alloc*/ true }));
    rows = ggml_new_tensor_2d(ctx.get(), GGML_TYPE_F32, logits->ne[0], logits->ne[1]);
    rows->data = logits->data;  // so that it is not allocated
    rows->buffer = logits->buffer;
    token = ggml_argmax(ctx.get(), rows);
    graph = ggml_new_graph_custom(ctx.get(), kNodes, false);
    ggml_build_forward_expand(graph, token);
    buffer.reset(ggml_backend_alloc_ctx_tensors(ctx.get(), backend));
}

OutputRows::OutputRows() = default;

OutputRows::~OutputRows() = default;

int OutputRows::decode(llama_context * context, const llama_batch & batch, Wanted wanted) {
    context_ = context;
    wanted_ = wanted;
    kept_ = nullptr;
    most_probable_.clear();
    struct Guard {
        explicit Guard(OutputRows * rows) { decoding = rows; }
        ~Guard() { decoding = nullptr; }
    } guard(this);
    return llama_decode(context, batch);
}

bool OutputRows::keep(ggml_tensor * logits) {
    if (!ggml_backend_buffer_is_host(logits->buffer) && !(wanted_ == Wanted::most_probable && find_most_probable(logits))) {
        return false;
    }
    kept_ = logits;
    return true;
}

bool OutputRows::find_most_probable(ggml_tensor * logits) {
    ggml_backend_t backend = ggml_backend_sched_get_tensor_backend(context_->get_sched(), logits);
    std::unique_ptr<ArgMax> & arg_max = arg_max_[logits->ne[1]];
    if (!arg_max) {
        arg_max = std::make_unique<ArgMax>(backend, logits);
    }
    if (!arg_max->buffer || !ggml_backend_supports_op(backend, arg_max->token)) {
        return false;  // llama.cpp copies the logits
    }
    arg_max->rows->data = logits->data;
    arg_max->rows->buffer = logits->buffer;
    if (ggml_backend_graph_compute_async(backend, arg_max->graph) != GGML_STATUS_SUCCESS) {
        return false;
    }
    most_probable_.resize(logits->ne[1]);
    ggml_backend_tensor_get_async(backend, arg_max->token, most_probable_.data(), 0, most_probable_.size() * sizeof(int32_t));
    return true;
}

TargetRow OutputRows::row(int i) {
    if (i < 0 || i >= kept_->ne[1]) {
        throw Error(PMTP_ERROR_INTERNAL, format("no output row %d", i));
    }
    if (!most_probable_.empty()) {
        return { nullptr, most_probable_[i] };
    }
    return { reinterpret_cast<float *>(static_cast<char *>(kept_->data) + i * kept_->nb[1]) };
}

}  // namespace pmtp

bool pmtp_keep_logits(ggml_tensor * logits) { return pmtp::decoding != nullptr && pmtp::decoding->keep(logits); }
