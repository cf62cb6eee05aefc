#include "engine/session.h"

#include "base/calls.h"
#include "base/log.h"
#include "sampling/draw_ops.h"
#include "llama/internal.h"

#include <algorithm>

namespace pmtp {

namespace {

bool abort_requested(void * flag) {
    return ending() || static_cast<std::atomic<bool> *>(flag)->load(std::memory_order_relaxed);
}

}  // namespace

Session::Session(llama_model * model, const llama_context_params & params, bool needs_states)
    : context_(nullptr, llama_free),
      threads_(params.n_threads) {
    llama_context_params p = params;
    p.n_outputs_max = kMaxOutputs;
    p.abort_callback = abort_requested;
    p.abort_callback_data = &abort;
    const ErrorLines errors;
    context_.reset(llama_init_from_model(model, p));
    if (!context_) {
        throw Error(Status::out_of_memory, "llama.cpp could not create a context: " + errors.text());
    }
    n_ctx_ = params.n_ctx != 0 ? (int) params.n_ctx : llama_model_n_ctx_train(model);
    n_batch_ = (int) std::min(llama_n_batch(context_.get()), llama_n_ubatch(context_.get()));
    n_vocab_ = llama_vocab_n_tokens(llama_model_get_vocab(model));
    llama_attach_threadpool(context_.get(), threads_.pool(), threads_.pool());
    if (needs_states) {
        llama_set_embeddings_nextn(context_.get(), true, /*masked: output rows only*/ true);
    }
    BatchMemory & m = batch_memory_;
    m.token.resize(n_batch_);
    m.pos.resize(n_batch_);
    m.n_seq_id.assign(n_batch_, 1);
    m.seq_id.assign(n_batch_, &m.sequence);
    m.logits.resize(n_batch_);
    batch_.token = m.token.data();
    batch_.pos = m.pos.data();
    batch_.n_seq_id = m.n_seq_id.data();
    batch_.seq_id = m.seq_id.data();
    batch_.logits = m.logits.data();
    tokens_.reserve(n_ctx_);  // so that nothing fails once tokens are in the cache
}

bool Session::evaluate(const int32_t * tokens, int n, int n_outputs, const Wanted & wanted) {
    if (n < 1 || n_outputs < 0 || n_outputs > std::min(n, kMaxOutputs) || (int) tokens_.size() + n > n_ctx_) {
        throw Error(Status::internal, format("evaluate: %d tokens, %d outputs, %zu of %d positions used", n, n_outputs,
                                             tokens_.size(), n_ctx_));
    }
    const int first_output = n - n_outputs;
    for (int done = 0; done < n;) {
        int size = std::min(n - done, n_batch_);
        // All output rows belong to the last batch: leave them to it.
        if (done + size < n && done + size > first_output) {
            size = first_output - done;
        }
        batch_.n_tokens = size;
        for (int i = 0; i < size; i++) {
            batch_.token[i] = tokens[done + i];
            batch_.pos[i] = (llama_pos) (tokens_.size() + i);
            batch_.logits[i] = done + i >= first_output;
        }
        first_output_ = first_output - done;
        const int n_threads = threads_.active();
        llama_set_n_threads(context_.get(), n_threads, n_threads);
        int status;
        try {
            status = rows_.decode(context_.get(), batch_, wanted);
        } catch (...) {
            forget();  // which cells the cache holds by now is not known
            throw;
        }
        llama_synchronize(context_.get());  // the next batch overwrites inputs that this one may not have read yet
        if (status == 2) {
            return false;
        }
        if (status == 1) {
            throw Error(Status::context_overflow,
                        format("no free KV cells for %d tokens after %zu", size, tokens_.size()));
        }
        if (status != 0) {
            forget();
            throw Error(status == -2 ? Status::out_of_memory : Status::internal,
                        format("llama_decode failed with status %d", status));
        }
        tokens_.insert(tokens_.end(), tokens + done, tokens + done + size);
        done += size;
    }
    return true;
}

bool Session::finds_candidates() const {
    const ggml_tensor * output = context_->get_model().output;
    return output != nullptr &&
           runs_custom_ops(ggml_backend_buft_get_device(ggml_backend_buffer_get_type(output->buffer)));
}

TargetRow Session::output(int row) {
    if (rows_.kept()) {
        return rows_.row(row);
    }
    float * logits = llama_get_logits_ith(context_.get(), first_output_ + row);
    if (logits == nullptr) {
        throw Error(Status::internal, format("no logits for output row %d", row));
    }
    return { logits };
}

const float * Session::state(int row) const {
    const float * data = llama_get_embeddings_nextn_ith(context_.get(), first_output_ + row);
    if (data == nullptr) {
        throw Error(Status::internal, format("no state for output row %d", row));
    }
    return data;
}

void Session::truncate(int n) {
    if (n >= (int) tokens_.size()) {
        return;
    }
    llama_memory_t memory = llama_get_memory(context_.get());
    if (n > 0 && llama_memory_seq_rm(memory, 0, n, -1)) {
        tokens_.resize(n);
    } else {
        forget();
    }
}

void Session::forget() {
    llama_memory_clear(llama_get_memory(context_.get()), /*data*/ false);
    tokens_.clear();
}

int Session::reuse_prefix(const int32_t * prompt, int n_prompt) {
    int n = 0;
    const int limit = std::min((int) tokens_.size(), n_prompt - 1);
    while (n < limit && tokens_[n] == prompt[n]) {
        n++;
    }
    truncate(window_intact(n) ? n : 0);  // also at the cached end: a completion may have been cut far back to it
    return (int) tokens_.size();
}

// Whether a sliding-window cache still holds every position that a query at position n may see. Its ring overwrites old
// positions, so after going back far enough some are gone.
bool Session::window_intact(int n) const {
    const auto * iswa = dynamic_cast<const llama_kv_cache_iswa *>(llama_get_memory(context_.get()));
    const int window = llama_model_n_swa(llama_get_model(context_.get()));
    if (iswa == nullptr || window <= 0) {
        return true;
    }
    const llama_kv_cells & cells = iswa->get_swa()->get_cells(0);
    const int first = std::max(0, n - window + 1);
    int found = 0;
    for (uint32_t i = 0; i < cells.used_max_p1(); i++) {
        found += !cells.is_empty(i) && cells.seq_has(i, 0) && cells.pos_in(i, first, n);
    }
    return found == n - first;
}

}  // namespace pmtp
