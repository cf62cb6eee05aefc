// A llama.cpp context with one sequence: evaluation, roll-back, prefix reuse, abort.
#pragma once

#include "base/error.h"
#include "engine/output_rows.h"
#include "engine/threads.h"

#include "llama.h"

#include <atomic>
#include <memory>
#include <vector>

class llama_kv_cache;

namespace pmtp {

constexpr int kMaxOutputs = 32;  // rows of logits that one batch may ask for

class Session {
  public:
    // n_ctx 0: as trained. Throws Error(out_of_memory) if the context cannot be made.
    Session(llama_model * model, const llama_context_params & params, bool needs_states);
    Session(const Session &) = delete;
    Session & operator=(const Session &) = delete;

    // Appends n tokens to the sequence, in batches of n_batch or less; the last n_outputs of them (at most kMaxOutputs,
    // all within the last batch) get rows of output and states. Returns false if it was aborted: tokens() then says how
    // far it came.
    bool evaluate(const int32_t * tokens, int n, int n_outputs, const Wanted & wanted);

    // Whether the target's logits are on a device that finds the tokens that can be chosen.
    bool finds_candidates() const;

    TargetRow output(int row);           // of the last evaluation
    const float * state(int row) const;  // f32[n_embd], after the final norm

    // Forgets all but the first n tokens. If the model's memory cannot do that, forgets everything.
    void truncate(int n);

    // Keeps the longest usable common prefix of the sequence and the prompt, leaving at least one prompt token to
    // evaluate. Returns its length.
    int reuse_prefix(const int32_t * prompt, int n_prompt);

    const std::vector<int32_t> & tokens() const { return tokens_; }  // whose K/V the cache holds
    llama_context * context() const { return context_.get(); }
    int n_ctx() const { return n_ctx_; }
    int n_batch() const { return n_batch_; }

    std::atomic<bool> abort{ false };  // ends a running evaluation at the next graph node (CPU) or batch

  private:
    void forget();
    bool window_intact(int n) const;

    std::unique_ptr<llama_context, void (*)(llama_context *)> context_;
    OutputRows rows_;
    Threads threads_;
    llama_batch batch_{};  // points into batch_memory_
    struct BatchMemory {
        std::vector<llama_token> token;
        std::vector<llama_pos> pos;
        std::vector<int32_t> n_seq_id;
        llama_seq_id sequence = 0;
        std::vector<llama_seq_id *> seq_id;
        std::vector<int8_t> logits;
    } batch_memory_;
    std::vector<int32_t> tokens_;
    int n_ctx_;
    int n_batch_;
    int n_vocab_;
    int first_output_ = 0;  // index in the last batch of output row 0
};

}  // namespace pmtp
