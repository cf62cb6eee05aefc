// The engine: sequences that share a target, its KV cache and a drafter, step by step.
#pragma once

#include "drafters/drafter.h"
#include "engine/batch.h"
#include "engine/kv_cache.h"
#include "engine/prefix_cache.h"
#include "engine/scheduler.h"
#include "engine/target.h"
#include "engine/timer.h"

#include <exception>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <vector>

namespace pmtp {

struct EngineParams {
    llama_context_params context;
    int n_ctx = 0;  // most tokens of a sequence
    int max_num_seqs = 1;
    int n_batch = 0;       // most prompt tokens of a step
    int shared_chunk = 0;  // of them while others decode
    size_t prefix_cache_bytes = 0;
};

// What is in use. n_cells: those of pages that hold a token of a sequence or of a kept text. prefix_bytes: of windows
// that were saved for later prompts.
struct Usage {
    int n_running, n_waiting, n_cells;
    size_t prefix_bytes;
};

class Engine {
  public:
    // The model must outlive the engine. Throws Error.
    Engine(llama_model * model, const EngineParams & params);
    Engine(const Engine &) = delete;
    Engine & operator=(const Engine &) = delete;
    ~Engine();

    // Before the first sequence. first_costs: what is believed of its rounds.
    void set_drafter(std::unique_ptr<Drafter> drafter, const RoundCosts & first_costs);

    // A new sequence, which waits its turn. From any thread. Throws Error(context_overflow) if there will never be
    // room. owner: see Sequence.
    SharedSequence start(std::vector<int32_t> prompt, SequenceParams params, void * owner);

    // Computes one step; adds a burst for every sequence that got something. Faults end sequences; throws
    // std::bad_alloc only where nothing was computed, and the next step does what this one did not.
    void step(std::vector<Burst> & bursts);

    // Ends a sequence with the first n tokens of its completion. Throws Error(invalid_argument).
    void truncate(Sequence & sequence, int n);

    // Frees what sequences that nobody wants any more hold, unless a step runs, which will do it.
    void sweep_unless_stepping() noexcept;

    // The target's logits after each token, float [n_tokens][n_vocab]. stop: ends it. Throws Error(busy) if running
    // sequences leave no room.
    void logits(const int32_t * tokens, int n_tokens, int n_batch, float * out, const std::function<bool()> & stop);

    // Writes what is kept of ended sequences to a file; reads it back beside what is kept, and returns how many texts.
    // Throw Error(model_load), Error(invalid_argument).
    void save_state(const std::string & path);
    int load_state(const std::string & path);

    // As of the last step; waits for one that is under way.
    Usage usage();

    Target & target() { return target_; }
    const Target & target() const { return target_; }
    const Drafter * drafter() const { return drafter_.get(); }
    const EngineParams & params() const { return params_; }
    int n_cells() const { return kv_.n_pages() * kPageCells; }

  private:
    bool given_up() const;
    void require_cells() const;
    void sweep(std::vector<Burst> * bursts);
    struct Ahead;
    void compute(Plan & plan, const Ahead * ahead, std::vector<Burst> & bursts);
    void give_back_slot(Sequence & sequence);
    void constrain(Plan & plan);
    void accept(Plan & plan, std::vector<Burst> & bursts);
    int pages_ahead() const;
    void admit(std::vector<Burst> & bursts);
    void fail(const Plan & plan, Status status, const char * message);
    void lose_cache();
    Wanted wanted(const Plan & plan) const;

    // rounds.cpp
    bool begin(Plan & plan);
    bool draft(Plan & plan);
    bool must_see_drafts(const Plan & plan) const;
    void see_drafts();
    bool verify(Plan & plan);
    void finish(bool was_ahead);
    void go_ahead();
    void drop_ahead();

    const EngineParams params_;
    const int n_vocab_;
    Target target_;
    KvCache kv_;
    PrefixCache prefixes_;
    std::unique_ptr<Drafter> drafter_;
    DraftHistory history_;
    std::unique_ptr<Scheduler> scheduler_;
    bool in_doubt_ = false;  // whether every cell belongs to a slot; found out when nothing runs
    Batch batch_;
    StepSeconds seconds_;
    struct Ahead {
        Plan plan;
        StepSeconds seconds;  // that the host has spent on it
        bool given_up;
        std::exception_ptr fault;  // nullptr: none
    };
    std::optional<Ahead> ahead_;                    // the next step, if it has begun
    Timer::Clock::time_point begun_;                // when the last step did
    bool must_wait_ = false;                        // for drafts, as the last ones did
    std::vector<DraftTurn> drafting_;               // whose drafts have begun, and were not seen yet
    std::mutex mutex_;                              // of a step, and of all that changes the cache
    const std::vector<Turn> * stepping_ = nullptr;  // the turns that are being computed
    const std::function<bool()> * stop_ = nullptr;  // of logits()
};

}  // namespace pmtp
