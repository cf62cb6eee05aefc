#include "engine/output_rows.h"

#include "sampling/draw_ops.h"
#include "base/handle.h"
#include "llama/hooks/keep_logits.h"
#include "llama/internal.h"

namespace pmtp {

namespace {

thread_local OutputRows * decoding = nullptr;  // whose batch this thread decodes

}  // namespace

// A choice from n rows as a graph of one operation. Its source is pointed at the rows of the batch in hand.
struct OutputRows::Selection {
    Selection(ggml_backend_t backend, ggml_tensor * logits, Wanted::Kind kind, bool masked);

    Wanted::Kind kind;
    int64_t n_words;  // of a row's result; the results come first
    Handle<ggml_context> ctx{ nullptr, ggml_free };
    Handle<ggml_backend_buffer> buffer{ nullptr, ggml_backend_buffer_free };  // nullptr: not possible on this backend
    ggml_cgraph * graph;
    ggml_tensor * rows;              // f32 [n_vocab, n]
    ggml_tensor * masks = nullptr;   // i32 [mask_words, n]; nullptr: rows have none
    ggml_tensor * params = nullptr;  // i32 [kChoiceWords, n]
    ggml_tensor * result;            // i32 [n] most probable tokens, or [kCandidatesRowWords, n]
};

OutputRows::Selection::Selection(ggml_backend_t backend, ggml_tensor * logits, Wanted::Kind kind, bool masked)
    : kind(kind) {
    constexpr size_t kNodes = 8;
    const int64_t n = logits->ne[1];
    ctx.reset(ggml_init(
        { kNodes * ggml_tensor_overhead() + ggml_graph_overhead_custom(kNodes, false), nullptr, /*no_alloc*/ true }));
    ggml_context * c = ctx.get();
    rows = ggml_new_tensor_2d(c, GGML_TYPE_F32, logits->ne[0], n);
    rows->data = logits->data;  // so that it is not allocated
    rows->buffer = logits->buffer;
    if (kind == Wanted::most_probable) {
        n_words = 1;
        result = ggml_argmax(c, rows);
    } else {
        n_words = kCandidatesWords;
        params = ggml_new_tensor_2d(c, GGML_TYPE_I32, kChoiceWords, n);
        std::vector<ggml_tensor *> args = { rows };
        if (masked) {
            masks = ggml_new_tensor_2d(c, GGML_TYPE_I32, mask_words((int) logits->ne[0]), n);
            args.push_back(masks);
        }
        args.push_back(params);
        result = ggml_custom_4d(c, GGML_TYPE_I32, kCandidatesRowWords, n, 1, 1, args.data(), (int) args.size(),
                                find_candidates, GGML_N_TASKS_MAX, nullptr);
    }
    graph = ggml_new_graph_custom(c, kNodes, false);
    ggml_build_forward_expand(graph, result);
    if (ggml_backend_supports_op(backend, result)) {
        buffer.reset(ggml_backend_alloc_ctx_tensors(c, backend));
    }
}

OutputRows::OutputRows() = default;

OutputRows::~OutputRows() = default;

int OutputRows::decode(llama_context * context, const llama_batch & batch, const Wanted & wanted) {
    context_ = context;
    wanted_ = &wanted;
    kept_ = nullptr;
    selected_ = nullptr;
    struct Guard {
        explicit Guard(OutputRows * rows) { decoding = rows; }
        ~Guard() { decoding = nullptr; }
    } guard(this);
    return llama_decode(context, batch);
}

bool OutputRows::keep(ggml_tensor * logits) {
    if (!ggml_backend_buffer_is_host(logits->buffer) && !(wanted_->kind != Wanted::logits && select(logits))) {
        return false;
    }
    kept_ = logits;
    return true;
}

bool OutputRows::select(ggml_tensor * logits) {
    ggml_backend_t backend = ggml_backend_sched_get_tensor_backend(context_->get_sched(), logits);
    const bool masked = wanted_->masked();
    std::unique_ptr<Selection> & s = selections_[{ wanted_->kind, masked, logits->ne[1] }];
    if (!s) {
        s = std::make_unique<Selection>(backend, logits, wanted_->kind, masked);
    }
    if (!s->buffer) {
        return false;  // llama.cpp copies the logits
    }
    s->rows->data = logits->data;
    s->rows->buffer = logits->buffer;
    if (s->params != nullptr) {
        if ((int64_t) wanted_->params.size() != logits->ne[1]) {
            return false;
        }
        params_ = wanted_->params;
        ggml_backend_tensor_set_async(backend, s->params, params_.data(), 0, ggml_nbytes(s->params));
    }
    if (s->masks != nullptr) {
        gather_masks(s->masks->ne[0]);
        ggml_backend_tensor_set_async(backend, s->masks, masks_.data(), 0, ggml_nbytes(s->masks));
    }
    if (ggml_backend_graph_compute_async(backend, s->graph) != GGML_STATUS_SUCCESS) {
        return false;
    }
    results_.resize(logits->ne[1] * s->n_words);
    ggml_backend_tensor_get_async(backend, s->result, results_.data(), 0, results_.size() * sizeof(int32_t));
    selected_ = s.get();
    return true;
}

// All of them in one block, so that they cross to the device at once.
void OutputRows::gather_masks(int64_t n_words) {
    masks_.assign(n_words * wanted_->masks.size(), ~0u);
    for (size_t row = 0; row < wanted_->masks.size(); row++) {
        if (const uint32_t * mask = wanted_->masks[row]; mask != nullptr) {
            std::copy_n(mask, n_words, &masks_[row * n_words]);
        }
    }
}

TargetRow OutputRows::row(int i) {
    if (i < 0 || i >= kept_->ne[1]) {
        throw Error(Status::internal, format("no output row %d", i));
    }
    if (selected_ == nullptr) {
        return { reinterpret_cast<float *>(static_cast<char *>(kept_->data) + i * kept_->nb[1]) };
    }
    if (selected_->kind == Wanted::most_probable) {
        return { nullptr, results_[i] };
    }
    TargetRow row = { nullptr };
    row.candidates = reinterpret_cast<Candidates *>(&results_[i * kCandidatesWords]);
    row.noisy = params_[i].noisy;
    row.fetch = [this, i] { return fetch(i); };
    return row;
}

// The rest of a row that was left on the device.
float * OutputRows::fetch(int row) {
    fetched_.resize(std::max(fetched_.size(), (size_t) row + 1));
    fetched_[row].resize(kept_->ne[0]);
    ggml_backend_tensor_get(kept_, fetched_[row].data(), row * kept_->nb[1], kept_->ne[0] * sizeof(float));
    return fetched_[row].data();
}

}  // namespace pmtp

bool pmtp_keep_logits(ggml_tensor * logits) { return pmtp::decoding != nullptr && pmtp::decoding->keep(logits); }
