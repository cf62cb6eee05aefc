#include "engine/kv_cache.h"

#include "llama/internal.h"

#include <algorithm>

namespace pmtp {

namespace {

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
      can_truncate_(full_cells(llama_get_memory(&context)) != nullptr) {}

bool KvCache::truncate(int slot, int n) {
    llama_memory_t memory = llama_get_memory(&context_);
    if (n > 0 && llama_memory_seq_rm(memory, slot, n, -1)) {
        return true;
    }
    llama_memory_seq_rm(memory, slot, -1, -1);
    return n <= 0;
}

bool KvCache::window_intact(int slot, int n) const {
    const auto * iswa = dynamic_cast<const llama_kv_cache_iswa *>(llama_get_memory(&context_));
    const int window = llama_model_n_swa(llama_get_model(&context_));
    if (iswa == nullptr || window <= 0) {
        return true;
    }
    const llama_kv_cells & cells = iswa->get_swa()->get_cells(0);
    const int first = std::max(0, n - window + 1);
    int found = 0;
    for (uint32_t i = 0; i < cells.used_max_p1(); i++) {
        found += !cells.is_empty(i) && cells.seq_has(i, slot) && cells.pos_in(i, first, n);
    }
    return found == n - first;
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
