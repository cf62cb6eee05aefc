// Which sequences run, and what each does in the next step.
#pragma once

#include "drafters/draft_planner.h"
#include "engine/kv_cache.h"
#include "engine/prefix_cache.h"
#include "engine/sequence.h"

#include <deque>
#include <functional>
#include <memory>
#include <mutex>
#include <vector>

namespace pmtp {

struct Plan {
    std::vector<Turn> turns;
    int n_rows = 0;      // if every draft asked for is made
    int longest = 0;     // drafts of a sequence
    int n_decoding = 0;  // turns
};

class Scheduler {
  public:
    // n_rows: of a step; n_outputs: of them such with logits, kMaxDraft + 1 for each running sequence or more.
    // n_prompt: prompt tokens of a step; shared_chunk: of one in which others decode, who wait for them. most_drafts:
    // of the drafter; 0 without one. on_device: see DraftPlanner.
    Scheduler(int max_running, int n_rows, int n_outputs, int n_prompt, int shared_chunk, int most_drafts,
              bool on_device);

    // To wait its turn. From any thread.
    void add(SharedSequence sequence);

    // Lets waiting sequences run, in their order, while there are slots and cells for all that they may come to need.
    // n_ahead: pages that rows begun ahead have taken, of those that what runs may come to need.
    void admit(KvCache & kv, PrefixCache & prefixes, DraftHistory * history, int n_ahead);

    // A turn for every running sequence that decodes, and for prompts as far as there is room. Decoding sequences come
    // first; of a prompt at least one token is evaluated in a step.
    Plan plan();

    // Whether a plan has rounds alone: no sequence is in its prompt, and none of those that wait could run.
    bool has_rounds_only();

    // What a step took, and what came of it: a burst for each turn.
    void learn(const Plan & plan, const Burst * bursts, const StepSeconds & seconds);

    // Takes those of the first n waiting sequences out of the queue that `leaves` is true of.
    std::vector<SharedSequence> take_waiting(size_t n, const std::function<bool(const Sequence &)> & leaves);
    size_t n_waiting();
    std::vector<SharedSequence> & running() { return running_; }

    // Pages of cells that running sequences may come to need, and those of them that they have not taken yet.
    struct Pages {
        int reserved, to_come;
    };
    Pages pages() const;

  private:
    void plan_drafts(Plan & plan);

    const int max_running_, n_rows_, n_outputs_, n_prompt_, shared_chunk_, most_drafts_;
    DraftPlanner planner_;
    std::vector<DraftPlanner::Ask> asks_;
    std::vector<SharedSequence> running_;  // in the order in which they began
    std::mutex mutex_;                     // of what follows
    std::deque<SharedSequence> waiting_;
};

}  // namespace pmtp
