#include "engine/kv_cache.h"

#include "llama/internal.h"

#include <algorithm>

namespace pmtp {

namespace {

llama_kv_cache * sliding_cache(const llama_context & context) {
    const auto * iswa = dynamic_cast<const llama_kv_cache_iswa *>(llama_get_memory(&context));
    return iswa != nullptr ? iswa->get_swa() : nullptr;
}

// The cells that every position takes, or nullptr.
const llama_kv_cells * full_cells(llama_memory_t memory) {
    if (const auto * iswa = dynamic_cast<const llama_kv_cache_iswa *>(memory)) {
        return &iswa->get_base()->get_cells(0);
    }
    const auto * cache = dynamic_cast<const llama_kv_cache *>(memory);
    return cache != nullptr ? &cache->get_cells(0) : nullptr;
}

}  // namespace

KvCache::KvCache(llama_context & context, int n_slots)
    : context_(context),
      n_slots_(n_slots),
      n_pages_((int) llama_n_ctx(&context) / kPageCells),
      n_swa_(sliding_cache(context) != nullptr ? llama_model_n_swa(llama_get_model(&context)) : 0),
      can_truncate_(full_cells(llama_get_memory(&context)) != nullptr) {}

bool KvCache::truncate(int slot, int n) {
    llama_memory_t memory = llama_get_memory(&context_);
    if (n > 0 && llama_memory_seq_rm(memory, slot, n, -1)) {
        return true;
    }
    llama_memory_seq_rm(memory, slot, -1, -1);
    return n <= 0;
}

void KvCache::share(int from, int to, int n) {
    llama_memory_t memory = llama_get_memory(&context_);
    if (auto * iswa = dynamic_cast<llama_kv_cache_iswa *>(memory)) {
        iswa->get_base()->seq_cp(from, to, 0, n);
    } else {
        memory->seq_cp(from, to, 0, n);
    }
}

// Every position between the first and the last is there.
WindowRange KvCache::window(int slot) const {
    const llama_kv_cache * cache = sliding_cache(context_);
    if (cache == nullptr) {
        return {};
    }
    const llama_pos last = cache->get_cells(0).seq_pos_max(slot);
    return last < 0 ? WindowRange{} : WindowRange{ cache->get_cells(0).seq_pos_min(slot), last + 1 };
}

std::vector<uint8_t> KvCache::save_window(int slot) const {
    std::vector<uint8_t> saved(llama_state_seq_get_size_ext(&context_, slot, LLAMA_STATE_SEQ_FLAGS_PARTIAL_ONLY));
    saved.resize(
        llama_state_seq_get_data_ext(&context_, saved.data(), saved.size(), slot, LLAMA_STATE_SEQ_FLAGS_PARTIAL_ONLY));
    return saved;
}

bool KvCache::restore_window(int slot, const std::vector<uint8_t> & saved, int n) {
    const size_t read =
        llama_state_seq_set_data_ext(&context_, saved.data(), saved.size(), slot, LLAMA_STATE_SEQ_FLAGS_PARTIAL_ONLY);
    if (read != saved.size()) {
        return false;
    }
    sliding_cache(context_)->seq_rm(slot, n, -1);
    return true;
}

void KvCache::drop_window(int slot) {
    if (llama_kv_cache * cache = sliding_cache(context_)) {
        cache->seq_rm(slot, -1, -1);
    }
}

int KvCache::free_pages() const {
    const llama_kv_cells * cells = full_cells(llama_get_memory(&context_));
    if (cells == nullptr) {
        return n_pages_;
    }
    int n_free = 0;
    for (int page = 0; page < n_pages_; page++) {
        bool empty = true;
        for (int i = page * kPageCells; empty && i < (page + 1) * kPageCells; i++) {
            empty = cells->is_empty(i);
        }
        n_free += empty;
    }
    return n_free;
}

}  // namespace pmtp
