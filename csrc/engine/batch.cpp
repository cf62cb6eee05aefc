#include "engine/batch.h"

namespace pmtp {

// Nothing is allocated while a batch is filled.
Batch::Batch(int capacity) : n_slots_(capacity, 1), slots_(capacity) {
    token_.reserve(capacity);
    position_.reserve(capacity);
    slot_.reserve(capacity);
    output_.reserve(capacity);
    outputs_.reserve(capacity);
    draft_rows_.reserve(capacity);
}

void Batch::clear() {
    token_.clear();
    position_.clear();
    slot_.clear();
    output_.clear();
    outputs_.clear();
    draft_rows_.clear();
}

void Batch::add(int32_t token, int position, int slot, bool output) {
    if (output) {
        outputs_.push_back(size());
    }
    token_.push_back(token);
    position_.push_back(position);
    slot_.push_back(slot);
    output_.push_back(output);
}

void Batch::take_tokens(const DraftPlace & place, int n) { draft_rows_.push_back({ place, size() - n, n }); }

llama_batch Batch::view() const {
    llama_batch batch = {};
    for (int i = 0; i < size(); i++) {
        slots_[i] = &slot_[i];
    }
    batch.n_tokens = size();
    batch.token = token_.data();
    batch.pos = position_.data();
    batch.n_seq_id = n_slots_.data();
    batch.seq_id = slots_.data();
    batch.logits = output_.data();
    return batch;
}

}  // namespace pmtp
