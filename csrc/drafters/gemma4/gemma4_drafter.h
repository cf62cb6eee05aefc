// Drafts with the Gemma 4 MTP head: a round's k steps are one ggml graph.
#pragma once

#include "drafters/drafter.h"
#include "drafters/gemma4/mtp_head.h"

#include "llama.h"

#include <memory>

namespace pmtp {

class Gemma4Drafter : public Drafter {
  public:
    // All must outlive the drafter. Allocates what the largest graph needs. Throws Error(INCOMPATIBLE_HEAD) if the head
    // does not fit (see Head).
    Gemma4Drafter(const MtpHead & head, llama_context * context);
    ~Gemma4Drafter() override;

    bool draft(const DraftRequest & request, std::vector<Draft> & drafts) override;
    size_t compute_bytes() const override;

  private:
    struct CacheView;
    struct Scratch;
    struct Graph;

    Graph & graph_for(int k, Draw draw);

    const MtpHead & head_;
    llama_context * context_;
    std::unique_ptr<CacheView> full_;
    std::unique_ptr<CacheView> sliding_;
    std::unique_ptr<Scratch> scratch_;
    std::unique_ptr<Graph> graph_;  // the last one, used again while k, draw and the numbers of cells stay
};

}  // namespace pmtp
