// Drafts with the Gemma 4 MTP head: the k steps of a round, of all sequences side by side, are one ggml graph.
#pragma once

#include "drafters/drafter.h"
#include "drafters/gemma4/mtp_head.h"

#include "llama.h"

#include <memory>

namespace pmtp {

class Gemma4Drafter : public Drafter {
  public:
    // All must outlive the drafter. Allocates what the largest graph needs. most_turns: of a call of draft().
    Gemma4Drafter(const MtpHead & head, llama_context * context, int most_turns);
    ~Gemma4Drafter() override;

    bool reads_states() const override { return true; }
    bool begin(std::vector<DraftTurn> & turns) override;
    void finish(std::vector<DraftTurn> & turns) override;
    size_t compute_bytes() const override;

  private:
    struct CacheView;
    struct Scratch;
    struct Graph;

    Graph & graph_for(int k, const std::vector<Draw> & draws);

    const MtpHead & head_;
    llama_context * context_;
    std::unique_ptr<CacheView> full_;
    std::unique_ptr<CacheView> sliding_;
    std::unique_ptr<Scratch> scratch_;
    std::unique_ptr<Graph> graph_;  // the last one, used again while k, draws and the numbers of cells stay
    std::vector<Draw> draws_;       // of the columns
};

}  // namespace pmtp
