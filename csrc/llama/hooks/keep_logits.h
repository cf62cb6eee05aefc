// The hook in llama_context::decode, see csrc/llama/patches.
#pragma once

struct ggml_tensor;

// Asked once per micro-batch, before its rows of logits are copied to the host. logits: f32 [n_vocab, n_outputs], on
// the backend that computed them, maybe still in flight. true: leave them there. Must not throw.
bool pmtp_keep_logits(ggml_tensor * logits);
