// The target's rows of logits, left where they were computed: rows in host memory are read in place, and where a few
// tokens are enough a device finds them, so that bytes or kilobytes cross back instead of a megabyte a row.
#pragma once

#include "base/error.h"
#include "sampling/sampler.h"

#include "ggml-backend.h"
#include "ggml.h"
#include "llama.h"

#include <map>
#include <memory>
#include <tuple>
#include <vector>

namespace pmtp {

class OutputRows {
  public:
    OutputRows();
    ~OutputRows();

    // llama_decode() of a batch whose outputs all lie in one micro-batch. The rows are valid after llama_synchronize()
    // and until the next call.
    int decode(llama_context * context, const llama_batch & batch, const Wanted & wanted);

    // Whether the last batch's rows stayed where they were; else llama.cpp has copied them.
    bool kept() const { return kept_ != nullptr; }
    TargetRow row(int i);

    // Called back by llama_decode(), see llama/hooks/keep_logits.h.
    bool keep(ggml_tensor * logits);

  private:
    struct Selection;

    bool select(ggml_tensor * logits);
    void gather_masks(int64_t n_words);
    float * fetch(int row);

    llama_context * context_ = nullptr;
    const Wanted * wanted_ = nullptr;  // while a batch is decoded
    ggml_tensor * kept_ = nullptr;     // f32 [n_vocab, n rows]
    Selection * selected_ = nullptr;   // what the device chose from the kept rows; nullptr: they are in host memory
    std::vector<ChoiceParams> params_;
    std::vector<uint32_t> masks_;   // read by the device
    std::vector<int32_t> results_;  // filled by the device
    std::vector<std::vector<float>> fetched_;
    // By kind, whether rows have masks, and the number of rows.
    std::map<std::tuple<Wanted::Kind, bool, int64_t>, std::unique_ptr<Selection>> selections_;
};

}  // namespace pmtp
