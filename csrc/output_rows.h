// The target's rows of logits, left where they were computed: rows in host memory are read in place, and where only the most probable token is
// wanted a device finds it, so that a few bytes cross back instead of a megabyte a row.
#pragma once

#include "error.h"
#include "sampling.h"

#include "ggml-backend.h"
#include "ggml.h"
#include "llama.h"

#include <map>
#include <memory>
#include <vector>

namespace pmtp {

enum class Wanted { logits, most_probable };

class OutputRows {
  public:
    OutputRows();
    ~OutputRows();

    // llama_decode() of a batch whose outputs all lie in one micro-batch. The rows are valid after llama_synchronize() and until the next call.
    int decode(llama_context * context, const llama_batch & batch, Wanted wanted);

    // Whether the last batch's rows stayed where they were; else llama.cpp has copied them.
    bool kept() const { return kept_ != nullptr; }
    TargetRow row(int i);

    // Called back by llama_decode(), see llama_hooks/keep_logits.h.
    bool keep(ggml_tensor * logits);

  private:
    struct ArgMax;

    bool find_most_probable(ggml_tensor * logits);

    llama_context * context_ = nullptr;
    Wanted wanted_ = Wanted::logits;
    ggml_tensor * kept_ = nullptr;                          // f32 [n_vocab, n rows]
    std::vector<int32_t> most_probable_;                    // of each row; filled by the device
    std::map<int64_t, std::unique_ptr<ArgMax>> arg_max_;    // by the number of rows
};

}  // namespace pmtp
