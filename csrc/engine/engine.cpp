#include "engine/engine.h"

#include "base/calls.h"
#include "base/error.h"
#include "engine/timer.h"
#include "llama/hooks/reserve.h"

#include <algorithm>
#include <exception>
#include <new>
#include <utility>

namespace pmtp {

Engine::Engine(llama_model * model, const EngineParams & params)
    : params_(params),
      n_vocab_(llama_vocab_n_tokens(llama_model_get_vocab(model))),
      target_(model, params.context, [this] { return given_up(); }),
      kv_(*target_.context(), (int) params.context.n_seq_max),
      prefixes_(kv_, params.max_num_seqs, params.prefix_cache_bytes),
      batch_((int) params.context.n_batch) {
    set_drafter(nullptr, RoundCosts());
}

Engine::~Engine() { target_.wait(); }

void Engine::set_drafter(std::unique_ptr<Drafter> drafter, const RoundCosts & first_costs) {
    drafter_ = std::move(drafter);
    history_.costs = first_costs;
    if (drafter_ != nullptr && drafter_->reads_states()) {
        target_.give_states();
    }
    scheduler_ = std::make_unique<Scheduler>(params_.max_num_seqs, (int) params_.context.n_batch,
                                             (int) params_.context.n_outputs_max, params_.n_batch, params_.shared_chunk,
                                             drafter_ != nullptr && kv_.can_truncate() ? kMaxDraft : 0,
                                             /*on_device*/ target_.finds_candidates());
}

SharedSequence Engine::start(std::vector<int32_t> prompt, SequenceParams params, void * owner) {
    const int n_prompt = (int) prompt.size();
    const int most = std::min(params_.n_ctx, n_cells());
    if (n_prompt >= most) {
        throw Error(Status::context_overflow,
                    format("the prompt has %d tokens, the context holds %d and needs room for one more: shorten the "
                           "prompt or load the model with a larger n_ctx",
                           n_prompt, most));
    }
    params.max_tokens = std::min(params.max_tokens, most - n_prompt);
    auto sequence =
        std::make_shared<Sequence>(std::move(prompt), std::move(params), n_vocab_, target_.finds_candidates());
    sequence->owner = owner;
    scheduler_->add(sequence);
    return sequence;
}

void Engine::step(std::vector<Burst> & bursts) {
    const std::lock_guard lock(mutex_);
    sweep(&bursts);
    admit(bursts);
    const size_t n_before = bursts.size();
    bursts.reserve(n_before + params_.max_num_seqs);  // from here on none is lost for want of memory
    std::optional<Ahead> ahead = std::exchange(ahead_, std::nullopt);
    Plan plan = ahead ? std::move(ahead->plan) : scheduler_->plan();
    if (plan.turns.empty()) {
        return;
    }
    seconds_ = ahead ? ahead->seconds : StepSeconds();
    {
        const Timer timer(seconds_.all);
        stepping_ = &plan.turns;
        const uint64_t reserve_used = pmtp_reserve_used();
        try {
            compute(plan, ahead ? &*ahead : nullptr, bursts);
            if (pmtp_reserve_used() != reserve_used) {
                throw std::bad_alloc();
            }
        } catch (const Error & e) {
            fail(plan, e.status, e.what());
        } catch (const std::bad_alloc &) {
            fail(plan, Status::out_of_memory, "out of memory");
        } catch (const std::exception & e) {
            fail(plan, Status::internal, e.what());
        }
        stepping_ = nullptr;
    }
    bursts.resize(n_before + plan.turns.size());
    for (size_t i = 0; i < plan.turns.size(); i++) {
        Sequence & s = *plan.turns[i].sequence;
        bursts[n_before + i].sequence = s.shared_from_this();
        bursts[n_before + i].finish = s.finish();
        s.record(plan.turns[i], bursts[n_before + i], seconds_);
        s.publish();
    }
    go_ahead();
}

// The draft/verify loop: one round of every sequence that decodes, and parts of the prompts of others. ahead: what was
// begun with the step before, or nullptr.
void Engine::compute(Plan & plan, const Ahead * ahead, std::vector<Burst> & bursts) {
    const size_t first = bursts.size();
    for (const Turn & turn : plan.turns) {
        turn.sequence->clear_reports();
    }
    if (ahead != nullptr && ahead->fault != nullptr) {
        std::rethrow_exception(ahead->fault);
    }
    if (ahead != nullptr ? ahead->given_up : !begin(plan)) {  // all of them were cancelled
        target_.wait();
        for (const Turn & turn : plan.turns) {
            turn.sequence->end(Finish::cancelled);
        }
        return;
    }
    finish(ahead != nullptr);
    accept(plan, bursts);
    scheduler_->learn(plan, &bursts[first], seconds_);
}

// A grammar that fails ends its own sequence, whose rows are evaluated in vain.
void Engine::constrain(Plan & plan) {
    const Timer timer(seconds_.sample);
    for (const Turn & turn : plan.turns) {
        Sequence & s = *turn.sequence;
        if (turn.n_prompt > 0 && turn.n_prompt < s.prompt_left()) {
            continue;
        }
        try {
            s.constrain();
        } catch (const Error & e) {
            s.fail(e.status, e.what());
        } catch (const std::bad_alloc &) {
            s.fail(Status::out_of_memory, "out of memory");
        }
    }
}

// A fault of one sequence ends that one alone.
void Engine::accept(Plan & plan, std::vector<Burst> & bursts) {
    const bool keeps_state = drafter_ != nullptr && drafter_->reads_states();
    const Timer timer(seconds_.sample);
    for (const Turn & turn : plan.turns) {
        Burst & burst = bursts.emplace_back();
        Sequence & s = *turn.sequence;
        try {
            if (s.finish() != Finish::failed) {
                s.accept(target_, turn, keeps_state, burst);
            }
        } catch (const Error & e) {
            s.fail(e.status, e.what());
        } catch (const std::bad_alloc &) {
            s.fail(Status::out_of_memory, "out of memory");
        }
        const bool has_more =
            (turn.n_prompt == 0 && turn.n_outputs > 1) || s.finish() == Finish::failed;  // the cache, than was accepted
        if (has_more && !kv_.truncate(s.slot(), s.n_cached())) {
            s.forget_cached();
        }
        if (turn.n_prompt > 0 && s.n_cached() == s.next_stop()) {
            prefixes_.save(s.slot(), s.n_cached());
            s.pass_stop();
        }
    }
}

// An exception from within llama.cpp may have left cells without a slot, and slots without a cell: only all of them
// together can be cleared.
void Engine::fail(const Plan & plan, Status status, const char * message) {
    target_.wait();  // for what was queued
    for (const Turn & turn : plan.turns) {
        turn.sequence->fail(status, message);
    }
    lose_cache();
}

// Sequences that are in their prompts begin it anew.
void Engine::lose_cache() {
    kv_.clear();
    in_doubt_ = false;
    prefixes_.forget();
    for (const SharedSequence & s : scheduler_->running()) {
        s->forget_cached();
    }
}

// Pages that rows of the step begun ahead have taken.
int Engine::pages_ahead() const {
    int n = 0;
    if (ahead_ && !ahead_->given_up && ahead_->fault == nullptr) {
        for (const Turn & turn : ahead_->plan.turns) {
            const int n_cached = turn.sequence->n_cached();
            n += pages_of(n_cached + turn.n_outputs) - pages_of(n_cached);
        }
    }
    return n;
}

// Where there is no memory for this, the sequences that run end with their cells; those that wait go on waiting.
void Engine::admit(std::vector<Burst> & bursts) {
    try {
        scheduler_->admit(kv_, prefixes_, drafter_ != nullptr ? &history_ : nullptr, pages_ahead());
    } catch (const std::bad_alloc &) {
        drop_ahead();
        for (const SharedSequence & s : scheduler_->running()) {
            s->fail(Status::out_of_memory, "out of memory");
            s->publish();
            bursts.emplace_back().sequence = s;
            bursts.back().finish = Finish::failed;
        }
        lose_cache();
        if (scheduler_->running().empty()) {
            throw;
        }
        sweep(nullptr);
    }
}

// What is enough for all rows: where they differ, everything is.
Wanted Engine::wanted(const Plan & plan) const {
    Wanted all;
    bool first = true;
    for (const Turn & turn : plan.turns) {
        if (turn.n_outputs == 0) {
            continue;
        }
        if (turn.sequence->finish() == Finish::failed) {  // has no masks
            return {};
        }
        if (first) {
            all = turn.sequence->wanted(turn);
            first = false;
        } else {
            all.add(turn.sequence->wanted(turn));
        }
    }
    return all;
}

// Takes back the slots of what has ended or was left, and ends what was cancelled, with a burst; without bursts, what
// was cancelled waits for the next step, to tell. Where memory runs out nothing is lost.
void Engine::sweep(std::vector<Burst> * bursts) {
    const auto leaves = [&](const Sequence & s) {
        return s.left() || (bursts != nullptr && (s.cancelled() || ending()));
    };
    const auto end = [&](Sequence & s) {
        if (s.finish() != Finish::none) {
            return;
        }
        s.end(Finish::cancelled);
        s.publish();
        if (bursts != nullptr) {
            bursts->emplace_back().sequence = s.shared_from_this();
            bursts->back().finish = Finish::cancelled;
        }
    };
    std::vector<SharedSequence> & running = scheduler_->running();
    const size_t n_waiting = scheduler_->n_waiting();
    if (bursts != nullptr) {
        bursts->reserve(bursts->size() + n_waiting + params_.max_num_seqs);
    }
    for (const SharedSequence & s : scheduler_->take_waiting(n_waiting, leaves)) {
        end(*s);
    }
    for (SharedSequence & s : running) {
        if (s->finish() == Finish::none && leaves(*s)) {  // asked once: another thread may cancel it meanwhile
            drop_ahead();
            end(*s);
        }
        if (s->finish() != Finish::none) {
            give_back_slot(*s);
        }
    }
    running.erase(
        std::remove_if(running.begin(), running.end(), [](const SharedSequence & s) { return s->slot() < 0; }),
        running.end());
    if (in_doubt_ && running.empty()) {
        lose_cache();
    }
}

// What cannot be remembered for want of memory is forgotten.
void Engine::give_back_slot(Sequence & sequence) {
    std::vector<int32_t> tokens;
    try {
        tokens = sequence.cached_tokens();
    } catch (const std::bad_alloc &) {
        kv_.truncate(sequence.slot(), 0);
    }
    prefixes_.keep(sequence.slot(), std::move(tokens));
    sequence.release();
}

void Engine::sweep_unless_stepping() noexcept {
    const std::unique_lock lock(mutex_, std::try_to_lock);
    if (lock.owns_lock()) {
        try {
            sweep(nullptr);
        } catch (const std::bad_alloc &) {  // the next step does it
        }
    }
}

void Engine::truncate(Sequence & sequence, int n) {
    const std::lock_guard lock(mutex_);
    drop_ahead();
    sequence.truncate(n);
    sequence.leave();
    if (sequence.slot() >= 0 && !kv_.truncate(sequence.slot(), sequence.n_cached())) {
        sequence.forget_cached();
    }
}

bool Engine::given_up() const {
    if (stop_ != nullptr) {
        return (*stop_)();
    }
    return stepping_ != nullptr && std::all_of(stepping_->begin(), stepping_->end(),
                                               [](const Turn & turn) { return turn.sequence->cancelled(); });
}

void Engine::logits(const int32_t * tokens, int n_tokens, int n_batch, float * out,
                    const std::function<bool()> & stop) {
    if (n_tokens > params_.n_ctx) {
        throw Error(Status::context_overflow, format("%d tokens, the context holds %d", n_tokens, params_.n_ctx));
    }
    const std::lock_guard lock(mutex_);
    sweep(nullptr);
    const int needed = pages_of(n_tokens);
    const Scheduler::Pages of_others = scheduler_->pages();
    if (!prefixes_.has_slot() || of_others.reserved + needed > kv_.n_pages()) {
        throw Error(Status::busy, "the sequences that run leave no room: try again when one has ended");
    }
    drop_ahead();
    const int slot = prefixes_.take({}).slot;
    while (kv_.free_pages() < of_others.to_come + needed && prefixes_.evict()) {
    }
    struct Guard {
        Engine & engine;
        int slot;
        ~Guard() {
            engine.stop_ = nullptr;
            engine.in_doubt_ = engine.in_doubt_ || std::uncaught_exceptions() > 0;
            engine.kv_.truncate(slot, 0);
            engine.prefixes_.keep(slot, {});
        }
    } guard{ *this, slot };
    stop_ = &stop;
    for (int done = 0; done < n_tokens; done += n_batch) {
        const int n = std::min(n_batch, n_tokens - done);
        batch_.clear();
        for (int i = done; i < done + n; i++) {
            batch_.add(tokens[i], i, slot, /*output*/ true);
        }
        if (stop() || !target_.evaluate(batch_, {})) {
            throw Error(Status::cancelled, "the call was stopped");
        }
        for (int i = 0; i < n; i++) {
            std::copy_n(target_.row(i).logits, n_vocab_, out + (size_t) (done + i) * n_vocab_);
        }
    }
}

Usage Engine::usage() {
    const std::lock_guard lock(mutex_);
    return { (int) scheduler_->running().size(), (int) scheduler_->n_waiting(),
             (kv_.n_pages() - kv_.free_pages()) * kPageCells, prefixes_.bytes() };
}

void Engine::save_state(const std::string & path) {
    const std::lock_guard lock(mutex_);
    drop_ahead();
    sweep(nullptr);
    require_cells();
    write_state_file(path, kv_.fingerprint(), prefixes_.saved());
}

int Engine::load_state(const std::string & path) {
    const std::lock_guard lock(mutex_);
    drop_ahead();
    sweep(nullptr);
    require_cells();
    return prefixes_.restore(read_state_file(path, kv_.fingerprint(), n_cells(), n_vocab_),
                             scheduler_->pages().to_come);
}

void Engine::require_cells() const {
    if (!kv_.can_truncate()) {
        throw Error(Status::invalid_argument, "the state of this architecture cannot be saved: it is recurrent");
    }
}

}  // namespace pmtp
