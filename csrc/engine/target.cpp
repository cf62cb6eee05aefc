#include "engine/target.h"

#include "base/calls.h"
#include "base/error.h"
#include "base/log.h"
#include "llama/internal.h"
#include "sampling/draw_ops.h"

#include <utility>

namespace pmtp {

Target::Target(llama_model * model, const llama_context_params & params, std::function<bool()> given_up)
    : given_up_(std::move(given_up)),
      context_(nullptr, llama_free),
      threads_(params.n_threads) {
    llama_context_params p = params;
    p.abort_callback = [](void * user) { return ending() || static_cast<Target *>(user)->given_up_(); };
    p.abort_callback_data = this;
    const ErrorLines errors;
    context_.reset(llama_init_from_model(model, p));
    if (!context_) {
        throw Error(Status::out_of_memory, "llama.cpp could not create a context: " + errors.text());
    }
    llama_attach_threadpool(context_.get(), threads_.pool(), threads_.pool());
    batch_rows_.reserve(llama_n_batch(context_.get()));
}

void Target::give_states() { llama_set_embeddings_nextn(context_.get(), true, /*masked: output rows only*/ true); }

bool Target::evaluate(const Batch & batch, const Wanted & wanted) {
    batch_rows_.clear();
    for (int i = 0; i < batch.n_outputs(); i++) {
        batch_rows_.push_back(batch.row_of_output(i));
    }
    const int n_threads = threads_.active();
    llama_set_n_threads(context_.get(), n_threads, n_threads);
    const int status = rows_.decode(context_.get(), batch.view(), wanted);
    llama_synchronize(context_.get());  // the next batch overwrites inputs that this one may not have read yet
    if (status == 2) {
        return false;
    }
    if (status == 1) {
        throw Error(Status::context_overflow, format("no free KV cells for %d rows", batch.size()));
    }
    if (status != 0) {
        throw Error(status == -2 ? Status::out_of_memory : Status::internal,
                    format("llama_decode failed with status %d", status));
    }
    return true;
}

TargetRow Target::row(int output) {
    if (rows_.kept()) {
        return rows_.row(output);
    }
    float * logits = llama_get_logits_ith(context_.get(), batch_rows_[output]);
    if (logits == nullptr) {
        throw Error(Status::internal, format("no logits for output row %d", output));
    }
    return { logits };
}

const float * Target::state(int output) const {
    const float * data = llama_get_embeddings_nextn_ith(context_.get(), batch_rows_[output]);
    if (data == nullptr) {
        throw Error(Status::internal, format("no state for output row %d", output));
    }
    return data;
}

bool Target::finds_candidates() const {
    const ggml_tensor * output = context_->get_model().output;
    return output != nullptr &&
           runs_custom_ops(ggml_backend_buft_get_device(ggml_backend_buffer_get_type(output->buffer)));
}

}  // namespace pmtp
