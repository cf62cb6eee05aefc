// Every internal header of the vendored llama.cpp that this library depends on, and why. Nothing else includes them.
//
//  llama-ext.h            the post-norm state of verified rows (llama_*_embeddings_nextn*)
//  llama-impl.h           llama_mul_mat_hadamard: the head's queries are rotated as a quantised cache's keys are;
//                         LLAMA_LOG_WARN
//  llama-context.h        the backends that the context computes on, and whether it uses flash attention
//  llama-kv-cache*.h      views of the target's K/V, which the head attends to, and the cells' positions
//  llama-io.h             what the cache writes of a sequence to be saved
//  llama-model.h          the target's token embedding, which the head reads in its graph, and its hyper-parameters
//  llama-vocab.h          the merges of byte-pair encoding, which may give what is no token
//  unicode.h              the letters that stand for bytes in it
#pragma once

#include "llama-ext.h"
#include "llama-impl.h"
#include "llama-context.h"
#include "llama-kv-cache-iswa.h"
#include "llama-kv-cache.h"
#include "llama-io.h"
#include "llama-model.h"
#include "llama-vocab.h"
#include "unicode.h"
