#include "engine/prefix_cache.h"

#include <algorithm>
#include <utility>

namespace pmtp {

namespace {

int common_prefix(const std::vector<int32_t> & a, const std::vector<int32_t> & b, int limit) {
    const auto end = a.begin() + std::min((int) a.size(), limit);
    return (int) (std::mismatch(a.begin(), end, b.begin(), b.end()).first - a.begin());
}

}  // namespace

PrefixCache::PrefixCache(KvCache & kv) : kv_(kv), entries_(kv.n_slots()) {}

bool PrefixCache::has_slot() const {
    return std::any_of(entries_.begin(), entries_.end(), [](const Entry & e) { return !e.running; });
}

// Where little of a slot would be used, an empty one is taken instead, or the one that was kept longest ago.
Place PrefixCache::take(const std::vector<int32_t> & prompt) {
    int best = -1, best_length = 0;
    for (int slot = 0; slot < (int) entries_.size(); slot++) {
        const Entry & entry = entries_[slot];
        if (entry.running) {
            continue;
        }
        int n = common_prefix(entry.tokens, prompt, (int) prompt.size() - 1);
        // Also at the cached end: a completion may have been cut far back to it.
        n = kv_.window_intact(slot, n) ? n : 0;
        const bool useful = 2 * n >= (int) entry.tokens.size();
        const int length = useful ? n : 0;
        const bool better =
            best < 0 || length > best_length ||
            (length == best_length && std::pair(!entry.tokens.empty(), entry.used) <
                                          std::pair(!entries_[best].tokens.empty(), entries_[best].used));
        if (better) {
            best = slot;
            best_length = length;
        }
    }
    Entry & entry = entries_[best];
    if (entry.tokens.size() > (size_t) best_length && !kv_.truncate(best, best_length)) {
        best_length = 0;
    }
    entry.running = true;
    entry.tokens.clear();
    return { best, best_length };
}

void PrefixCache::keep(int slot, std::vector<int32_t> tokens) {
    entries_[slot] = { false, std::move(tokens), ++clock_ };
}

bool PrefixCache::evict() {
    Entry * oldest = nullptr;
    for (Entry & entry : entries_) {
        if (!entry.running && !entry.tokens.empty() && (oldest == nullptr || entry.used < oldest->used)) {
            oldest = &entry;
        }
    }
    if (oldest == nullptr) {
        return false;
    }
    kv_.truncate((int) (oldest - entries_.data()), 0);
    oldest->tokens.clear();
    return true;
}

}  // namespace pmtp
