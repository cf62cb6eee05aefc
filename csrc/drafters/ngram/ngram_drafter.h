// Drafts what followed the last tokens where they stood before in the text. Needs no model.
//
// Saxena, "Prompt Lookup Decoding" (2023, github.com/apoorvumang/prompt-lookup-decoding).
#pragma once

#include "drafters/drafter.h"

namespace pmtp {

class NgramDrafter : public Drafter {
  public:
    bool reads_states() const override { return false; }
    bool begin(std::vector<DraftTurn> & turns) override;
    void finish(std::vector<DraftTurn> &) override {}
    size_t compute_bytes() const override { return 0; }
};

}  // namespace pmtp
