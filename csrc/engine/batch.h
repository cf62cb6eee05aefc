// Rows that the target evaluates together: tokens of any number of sequences, each at its position.
#pragma once

#include "drafters/drafter.h"

#include "llama.h"

#include <cstdint>
#include <vector>

namespace pmtp {

class Batch {
  public:
    explicit Batch(int capacity);
    Batch(const Batch &) = delete;
    Batch & operator=(const Batch &) = delete;

    void clear();

    // A row of a sequence's slot; output: logits and state are wanted.
    void add(int32_t token, int position, int slot, bool output);

    // The last n rows have the tokens of that place, whatever was added for them.
    void take_tokens(const DraftPlace & place, int n);

    int size() const { return (int) token_.size(); }
    int n_outputs() const { return (int) outputs_.size(); }
    int row_of_output(int i) const { return outputs_[i]; }

    llama_batch view() const;  // valid until the next change

    struct DraftRows {
        DraftPlace place;
        int row, n;
    };
    const std::vector<DraftRows> & draft_rows() const { return draft_rows_; }

  private:
    mutable std::vector<llama_token> token_;
    mutable std::vector<llama_pos> position_;
    mutable std::vector<llama_seq_id> slot_;
    mutable std::vector<int8_t> output_;
    mutable std::vector<int32_t> n_slots_;
    mutable std::vector<llama_seq_id *> slots_;
    std::vector<int> outputs_;
    std::vector<DraftRows> draft_rows_;
};

}  // namespace pmtp
