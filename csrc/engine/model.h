// A target, its MTP head and the session they share.
#pragma once

#include "drafters/draft_length.h"
#include "drafters/drafter.h"
#include "drafters/gemma4/mtp_head.h"
#include "engine/session.h"
#include "engine/tokenize.h"
#include "pyllama_mtp.h"

#include "llama.h"

#include <atomic>
#include <memory>
#include <string>
#include <vector>

namespace pmtp {

class Model {
  public:
    // head_path may be nullptr. Throws Error.
    Model(const std::string & target_path, const char * head_path, const pmtp_model_params & params);
    Model(const Model &) = delete;
    Model & operator=(const Model &) = delete;

    pmtp_model_info info() const;
    const char * metadata(const std::string & key) const;  // of the target; nullptr if there is no such string
    const std::string & placement() const { return placement_; }
    // Why a row's bits depend on its batch; empty if they do not.
    const std::string & batch_dependence() const { return batch_dependence_; }

    const llama_vocab * vocab() const { return llama_model_get_vocab(target_.get()); }
    int n_vocab() const { return llama_vocab_n_tokens(vocab()); }
    const std::vector<int32_t> & end_tokens() const { return end_tokens_; }
    Session & session() { return *session_; }
    Drafter * drafter() { return drafter_.get(); }  // nullptr without a head
    DraftHistory & draft_history() { return draft_history_; }

    const TextLimits & text_limits() const { return text_limits_; }

    std::atomic<bool> busy{ false };  // a generation lives

  private:
    void load_head(const char * path, const Watch & watch);
    void describe_placement();

    std::unique_ptr<llama_model, void (*)(llama_model *)> target_;
    std::unique_ptr<Session> session_;
    std::unique_ptr<MtpHead> head_;
    std::unique_ptr<Drafter> drafter_;
    DraftHistory draft_history_;
    std::vector<int32_t> end_tokens_;
    std::vector<std::pair<std::string, std::string>> metadata_;
    TextLimits text_limits_;
    std::string placement_;
    std::string batch_dependence_;
    int n_threads_;
};

}  // namespace pmtp
