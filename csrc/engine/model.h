// Files to a running engine: a target, its MTP head, vocabulary and metadata.
#pragma once

#include "base/watch.h"
#include "drafters/gemma4/mtp_head.h"
#include "engine/engine.h"
#include "engine/target_weights.h"
#include "engine/tokenize.h"

#include "llama.h"

#include <cstdint>
#include <memory>
#include <string>
#include <utility>
#include <vector>

namespace pmtp {

// By the numbers of pmtp_drafter.
enum class DrafterKind { automatic, none, mtp, ngram };

// Most sequences that are decoded together.
constexpr int kMaxSequences = 64;
// Least n_batch: rows of logits that one call may ask for.
constexpr int kLeastBatch = 32;

// As pmtp_model_params.
struct ModelParams {
    int n_ctx, max_num_seqs, n_cells;
    int64_t prefix_cache_bytes;
    DrafterKind drafter;
    int n_batch, n_threads, n_gpu_layers, flash_attention;
    const char *cache_type_k, *cache_type_v;
    const char *cache_type_k_swa, *cache_type_v_swa;  // or nullptr
    Watch watch;
};

// As pmtp_model_info.
struct ModelInfo {
    int n_vocab, n_ctx, max_num_seqs, n_cells;
    DrafterKind drafter;
    int n_ctx_train, n_embd, n_layer, n_swa, n_threads;
    bool has_head;
    int head_n_centroids, head_top_k;
    bool flash_attention, batch_invariant;
    int token_bos, token_eos;
    bool add_bos;
    int64_t n_params, target_bytes, embedding_bytes, head_bytes, cache_bytes, compute_bytes;
};

class Model {
  public:
    // head_path may be nullptr. Throws Error.
    Model(const std::string & target_path, const char * head_path, const ModelParams & params);
    Model(const Model &) = delete;
    Model & operator=(const Model &) = delete;

    ModelInfo info() const;
    const char * metadata(const std::string & key) const;  // of the target; nullptr if there is no such string
    const std::string & placement() const { return placement_; }
    // Why a row's bits depend on its batch; empty if they do not.
    const std::string & batch_dependence() const { return batch_dependence_; }

    const llama_vocab * vocab() const { return llama_model_get_vocab(target_.get()); }
    int n_vocab() const { return llama_vocab_n_tokens(vocab()); }
    const std::vector<int32_t> & end_tokens() const { return end_tokens_; }
    const TextLimits & text_limits() const { return text_limits_; }
    Engine & engine() const { return *engine_; }

  private:
    void load_head(const char * path, const Watch & watch);
    void set_drafter(DrafterKind kind);
    void describe_placement();

    std::unique_ptr<llama_model, void (*)(llama_model *)> target_;
    TargetWeights weights_;
    std::unique_ptr<MtpHead> head_;
    std::unique_ptr<Engine> engine_;
    std::vector<int32_t> end_tokens_;
    std::vector<std::pair<std::string, std::string>> metadata_;
    TextLimits text_limits_;
    std::string placement_;
    std::string batch_dependence_;
    DrafterKind drafter_ = DrafterKind::none;
    int n_threads_;
};

}  // namespace pmtp
