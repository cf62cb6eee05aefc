// The engine's rounds: drafts, and the rows that verify them. Where the target looks tokens up on the device that
// drafts, the host queues both one behind the other there, and sees what came of them at once. And where a device
// computes, the next step's rounds are queued before this one's tokens are handed out.
#include "engine/engine.h"
#include "engine/timer.h"
#include "llama/hooks/reserve.h"

#include <algorithm>
#include <exception>
#include <new>
#include <utility>

namespace pmtp {

namespace {

// A wait so short tells that the device had finished before, nobody knows when. To wait for nothing takes the driver
// some 10 us, and more where the thread has to be woken.
constexpr double kNoWait = 50e-6;

double seconds_since(Timer::Clock::time_point begin) {
    return std::chrono::duration<double>(Timer::Clock::now() - begin).count();
}

}  // namespace

// Queues the step: its drafts, and the rows of all turns. Returns false if it was given up.
bool Engine::begin(Plan & plan) {
    begun_ = Timer::Clock::now();
    if (!draft(plan)) {
        return false;
    }
    constrain(plan);
    return verify(plan);
}

bool Engine::draft(Plan & plan) {
    const Timer timer(seconds_.draft);
    drafting_.clear();
    must_wait_ = false;
    for (const Turn & turn : plan.turns) {
        if (turn.n_prompt == 0) {
            drafting_.push_back(turn.sequence->draft_turn(turn.k));
            drafting_.back().drafts->clear();
            if (turn.k == 0) {
                drafting_.pop_back();
            }
        }
    }
    if (drafting_.empty()) {
        return true;
    }
    if (!drafter_->begin(drafting_)) {
        return false;
    }
    must_wait_ = must_see_drafts(plan);
    if (must_wait_) {
        target_.wait();
        see_drafts();
        return true;
    }
    auto drafting = drafting_.begin();
    for (Turn & turn : plan.turns) {
        if (turn.k > 0) {
            turn.unseen = (drafting++)->place;
        }
    }
    return true;
}

// Whether the host has to see what is drafted before it is verified, and so to wait for it: where it looks the tokens
// up, and where a grammar may refuse some.
bool Engine::must_see_drafts(const Plan & plan) const {
    const auto on_host = [&](const DraftTurn & turn) {
        return turn.place.tokens == nullptr || !target_.looks_up_on(turn.place.backend);
    };
    const auto restricted = [](const Turn & turn) { return turn.k > 0 && turn.sequence->is_restricted(); };
    return std::any_of(drafting_.begin(), drafting_.end(), on_host) ||
           std::any_of(plan.turns.begin(), plan.turns.end(), restricted);
}

void Engine::see_drafts() {
    if (!drafting_.empty()) {
        drafter_->finish(drafting_);
        drafting_.clear();
    }
}

bool Engine::verify(Plan & plan) {
    const Timer timer(seconds_.verify);
    batch_.clear();
    for (Turn & turn : plan.turns) {
        turn.sequence->put(batch_, turn);
    }
    return target_.queue(batch_, wanted(plan));
}

// Waits for what begin() queued, and sees the drafts.
void Engine::finish(bool was_ahead) {
    const auto before = Timer::Clock::now();
    {
        const Timer timer(seconds_.verify);
        target_.wait();
        see_drafts();
    }
    if (!was_ahead) {
        seconds_.round = seconds_.draft + seconds_.verify;
    } else {
        seconds_.round = seconds_since(before) < kNoWait ? 0 : seconds_since(begun_);
    }
}

// Begins the next step's rounds while the tokens of this one's are handed out, where a device computes, what it has
// done can be taken back, and nothing has to be asked of the host before: neither a grammar nor prompts that could take
// part. A fault is that step's.
void Engine::go_ahead() {
    const std::vector<SharedSequence> & running = scheduler_->running();
    if (!target_.is_on_device() || !kv_.can_truncate() || must_wait_ || !scheduler_->has_rounds_only() ||
        std::any_of(running.begin(), running.end(), [](const SharedSequence & s) { return s->is_restricted(); })) {
        return;
    }
    Ahead ahead{};
    const bool was_timed = seconds_.round > 0;
    seconds_ = {};
    const uint64_t reserve_used = pmtp_reserve_used();
    try {
        const Timer timer(seconds_.all);
        ahead.plan = scheduler_->plan();
        if (!was_timed && ahead.plan.n_decoding == 1 && ahead.plan.turns[0].sequence->draft_length().wants_time()) {
            return;  // the step tells how long it took if it begins by itself
        }
        ahead.given_up = !ahead.plan.turns.empty() && !begin(ahead.plan);
        if (pmtp_reserve_used() != reserve_used) {
            throw std::bad_alloc();
        }
    } catch (...) {
        ahead.fault = std::current_exception();
    }
    if (ahead.plan.turns.empty()) {  // also where memory ran out for it: the next step plans again
        return;
    }
    ahead.seconds = seconds_;
    ahead_ = std::move(ahead);
}

// Takes back what was begun ahead: its sequences are as they were.
void Engine::drop_ahead() {
    if (!ahead_) {
        return;
    }
    target_.wait();
    drafting_.clear();
    in_doubt_ = in_doubt_ || ahead_->fault != nullptr;
    for (const Turn & turn : ahead_->plan.turns) {
        if (!kv_.truncate(turn.sequence->slot(), turn.sequence->n_cached())) {
            turn.sequence->forget_cached();
        }
    }
    ahead_.reset();
}

}  // namespace pmtp
