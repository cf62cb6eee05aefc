#include "engine/target.h"

#include "base/calls.h"
#include "base/error.h"
#include "base/log.h"
#include "llama/hooks/placed_tokens.h"
#include "llama/internal.h"
#include "sampling/draw_ops.h"

#include <algorithm>
#include <utility>

namespace pmtp {

namespace {

ggml_backend_dev_t device_of(const ggml_tensor & tensor) {
    return ggml_backend_buft_get_device(ggml_backend_buffer_get_type(tensor.buffer));
}

}  // namespace

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
    find_tables();
}

void Target::find_tables() {
    const llama_model & model = context_->get_model();
    for (const ggml_tensor * table : { model.tok_embd, model.per_layer_tok_embd }) {
        if (table != nullptr) {
            tables_.push_back(table);
        }
    }
    const auto is_elsewhere = [&](const ggml_tensor * table) { return device_of(*table) != device_of(*tables_[0]); };
    if (!tables_.empty() && std::none_of(tables_.begin(), tables_.end(), is_elsewhere) &&
        runs_custom_ops(device_of(*tables_[0]))) {
        tables_device_ = device_of(*tables_[0]);
    }
}

bool Target::looks_up_on(ggml_backend_t backend) const {
    return tables_device_ != nullptr && ggml_backend_get_device(backend) == tables_device_;
}

void Target::give_states() { llama_set_embeddings_nextn(context_.get(), true, /*masked: output rows only*/ true); }

bool Target::queue(const Batch & batch, const Wanted & wanted) {
    batch_rows_.clear();
    for (int i = 0; i < batch.n_outputs(); i++) {
        batch_rows_.push_back(batch.row_of_output(i));
    }
    const int n_threads = threads_.active();
    llama_set_n_threads(context_.get(), n_threads, n_threads);
    const int status = decode(batch, wanted);
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

bool Target::evaluate(const Batch & batch, const Wanted & wanted) {
    struct Guard {
        Target & target;
        ~Guard() { target.wait(); }
    } guard{ *this };
    return queue(batch, wanted);
}

int Target::decode(const Batch & batch, const Wanted & wanted) {
    if (batch.draft_rows().empty()) {
        return rows_.decode(context_.get(), batch.view(), wanted);
    }
    std::vector<DeviceTokens> tokens;
    for (const Batch::DraftRows & rows : batch.draft_rows()) {
        tokens.push_back({ rows.place.backend, rows.place.tokens, rows.place.first, rows.row, rows.n });
    }
    const PlacedTokens placed(tables_, tokens, batch.size());
    const int status = rows_.decode(context_.get(), batch.view(), wanted);
    if (status == 0 && !placed.complete()) {
        throw Error(Status::internal, "drafted tokens did not reach the target's graph");
    }
    return status;
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
    return output != nullptr && runs_custom_ops(device_of(*output));
}

}  // namespace pmtp
