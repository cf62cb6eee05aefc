#include "engine/prefix_cache.h"

#include "base/error.h"

#include <algorithm>
#include <new>
#include <set>
#include <utility>

namespace pmtp {

namespace {

// Tokens of a long prompt between two windows that are saved although nobody said that others branch off there.
constexpr int kSpacing = 2048;

int common_prefix(const std::vector<int32_t> & a, const std::vector<int32_t> & b, int limit) {
    const auto end = a.begin() + std::min((int) a.size(), limit);
    return (int) (std::mismatch(a.begin(), end, b.begin(), b.end()).first - a.begin());
}

// Something is left to evaluate.
int most_cached(const std::vector<int32_t> & prompt) { return std::max(0, (int) prompt.size() - 1); }

constexpr int whole_pages(int n) { return n / kPageCells * kPageCells; }

}  // namespace

PrefixCache::PrefixCache(KvCache & kv, int max_running, size_t most_bytes)
    : kv_(kv),
      max_running_(max_running),
      most_bytes_(most_bytes),
      entries_(kv.n_slots()) {}

PrefixCache::Match PrefixCache::match(int slot, const std::vector<int32_t> & prompt) const {
    const Entry & entry = entries_[slot];
    Match match;
    match.slot = slot;
    const int n = common_prefix(entry.tokens, prompt, std::min(entry.n_valid, most_cached(prompt)));
    match.lost = (int) entry.tokens.size() - n;
    const WindowRange own = kv_.window(slot);
    const bool may_cut = kv_.can_truncate() || match.lost == 0;
    // Amid a page that another text has too, there is no room to go on.
    const int reached = n % kPageCells != 0 && kv_.can_truncate() && kv_.shares_page(slot, n) ? whole_pages(n) : n;
    if (entry.use == Use::kept && kv_.serves(own, reached) && may_cut) {
        match.in_place = reached;
    }
    if (!kv_.can_truncate()) {
        return match;
    }
    const int most = whole_pages(n);
    const WindowRange saved = kv_.saved_range(own.high);
    const int length = kv_.has_windows() ? whole_pages(std::min(most, own.high)) : most;
    if (own.low <= saved.low && kv_.serves(saved, length)) {
        match.shared = length;
    }
    for (const SharedWindow & window : entry.windows) {
        const int reached = whole_pages(std::min(most, window->range.high));
        if (reached > match.shared && kv_.serves(window->range, reached)) {
            match.shared = reached;
            match.window = window;
        }
    }
    return match;
}

// Going on in the slot loses the rest of its text, sharing loses what the last page has of the beginning: the smaller
// loss is chosen, among the longest beginnings.
Place PrefixCache::take(const std::vector<int32_t> & prompt, bool anew) {
    std::vector<int32_t> tokens(prompt);
    Match best;
    for (int slot = 0; slot < (int) entries_.size() && !anew; slot++) {
        const Match found = match(slot, prompt);
        if (std::max(found.in_place, found.shared) > std::max(best.in_place, best.shared)) {
            best = found;
        }
    }
    const bool again = best.in_place == most_cached(prompt);  // what is lost is another answer to the same prompt
    const bool in_place = best.in_place > 0 && (again || best.lost <= best.in_place - best.shared);
    int slot = best.slot < 0 || !in_place ? empty_slot(best.slot) : -1;
    if (slot < 0 && best.in_place > 0) {
        make_room_for_window(best.slot);
        const int n = kv_.truncate(best.slot, best.in_place) ? best.in_place : 0;
        return begin(best.slot, n, std::move(tokens));
    }
    if (slot < 0) {  // the only slot left
        slot = best.slot >= 0 && entries_[best.slot].use == Use::kept ? best.slot : oldest(false, -1);
        clear(slot);
        best.shared = 0;
    }
    if (best.shared == 0) {
        make_room_for_window(-1);
        return begin(slot, 0, std::move(tokens));
    }
    const int n = share(best, slot) ? best.shared : 0;
    return begin(slot, n, std::move(tokens));
}

// Gives an empty slot what is shared with another. Returns false, and leaves the slot empty, if there is no room.
bool PrefixCache::share(const Match & with, int slot) {
    const bool own = with.window == nullptr && kv_.has_windows();
    const std::vector<uint8_t> saved = own ? kv_.save_window(with.slot) : std::vector<uint8_t>();  // it may give way
    make_room_for_window(-1);
    if (kv_.has_windows() && !kv_.restore_window(slot, own ? saved : with.window->bytes, with.shared)) {
        clear(slot);
        return false;
    }
    kv_.share(with.slot, slot, with.shared);
    entries_[with.slot].used = ++clock_;
    for (const SharedWindow & window : entries_[with.slot].windows) {
        if (window->range.high <= with.shared) {
            window->used = clock_;
            entries_[slot].windows.push_back(window);
        }
    }
    return true;
}

// A slot that holds the first n_cached of the tokens.
Place PrefixCache::begin(int slot, int n_cached, std::vector<int32_t> tokens) {
    n_running_++;
    Entry & entry = entries_[slot];
    entry.use = Use::running;
    entry.tokens = std::move(tokens);
    entry.n_valid = n_cached;
    entry.used = ++clock_;
    cut_windows(entry, n_cached);
    return { slot, n_cached };
}

// Gives up the windows behind the first n tokens.
void PrefixCache::cut_windows(Entry & entry, int n) {
    entry.windows.erase(std::remove_if(entry.windows.begin(), entry.windows.end(),
                                       [&](const SharedWindow & w) { return w->range.high > n; }),
                        entry.windows.end());
}

// An empty slot, or one that is made so; -1: every one but `but` is running.
int PrefixCache::empty_slot(int but) {
    for (int slot = 0; slot < (int) entries_.size(); slot++) {
        if (entries_[slot].use == Use::empty) {
            return slot;
        }
    }
    const int slot = oldest(false, but);
    if (slot >= 0) {
        clear(slot);
    }
    return slot;
}

// The sliding layers have room for the windows of max_running slots: before one more runs, kept ones give way. but: the
// slot that is about to run, or -1.
void PrefixCache::make_room_for_window(int but) {
    int n = n_running_ + 1;
    for (int slot = 0; slot < (int) entries_.size(); slot++) {
        n += slot != but && entries_[slot].use == Use::kept && kv_.window(slot).high > 0;
    }
    for (; n > max_running_; n--) {
        const int slot = oldest(true, but);
        if (slot < 0) {
            return;
        }
        save(slot, kv_.window(slot).high);
        kv_.drop_window(slot);
    }
}

// Nothing is lost where there is no memory for it.
std::vector<int> PrefixCache::stops(int n_prompt, int n_cached, const std::vector<int> & branches) const try {
    std::set<int> stops;
    if (kv_.has_windows() && most_bytes_ > 0 && kv_.saved_range(n_prompt).low == 0) {
        stops.insert(n_prompt);  // where nothing has left the window its end serves every beginning
    } else if (kv_.has_windows() && most_bytes_ > 0) {
        for (int branch : branches) {
            stops.insert(whole_pages(std::min(branch, n_prompt - 1)));
        }
        for (int stop = kSpacing; stop < n_prompt; stop += kSpacing) {
            stops.insert(stop);
        }
    }
    return { stops.upper_bound(n_cached), stops.end() };
} catch (const std::bad_alloc &) {
    return {};
}

// Nothing is lost where there is no memory for it.
void PrefixCache::save(int slot, int n) {
    Entry & entry = entries_[slot];
    entry.n_valid = std::max(entry.n_valid, n);
    if (!kv_.has_windows() || most_bytes_ == 0) {
        return;
    }
    try {
        entry.windows.push_back(std::make_shared<Window>(kv_.saved_range(n), kv_.save_window(slot), ++clock_, bytes_));
    } catch (const std::bad_alloc &) {
        return;
    }
    trim();
}

void PrefixCache::keep(int slot, std::vector<int32_t> tokens) {
    Entry & entry = entries_[slot];
    n_running_--;
    entry.use = tokens.empty() ? Use::empty : Use::kept;
    entry.n_valid = (int) tokens.size();
    entry.tokens = std::move(tokens);
    entry.used = ++clock_;
    cut_windows(entry, entry.n_valid);
    if (entry.use == Use::empty) {
        clear(slot);
    }
}

void PrefixCache::forget() {
    for (Entry & entry : entries_) {
        if (entry.use == Use::running) {
            entry.n_valid = 0;
            entry.windows.clear();
        } else {
            entry = {};
        }
    }
}

bool PrefixCache::evict() {
    const int slot = oldest(false, -1);
    if (slot >= 0) {
        clear(slot);
    }
    return slot >= 0;
}

void PrefixCache::clear(int slot) {
    kv_.truncate(slot, 0);
    entries_[slot] = {};
}

// The kept slot that was used longest ago; -1: none.
int PrefixCache::oldest(bool with_window, int but) const {
    int oldest = -1;
    for (int slot = 0; slot < (int) entries_.size(); slot++) {
        if (entries_[slot].use == Use::kept && slot != but && (!with_window || kv_.window(slot).high > 0) &&
            (oldest < 0 || entries_[slot].used < entries_[oldest].used)) {
            oldest = slot;
        }
    }
    return oldest;
}

// Gives up the windows that were used longest ago.
void PrefixCache::trim() {
    while (bytes() > most_bytes_) {
        const Window * oldest = nullptr;
        for (const Entry & entry : entries_) {
            for (const SharedWindow & window : entry.windows) {
                oldest = oldest == nullptr || window->used < oldest->used ? window.get() : oldest;
            }
        }
        for (Entry & entry : entries_) {
            entry.windows.erase(std::remove_if(entry.windows.begin(), entry.windows.end(),
                                               [&](const SharedWindow & w) { return w.get() == oldest; }),
                                entry.windows.end());
        }
    }
}

std::vector<SavedPrefix> PrefixCache::saved() const {
    std::vector<int> slots;
    for (int slot = 0; slot < (int) entries_.size(); slot++) {
        if (entries_[slot].use == Use::kept) {
            slots.push_back(slot);
        }
    }
    std::sort(slots.begin(), slots.end(), [&](int a, int b) { return entries_[a].used > entries_[b].used; });
    std::vector<SavedPrefix> prefixes;
    for (int slot : slots) {
        SavedPrefix & prefix = prefixes.emplace_back();
        prefix.tokens = entries_[slot].tokens;
        prefix.full = kv_.save_full(slot);
        for (const SharedWindow & window : entries_[slot].windows) {
            prefix.windows.push_back({ window->range.low, window->range.high, window->bytes });
        }
        const WindowRange own = kv_.window(slot);
        const WindowRange range = kv_.saved_range(own.high);
        if (own.high > 0 && own.low <= range.low) {
            prefix.windows.push_back({ range.low, range.high, kv_.save_window(slot) });
        }
    }
    return prefixes;
}

int PrefixCache::restore(const std::vector<SavedPrefix> & prefixes, int reserved) {
    for (const SavedPrefix & prefix : prefixes) {
        for (const SavedWindow & window : prefix.windows) {
            if (!kv_.is_window(window.bytes, { window.low, window.high })) {
                throw Error(Status::model_load, "the saved state does not describe a window of this cache");
            }
        }
    }
    int n = 0;
    const uint64_t before = clock_;
    for (const SavedPrefix & prefix : prefixes) {
        const int needed = pages_of((int) prefix.tokens.size());
        for (int kept = oldest(false, -1);
             kept >= 0 && entries_[kept].used <= before && kv_.free_pages() < reserved + needed;
             kept = oldest(false, -1)) {
            clear(kept);
        }
        const int slot =
            kv_.free_pages() < reserved + needed || n + n_running_ == (int) entries_.size() ? -1 : empty_slot(-1);
        if (slot < 0) {
            break;
        }
        if (!kv_.restore_full(slot, prefix.full, (int) prefix.tokens.size())) {
            throw Error(Status::model_load, "the saved state does not fit this cache");
        }
        Entry & entry = entries_[slot];
        entry.use = Use::kept;
        entry.tokens = prefix.tokens;
        entry.n_valid = (int) prefix.tokens.size();
        entry.used = ++clock_;
        for (const SavedWindow & window : prefix.windows) {
            entry.windows.push_back(
                std::make_shared<Window>(WindowRange{ window.low, window.high }, window.bytes, clock_, bytes_));
        }
        n++;
    }
    trim();
    return n;
}

}  // namespace pmtp
