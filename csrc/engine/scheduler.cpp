#include "engine/scheduler.h"

#include <algorithm>
#include <utility>

namespace pmtp {

Scheduler::Scheduler(int max_running, int n_rows, int n_outputs, int n_prompt, int shared_chunk, int most_drafts,
                     bool on_device)
    : max_running_(max_running),
      n_rows_(n_rows),
      n_outputs_(n_outputs),
      n_prompt_(n_prompt),
      shared_chunk_(std::min(n_prompt, shared_chunk)),
      most_drafts_(most_drafts),
      planner_(on_device) {
    running_.reserve(max_running);
}

void Scheduler::add(SharedSequence sequence) {
    const std::lock_guard lock(mutex_);
    waiting_.push_back(std::move(sequence));
}

// Cells are reserved for all that a sequence may come to need, so that nothing that runs is ever lost. What is kept of
// ended ones gives way.
void Scheduler::admit(KvCache & kv, PrefixCache & prefixes, DraftHistory * history, int n_ahead) {
    const std::lock_guard lock(mutex_);
    while (!waiting_.empty() && (int) running_.size() < max_running_ && prefixes.has_slot()) {
        const Pages of_others = pages();
        const int needed = pages_of(waiting_.front()->n_most());
        if (of_others.reserved + needed > kv.n_pages() && !running_.empty()) {
            return;
        }
        SharedSequence sequence = waiting_.front();
        const Place place = prefixes.take(sequence->prompt(), /*anew*/ sequence->reports_prompt());
        const int cached = pages_of(place.n_cached);
        while (kv.free_pages() + n_ahead + cached < of_others.to_come + needed && prefixes.evict()) {
        }
        sequence->begin(place.slot, place.n_cached, needed, history);
        sequence->set_stops(prefixes.stops((int) sequence->prompt().size(), place.n_cached, sequence->branches()));
        running_.push_back(std::move(sequence));
        waiting_.pop_front();
    }
}

Scheduler::Pages Scheduler::pages() const {
    Pages all = { 0, 0 };
    for (const SharedSequence & s : running_) {
        all.reserved += s->n_reserved();
        all.to_come += s->n_reserved() - pages_of(s->n_cached());
    }
    return all;
}

Plan Scheduler::plan() {
    Plan plan;
    for (const SharedSequence & s : running_) {
        if (!s->in_prompt() && s->finish() == Finish::none) {
            plan.turns.push_back({ s.get() });
        }
    }
    plan.n_decoding = (int) plan.turns.size();
    plan_drafts(plan);
    int left = std::max(1, std::min(n_rows_ - plan.n_rows, plan.n_decoding > 0 ? shared_chunk_ : n_prompt_));
    int outputs = n_outputs_ - plan.n_rows - ((int) running_.size() - plan.n_decoding);  // beside one for each prompt
    for (const SharedSequence & s : running_) {
        if (s->in_prompt() && left > 0) {
            int n = std::min({ left, s->prompt_left(), s->next_stop() - s->n_cached() });
            if (s->reports_prompt()) {
                n = std::min(n, 1 + std::max(0, outputs));
                outputs -= n - 1;
            }
            plan.turns.push_back({ s.get(), n });
            plan.n_rows += n;
            left -= n;
        }
    }
    return plan;
}

bool Scheduler::has_rounds_only() {
    int n_left = max_running_;
    for (const SharedSequence & s : running_) {
        n_left -= s->finish() == Finish::none;
        if (s->in_prompt()) {
            return false;
        }
    }
    return n_left == 0 || n_waiting() == 0;
}

void Scheduler::plan_drafts(Plan & plan) {
    asks_.clear();
    plan.n_rows = plan.n_decoding;
    for (Turn & turn : plan.turns) {
        Sequence & s = *turn.sequence;
        const int most = std::min(s.most_drafts(), most_drafts_);
        if (plan.n_decoding > 1 && s.lets_clock_decide()) {
            asks_.push_back({ &s.rates(), most });
        } else {
            turn.k = s.draft_length().next(most);
            plan.n_rows += turn.k;
            plan.longest = std::max(plan.longest, turn.k);
        }
    }
    if (asks_.empty()) {
        return;
    }
    planner_.plan(asks_, plan.n_decoding - (int) asks_.size(), plan.n_rows, plan.longest, n_rows_ - 1);
    size_t ask = 0;
    for (Turn & turn : plan.turns) {
        if (turn.sequence->lets_clock_decide()) {
            turn.k = asks_[ask++].k;
            plan.n_rows += turn.k;
            plan.longest = std::max(plan.longest, turn.k);
        }
    }
}

void Scheduler::learn(const Plan & plan, const Burst * bursts, const StepSeconds & seconds) {
    if (plan.n_decoding == 0) {
        return;
    }
    const bool alone = (int) plan.turns.size() == plan.n_decoding;  // prompts make the times those of another batch
    if (plan.n_decoding == 1) {
        const bool tells = alone && !plan.turns[0].sequence->was_cut();
        plan.turns[0].sequence->draft_length().observe(bursts[0].n_drafted, bursts[0].n_accepted,
                                                       tells ? seconds.round : 0);
    } else {
        for (int i = 0; i < plan.n_decoding; i++) {
            if (!plan.turns[i].sequence->lets_clock_decide()) {
                plan.turns[i].sequence->draft_length().observe(bursts[i].n_drafted, bursts[i].n_accepted, 0);
            }
        }
    }
    if (alone && seconds.round > 0) {
        planner_.observe(plan.n_rows, plan.longest, seconds.round + seconds.sample);
    }
}

std::vector<SharedSequence> Scheduler::take_waiting(size_t n, const std::function<bool(const Sequence &)> & leaves) {
    const std::lock_guard lock(mutex_);
    const auto end = waiting_.begin() + (long) n;
    const auto first =
        std::stable_partition(waiting_.begin(), end, [&](const SharedSequence & s) { return !leaves(*s); });
    std::vector<SharedSequence> taken(std::make_move_iterator(first), std::make_move_iterator(end));
    waiting_.erase(first, end);
    return taken;
}

size_t Scheduler::n_waiting() {
    const std::lock_guard lock(mutex_);
    return waiting_.size();
}

}  // namespace pmtp
