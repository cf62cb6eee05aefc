// Texts whose K/V is still in the cache, for prompts that begin alike: ended sequences, and the prompts of running
// ones.
//
// A later prompt goes on in the slot of an ended text, or shares whole pages of a text that may be wanted again. Where
// it goes back further than the sliding layers' window reaches, a window that was saved on the way is restored.
#pragma once

#include "engine/kv_cache.h"
#include "engine/state_file.h"

#include <cstdint>
#include <memory>
#include <utility>
#include <vector>

namespace pmtp {

// A slot that a sequence has got, and how many tokens of its prompt are in it already.
struct Place {
    int slot;
    int n_cached;
};

class PrefixCache {
  public:
    // max_running: sequences at a time; of so many slots the sliding layers have room for windows. most_bytes: of saved
    // windows.
    PrefixCache(KvCache & kv, int max_running, size_t most_bytes);

    bool has_slot() const { return n_running_ < max_running_; }

    // A slot for the prompt, with its longest usable beginning, which leaves at least one token to evaluate, or anew:
    // with nothing of it. has_slot() must hold.
    Place take(const std::vector<int32_t> & prompt, bool anew = false);

    // Where in the prompt, behind n_cached, the window is to be saved: at the ends of pages below the places where
    // other prompts may branch off, and every so often.
    std::vector<int> stops(int n_prompt, int n_cached, const std::vector<int> & branches) const;

    // Saves the window of a running slot that has come to position n of its prompt.
    void save(int slot, int n);

    // Gives a slot back with the tokens that it holds.
    void keep(int slot, std::vector<int32_t> tokens);

    // The cache was cleared: nothing is kept, and of running slots nothing is evaluated.
    void forget();

    // Gives up what was used longest ago. Returns false if nothing is kept.
    bool evict();

    size_t bytes() const { return bytes_; }  // of saved windows

    // What is kept, the latest used first.
    std::vector<SavedPrefix> saved() const;

    // Keeps saved prefixes besides, or the first of them for which there is room beside running sequences, which may
    // come to need `reserved` pages. Returns how many. Throws Error(invalid_argument) if one does not fit this cache.
    int restore(const std::vector<SavedPrefix> & prefixes, int reserved);

  private:
    struct Window {
        Window(WindowRange range, std::vector<uint8_t> bytes, uint64_t used, size_t & total)
            : range(range),
              bytes(std::move(bytes)),
              used(used),
              total(total) {
            total += this->bytes.size();
        }
        Window(const Window &) = delete;
        ~Window() { total -= bytes.size(); }

        WindowRange range;
        std::vector<uint8_t> bytes;
        uint64_t used;
        size_t & total;
    };
    using SharedWindow = std::shared_ptr<Window>;

    enum class Use { empty, kept, running };

    struct Entry {
        Use use = Use::empty;
        std::vector<int32_t> tokens;  // of a running slot: the prompt
        int n_valid = 0;              // of them that are evaluated
        uint64_t used = 0;            // when; a larger number is later
        std::vector<SharedWindow> windows;
    };

    // How a prompt can begin with an entry's text.
    struct Match {
        int slot = -1;
        int in_place = 0;     // tokens, going on in the slot with the window that it has
        int shared = 0;       // tokens in whole pages, for a slot of its own
        SharedWindow window;  // that this takes; nullptr: the slot's own
        int lost = 0;         // tokens of the entry behind the common beginning
    };

    Match match(int slot, const std::vector<int32_t> & prompt) const;
    int empty_slot(int but);
    bool share(const Match & with, int slot);
    Place begin(int slot, int n_cached, std::vector<int32_t> tokens);
    void make_room_for_window(int but);
    static void cut_windows(Entry & entry, int n);
    void clear(int slot);
    void trim();
    int oldest(bool with_window, int but) const;

    KvCache & kv_;
    const int max_running_;
    const size_t most_bytes_;
    size_t bytes_ = 0;
    std::vector<Entry> entries_;  // of each slot
    int n_running_ = 0;
    uint64_t clock_ = 0;
};

}  // namespace pmtp
