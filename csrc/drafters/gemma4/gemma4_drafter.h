// Drafts with the Gemma 4 MTP head: a round's k steps are one ggml graph.
#pragma once

#include "drafters/drafter.h"
#include "drafters/gemma4/mtp_head.h"

#include "llama.h"

#include <map>

namespace pmtp {

class MtpDrafter : public Drafter {
  public:
    // All must outlive the drafter. Throws Error(INCOMPATIBLE_HEAD) if the head does not fit (see Head).
    MtpDrafter(const Head & head, llama_context * context);
    ~MtpDrafter() override;

    bool draft(const DraftRequest & request, std::vector<Draft> & drafts) override;
    size_t compute_bytes() const override;

  private:
    struct Graph;

    Graph & graph_for(int k, Draw draw);

    const Head & head_;
    llama_context * context_;
    std::map<std::pair<int, Draw>, std::unique_ptr<Graph>> graphs_;  // by k, so that graphs are reused as k varies
};

}  // namespace pmtp
