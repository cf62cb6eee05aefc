// Whether a row of a loaded model's logits has the same bits alone and in a batch of rows that are verified together.
#pragma once

#include <string>

struct llama_context;

namespace pmtp {

// Empty if so: the text of a seed, and greedy text, are then the same with drafting on and off. Else the reasons, as
// one line of text.
std::string batch_dependence(const llama_context & context);

}  // namespace pmtp
