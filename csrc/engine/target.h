// The target's llama.cpp context and its threads: the only caller of llama_decode.
#pragma once

#include "engine/batch.h"
#include "engine/output_rows.h"
#include "engine/threads.h"

#include "llama.h"

#include <functional>
#include <memory>

namespace pmtp {

class Target {
  public:
    // given_up: asked now and then while something is evaluated, on the evaluating thread; true ends it. Throws
    // Error(out_of_memory) if the context cannot be made.
    Target(llama_model * model, const llama_context_params & params, std::function<bool()> given_up);
    Target(const Target &) = delete;
    Target & operator=(const Target &) = delete;

    // From now on rows of output have states too.
    void give_states();

    // Evaluates the batch, of at most n_batch rows. What a device does of it is done after wait(), before which no
    // other one may be queued. Returns false, with nothing done, if it was given up. Throws Error or std::bad_alloc:
    // which of the batch's rows the cache holds is not known then.
    bool queue(const Batch & batch, const Wanted & wanted);

    // Waits for all that was queued on the context's backends.
    void wait() { llama_synchronize(context_.get()); }

    // queue() and wait().
    bool evaluate(const Batch & batch, const Wanted & wanted);

    // Of the last evaluation, by number of output.
    TargetRow row(int output);
    const float * state(int output) const;  // f32[n_embd], after the final norm

    // Whether rows may have tokens that the backend has and the host has not: they are looked up on its device.
    bool looks_up_on(ggml_backend_t backend) const;

    // Whether queue() leaves all work to a device, the looking up of tokens too.
    bool is_on_device() const { return tables_device_ != nullptr; }

    // Whether the logits are on a device that finds the tokens that can be chosen.
    bool finds_candidates() const;

    llama_context * context() const { return context_.get(); }

  private:
    void find_tables();
    int decode(const Batch & batch, const Wanted & wanted);

    std::function<bool()> given_up_;
    std::unique_ptr<llama_context, void (*)(llama_context *)> context_;
    OutputRows rows_;
    Threads threads_;
    std::vector<int> batch_rows_;                 // of the outputs
    std::vector<const ggml_tensor *> tables_;     // that tokens are looked up in
    ggml_backend_dev_t tables_device_ = nullptr;  // where all of them are, if tokens can be placed there
};

}  // namespace pmtp
