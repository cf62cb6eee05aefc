// Drafts with the Gemma 4 MTP head: a round's k steps are one ggml graph.
#pragma once

#include "drafters/drafter.h"
#include "drafters/gemma4/mtp_head.h"

#include "llama.h"

#include <map>

namespace pmtp {

class Gemma4Drafter : public Drafter {
  public:
    // All must outlive the drafter. Throws Error(INCOMPATIBLE_HEAD) if the head does not fit (see Head).
    Gemma4Drafter(const MtpHead & head, llama_context * context);
    ~Gemma4Drafter() override;

    bool draft(const DraftRequest & request, std::vector<Draft> & drafts) override;
    size_t compute_bytes() const override;

  private:
    struct Graph;

    Graph & graph_for(int k, Draw draw);

    const MtpHead & head_;
    llama_context * context_;
    std::map<std::pair<int, Draw>, std::unique_ptr<Graph>> graphs_;  // by k, so that graphs are reused as k varies
};

}  // namespace pmtp
