/* pyllama-mtp: run a llama.cpp target with multi-token prediction (MTP). docs/c.md has a complete example.
 *
 * A model runs any number of sequences: pmtp_sequence_start() makes one from a prompt, every pmtp_step() of the model
 * computes a part of all that run and says in bursts what came of it.
 *
 * The only contract of libpyllama_mtp. Conventions; a function's own comment says where it differs:
 *  - Errors. Functions that can fail return a pmtp_status; pmtp_last_error() then has a message for the calling thread.
 *    What a failing call would have written is left as it was, unless said otherwise. Any of them may fail with
 *    OUT_OF_MEMORY, or with INTERNAL for a fault of this library. A NULL that is not allowed is INVALID_ARGUMENT. No
 *    function lets a C++ exception out.
 *  - Ownership. Handles are opaque; every *_load / *_start has its *_free, and freeing NULL is allowed. Pointers that a
 *    function returns belong to the handle that they came from. Pointers that are passed in are read during the call
 *    only. Strings are UTF-8 and NUL-terminated unless a length is passed beside them.
 *  - Threads. Any call on a model and its sequences may be made from any thread. What computes or changes the KV cache
 *    (pmtp_step, pmtp_logits, pmtp_sequence_truncate) waits for the one under way; nothing else waits. Two exceptions:
 *    a handle may be freed while no other call on it runs only, and a burst's logprobs are valid until the next step.
 *    The library starts no thread of its own but those that compute. Different models are independent.
 *  - Processes. A model belongs to the process that loaded it. In a forked child every call on it fails with
 *    OTHER_PROCESS, and freeing it does nothing there.
 *  - Units. Times are seconds, sizes are bytes, token ids are the target's vocabulary ids.
 *
 * The region between the two "cffi" marks has no preprocessor lines: foreign-function tools may read it as it is.
 */
#ifndef PYLLAMA_MTP_H
#define PYLLAMA_MTP_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#if defined(__GNUC__)
#pragma GCC visibility push(default)
#endif

/* cffi: begin */

/* Constants of this header. An integer beside pmtp_abi_version() that differs means another, incompatible library. */
enum {
    PMTP_ABI_VERSION = 8,
    PMTP_MAX_DRAFT = 16,    /* most tokens drafted in one round */
    PMTP_MAX_LOGPROBS = 64, /* most alternatives reported with a token */
    PMTP_MAX_SEQS = 64,     /* most sequences that are decoded together */
    PMTP_DRAFT_AUTO = -1    /* num_speculative_tokens: chosen every round */
};

typedef enum pmtp_status {
    PMTP_OK = 0,
    PMTP_ERROR_INVALID_ARGUMENT = 1,
    PMTP_ERROR_MODEL_LOAD = 2,
    PMTP_ERROR_INCOMPATIBLE_HEAD = 3,
    PMTP_ERROR_CONTEXT_OVERFLOW = 4,
    PMTP_ERROR_OUT_OF_MEMORY = 5,
    PMTP_ERROR_BUSY = 6,
    PMTP_ERROR_INTERNAL = 7,
    PMTP_ERROR_CANCELLED = 8,
    PMTP_ERROR_OTHER_PROCESS = 9
} pmtp_status;

typedef enum pmtp_finish {
    PMTP_FINISH_NONE = 0,   /* there is more to come */
    PMTP_FINISH_STOP = 1,   /* an end-of-generation token or one of stop_tokens */
    PMTP_FINISH_LENGTH = 2, /* max_tokens, or the context is full */
    PMTP_FINISH_CANCELLED = 3,
    PMTP_FINISH_FAILED = 4 /* pmtp_burst.status and pmtp_sequence_error() say why */
} pmtp_finish;

/* Which drafts are accepted. Every rule gives exactly the target's distribution; greedy text (temperature 0) is the
 * same under all. */
typedef enum pmtp_acceptance {
    PMTP_ACCEPTANCE_AUTO = 0,             /* COUPLED if `reproducible` or if the number of drafts is
                                           * PMTP_DRAFT_AUTO, else the rule that gives most tokens a second */
    PMTP_ACCEPTANCE_COUPLED = 1,          /* the same seed gives the same text, drafted or not; with the others it does
                                           * for the same num_speculative_tokens: AUTO drafts then ignore the clock */
    PMTP_ACCEPTANCE_REJECTION = 2,        /* by p/q, drafts drawn from the head's distribution */
    PMTP_ACCEPTANCE_REJECTION_GREEDY = 3, /* likewise, with the head's most probable tokens */
    PMTP_ACCEPTANCE_BLOCK = 4             /* block verification */
} pmtp_acceptance;

typedef enum pmtp_stage {
    PMTP_STAGE_TARGET = 0,  /* reading the target's weights */
    PMTP_STAGE_CONTEXT = 1, /* allocating KV cache and scratch */
    PMTP_STAGE_HEAD = 2     /* reading the head's weights */
} pmtp_stage;

typedef enum pmtp_drafter {
    PMTP_DRAFTER_AUTO = 0, /* the MTP head if one is loaded, else none */
    PMTP_DRAFTER_NONE = 1,
    PMTP_DRAFTER_MTP = 2,
    PMTP_DRAFTER_NGRAM = 3 /* repeats what followed the last tokens where they stood before in the text */
} pmtp_drafter;

/* A call that takes long, as other threads see it while it runs. It must stay until the call has returned. */
typedef struct pmtp_watch {
    int32_t stage;     /* pmtp_stage of a load */
    int32_t per_mille; /* of that stage, so far */
    int32_t stop;      /* 0; set it to end the call, which then fails with CANCELLED */
} pmtp_watch;

typedef struct pmtp_model pmtp_model;       /* a target, its MTP head if it has one, and the KV cache */
typedef struct pmtp_sequence pmtp_sequence; /* one completion: waiting, running or ended */

typedef struct pmtp_model_params {
    int32_t n_ctx;              /* most tokens of a sequence; 0: as trained */
    int32_t max_num_seqs;       /* sequences that are decoded together, 1..PMTP_MAX_SEQS; further ones wait */
    int32_t n_cells;            /* tokens that the KV cache holds for all sequences together; 0: n_ctx for each */
    int64_t prefix_cache_bytes; /* memory for what lets later prompts begin where an earlier text had got to; 0: none
                                   but what the KV cache itself still holds */
    int32_t drafter;            /* pmtp_drafter */
    int32_t n_batch;            /* most prompt tokens evaluated at once */
    int32_t n_threads;          /* > 0 */
    int32_t n_gpu_layers;       /* layers on the GPU, -1: all; without a GPU everything runs on the CPU */
    int32_t flash_attention;    /* -1: where it is supported, 0: off, 1: on */
    const char * cache_type_k;  /* "f32", "f16", "bf16", "q8_0", "q5_1", "q5_0", "q4_1", "q4_0", "iq4_nl", "turbo4",
                                   "turbo3", "turbo2" */
    const char * cache_type_v;
    const char * cache_type_k_swa; /* of the sliding layers; NULL: the same */
    const char * cache_type_v_swa;
    pmtp_watch * watch; /* of the load, or NULL */
} pmtp_model_params;

typedef struct pmtp_model_info {
    int32_t n_vocab;
    int32_t n_ctx; /* most tokens of prompt and completion together */
    int32_t max_num_seqs;
    int32_t n_cells; /* of all sequences together */
    int32_t drafter; /* pmtp_drafter in use, never AUTO */
    int32_t n_ctx_train;
    int32_t n_embd;
    int32_t n_layer;
    int32_t n_swa; /* sliding window in tokens, 0: none */
    int32_t n_threads;
    int32_t has_head;         /* 1: an MTP head is loaded */
    int32_t head_n_centroids; /* clusters of the head's centroid LM head, 0: dense LM head */
    int32_t head_top_k;       /* clusters whose logits are computed for a token */
    int32_t flash_attention;  /* 1: in use */
    int32_t batch_invariant;  /* 1: a row of logits has the same bits alone and among the drafts of a round */
    int32_t token_bos;        /* -1: none */
    int32_t token_eos;        /* -1: none */
    int32_t add_bos;          /* 1: prompts of this model begin with token_bos */
    int64_t n_params;
    int64_t target_bytes;    /* weights of the target in memory, repacked or on a device */
    int64_t embedding_bytes; /* its tables of which a token reads a row: mapped, rows take memory once they were read */
    int64_t head_bytes;      /* weights of the head */
    int64_t cache_bytes;     /* KV cache */
    int64_t compute_bytes;   /* scratch of target and head */
} pmtp_model_info;

typedef struct pmtp_logit_bias {
    int32_t token;
    float bias; /* added to the token's logit; -inf forbids it */
} pmtp_logit_bias;

typedef struct pmtp_token_logprob {
    int32_t token;
    float logprob; /* natural logarithm of the target's unmodified probability */
} pmtp_token_logprob;

/* Restricts the tokens of a sequence. Its functions are called on the thread that steps, until the sequence has ended
 * or was freed and the step then under way has returned; they must not call a function of this library on the same
 * model. `masks` and `commit` end the sequence by a negative result. A grammar's state follows `commit` alone: what a
 * round drafted and did not keep is never told.
 *
 * masks: which tokens may come next, and which after each draft. `allowed` has n_drafts + 1 masks of (n_vocab + 31) /
 * 32 zeroed words each; bit t % 32 of word t / 32 allows token t. Mask i is of the token after the first i drafts.
 * Returns how many drafts are allowed, n: mask i allows draft i for every i < n, and masks 0..n are filled. The other
 * drafts are not evaluated: mask n refuses draft n, or what comes before it is why. Called once for each round, and
 * once with no drafts for the first token. The result must depend on the committed tokens and the drafts alone, or a
 * seed does not give its text again.
 *
 * commit: n tokens, 1 or more, have become part of the completion. An end-of-generation token is one of them.
 *
 * allows: 1 if n tokens, 1 or more, may come next one after another, as `masks` would have it; 0 if they may not, or if
 * that takes masks to tell. NULL: it always does. Saves masks: greedy completions on a CPU need none where it allows
 * what was drafted and the most probable tokens, and `masks` is then not called in that round. */
typedef struct pmtp_grammar {
    int32_t (*masks)(void * user, const int32_t * drafts, int32_t n_drafts, uint32_t * allowed); /* NULL: no grammar */
    int32_t (*commit)(void * user, const int32_t * tokens, int32_t n);
    void * user;
    int32_t (*allows)(void * user, const int32_t * tokens, int32_t n); /* or NULL */
} pmtp_grammar;

/* Where a pmtp_matcher is. */
typedef enum pmtp_phase {
    PMTP_PHASE_BEGUN = 0,      /* the grammar has begun */
    PMTP_PHASE_IN_THOUGHT = 1, /* all is allowed but an end and `opens`, until thought_end: then the grammar begins */
    PMTP_PHASE_BEFORE_ALL = 2, /* thought_begin may come first; any other token is the grammar's first */
    PMTP_PHASE_IN_TEXT = 3     /* all is allowed, until `opens`, which is the grammar's first token */
} pmtp_phase;

/* A matcher of llguidance (llguidance.h) as a grammar: of a pmtp_grammar `masks` is pmtp_matcher_masks, `commit` is
 * pmtp_matcher_commit, `allows` is pmtp_matcher_allows and `user` a pmtp_matcher, which the program fills and keeps.
 * They call nothing but its functions. The grammar begins where a thought or a text ends, also among the drafts of a
 * round. */
typedef struct pmtp_matcher {
    void * matcher; /* LlgMatcher; NULL with PMTP_PHASE_IN_TEXT: `opens` is forbidden */
    int32_t (*compute_mask)(void * matcher, uint32_t * mask, size_t n_bytes); /* llg_matcher_compute_mask_into */
    int32_t (*consume)(void * matcher, const uint32_t * tokens, size_t n);    /* llg_matcher_consume_tokens */
    int32_t (*rollback)(void * matcher, size_t n);                            /* llg_matcher_rollback */
    int32_t (*validate)(void * matcher, const uint32_t * tokens, size_t n);   /* llg_matcher_validate_tokens */
    int32_t n_vocab;
    int32_t n_ends;
    const int32_t * ends;  /* tokens that end a completion, as llguidance knows them */
    int32_t thought_begin; /* tokens; -1: none */
    int32_t thought_end;
    int32_t opens; /* -1: none */
    int32_t phase; /* pmtp_phase; pmtp_matcher_commit() changes it */
} pmtp_matcher;

/* Meanings and legal ranges are vLLM's SamplingParams. Applied in this order: grammar, logit_bias, penalties,
 * temperature, min_p, top_k, top_p. */
typedef struct pmtp_sequence_params {
    int32_t max_tokens; /* >= 1 */
    int32_t min_tokens; /* no end-of-generation or stop token before that many, unless the grammar allows nothing else;
                         * 0..max_tokens */
    double temperature; /* >= 0; 0: greedy, and so is all below 1e-30 */
    double top_p;       /* (0, 1] */
    double min_p;       /* [0, 1] */
    int32_t top_k;      /* >= 1; 0: all */
    uint64_t seed;
    int32_t reproducible;      /* 1: the same seed must give the same text whatever is drafted: AUTO is then COUPLED */
    int32_t acceptance;        /* pmtp_acceptance */
    double presence_penalty;   /* [-2, 2] */
    double frequency_penalty;  /* [-2, 2] */
    double repetition_penalty; /* (0, 2]; 1: none */
    int32_t ignore_eos;        /* 1: end-of-generation tokens do not end it */
    int32_t n_logprobs;        /* -1: none; else the emitted token's and so many best ones' */
    int32_t n_prompt_logprobs; /* likewise of the prompt's tokens, all of which are evaluated again then */
    int32_t num_speculative_tokens; /* 0..PMTP_MAX_DRAFT, or PMTP_DRAFT_AUTO; without a drafter always 0 */
    int32_t n_synthetic_acceptance; /* > 0, for benchmarks: the first draft of a round is accepted with probability */
    const double * synthetic_acceptance; /* [0], the first two with [1] ...; not increasing. All work is done, the text
                                            is senseless; not beside a grammar */
    int32_t n_stop_tokens;
    const int32_t * stop_tokens;
    int32_t n_logit_bias;
    const pmtp_logit_bias * logit_bias;
    pmtp_grammar grammar;
} pmtp_sequence_params;

/* What is in use, as of the last step. */
typedef struct pmtp_usage {
    int32_t n_running;    /* sequences that are computed */
    int32_t n_waiting;    /* sequences that wait for their turn */
    int32_t n_cells;      /* cells in pages that hold a token of a sequence, or of an ended one that is kept */
    int64_t prefix_bytes; /* of what was saved for later prompts, at most prefix_cache_bytes */
} pmtp_usage;

/* A part of a prompt. */
typedef struct pmtp_segment {
    const int32_t * tokens;
    int32_t n_tokens;
    int32_t branches; /* 1: another prompt may go on differently from its end (a system prompt, a turn of a
                       * conversation): what going on there takes is kept, if there is memory for it */
} pmtp_segment;

/* What one step brought one sequence: a part of its prompt (n_emitted 0 and finish NONE), its first token, a round, or
 * its end. */
typedef struct pmtp_burst {
    pmtp_sequence * sequence;
    int32_t n_prompt;  /* prompt tokens evaluated */
    int32_t is_round;  /* 1: a draft/verify round; the first token comes from the prompt and belongs to none */
    int32_t n_drafted; /* up to the first draft that the grammar refused, which counts as drafted and rejected */
    int32_t n_accepted;
    int32_t n_emitted; /* tokens committed by this step: at most n_accepted + 1 */
    int32_t finish;    /* pmtp_finish; nothing follows one that is not NONE */
    int32_t status;    /* pmtp_status; not OK where finish is FAILED */
    int32_t drafted[16];
    int32_t emitted[17];
    const pmtp_token_logprob * logprobs; /* [n_emitted][1 + n_logprobs]: the token, then the best; NULL if n_logprobs <
                                          * 0; valid until the next step, or the sequence's truncation or end of life */
    int32_t n_prompt_logprobs; /* rows of prompt_logprobs: the prompt's tokens in order, all but its first one */
    const pmtp_token_logprob * prompt_logprobs; /* [n_prompt_logprobs][1 + the parameters' n_prompt_logprobs]: as
                                                 * logprobs */
} pmtp_burst;

typedef struct pmtp_stats {
    int32_t prompt_tokens;
    int32_t cached_prompt_tokens; /* of them already in the KV cache */
    int32_t completion_tokens;
    int32_t acceptance; /* pmtp_acceptance in use, never AUTO */
    int32_t rounds;
    int32_t drafted;
    int32_t accepted;
    int32_t drafting_rounds;         /* rounds that drafted at least one token ... */
    int32_t drafting_rounds_emitted; /* ... and the tokens that these rounds emitted: accepted ones, and a bonus token
                                      * each but where an accepted one ended the completion */
    int32_t drafted_per_position[16];
    int32_t accepted_per_position[16];
    double queue_seconds;  /* from the start until it ran */
    double prompt_seconds; /* of the steps with its prompt, the first token's included */
    double decode_seconds; /* of the steps with its rounds = draft + verify + sample + rest, of all sequences in them */
    double draft_seconds;  /* these three of the host, whose wait for a GPU is verify_seconds */
    double verify_seconds;
    double sample_seconds;
} pmtp_stats;

/* PMTP_ABI_VERSION of the library; compare it with the header's before anything else. Any thread. */
int32_t pmtp_abi_version(void);

/* Message of the calling thread's last failure; empty if there was none. Never NULL; valid until that thread's next
 * failing call. */
const char * pmtp_last_error(void);

/* Receives every native log line (level: 1 debug, 2 info, 3 warning, 4 error; some come in pieces, a line ends with a
 * newline), from any thread, maybe from several at once. `text` is valid during the call. No lock is held meanwhile: it
 * may free models that no call uses. It must not call pmtp_set_log(), nor let an exception out. */
typedef void (*pmtp_log_fn)(int32_t level, const char * text, void * user);

/* Sets the one receiver of the process; NULL: drop the lines (default). `log` and `user` are kept until the next call,
 * which waits until the receiver before has returned on every thread. Any thread. */
void pmtp_set_log(pmtp_log_fn log, void * user);

/* A receiver, to be given to pmtp_set_log(), that keeps whole lines for pmtp_log_take(): for languages that must not be
 * called back on any thread at any time. It keeps the last 16384. */
void pmtp_log_keep(int32_t level, const char * text, void * user);

/* Takes the oldest kept line (line ends within it are out of a file): writes it, without its end, to `text` of
 * `capacity` bytes, and returns its length in bytes; if that is more than `capacity`, nothing is written and the line
 * stays. Returns -1 if there is none, or for a NULL. Any thread. */
int32_t pmtp_log_take(char * text, int32_t capacity, int32_t * level);

/* To be called before the process ends while other threads may be in this library, so that they do not run while its
 * static objects are destroyed. Stops what runs, as if it were cancelled, and waits for it; threads whose calls it
 * stopped, or that make one that computes later, stay in the library until the process ends. Freeing does nothing from
 * now on. Any thread that is not in a call; not from a callback. */
void pmtp_shutdown(void);

/* Valid parameters to begin with: the trained context (n_ctx 0), batches of 512, 4 threads, all layers on a GPU if
 * there is one, f16 cache. The strings are static. Any thread. */
pmtp_model_params pmtp_default_model_params(void);

/* Valid parameters to begin with: sampling at temperature 1 from the whole distribution with seed 0, reproducibly,
 * until the context is full, AUTO drafts. Any thread. */
pmtp_sequence_params pmtp_default_sequence_params(void);

/* Loads a target and, unless head_path is NULL, its MTP head, and allocates the KV cache; the pairing is checked before
 * anything is computed. *out is the caller's, to be freed with pmtp_model_free(); a failure makes it NULL (but for a
 * NULL argument), so pass no handle that is in use. Models may be loaded from several threads. Fails with MODEL_LOAD (a
 * file cannot be read or is damaged), INCOMPATIBLE_HEAD (the head is none, or belongs to another target),
 * INVALID_ARGUMENT (a parameter out of its range), OUT_OF_MEMORY (also where n_threads threads cannot be started) or
 * CANCELLED (params->watch->stop was set). */
pmtp_status pmtp_model_load(const char * target_path, const char * head_path, const pmtp_model_params * params,
                            pmtp_model ** out);

/* Frees the model and all that was allocated for it, at once or, while sequences of it live, together with the last. */
void pmtp_model_free(pmtp_model * model);

/* The same for the handle in *model, which is NULL afterwards, however many threads do this at once. For owners that
 * may be interrupted between any two steps of their own, or finalised by a collector. */
void pmtp_model_release(pmtp_model ** model);

/* Sizes, placement and memory of a loaded model. */
pmtp_status pmtp_model_get_info(const pmtp_model * model, pmtp_model_info * out);

/* What is in use. Waits for a step that is under way. Any thread. */
pmtp_status pmtp_model_get_usage(pmtp_model * model, pmtp_usage * out);

/* A string-valued metadata entry of the target (the chat template is "tokenizer.chat_template"), or NULL if it has none
 * or an argument is NULL. Valid until the model is freed. */
const char * pmtp_model_metadata(const pmtp_model * model, const char * key);

/* Device and backend that hold weights and KV cache, as one line of text; empty for NULL. Valid until the model is
 * freed. */
const char * pmtp_model_placement(const pmtp_model * model);

/* Why batch_invariant is 0 (weight types, experts, a GPU ...), as one line of text; empty where it is 1, and for NULL.
 * Valid until the model is freed. */
const char * pmtp_model_batch_dependence(const pmtp_model * model);

/* Splits text of text_size bytes into tokens; add_special: with the beginning-of-sequence token and the like, where the
 * model uses them; parse_special: text such as "<bos>" becomes that token. Writes at most `capacity` ids and sets
 * *n_tokens to the number needed. Fails with INVALID_ARGUMENT if the capacity is too small: `tokens` is unspecified
 * then, and *n_tokens is the number needed, or a lower one that is known without splitting the text, which is not done
 * if it cannot fit. Such a number is known for the vocabularies of Llama, Gemma 4 and GPT-2 that have a token for every
 * byte; others (BERT, T5, RWKV ...) may drop text, which is split whatever the capacity. Most vocabularies need
 * text_size + 8 tokens or fewer, some three times as many. The time grows with text_size only. watch: NULL, or what
 * ends the call with CANCELLED. */
pmtp_status pmtp_tokenize(const pmtp_model * model, const char * text, size_t text_size, int32_t add_special,
                          int32_t parse_special, int32_t * tokens, int32_t capacity, int32_t * n_tokens,
                          const pmtp_watch * watch);

/* A part of a text of `size` bytes. is_literal: special tokens may be found in it. */
typedef struct pmtp_text {
    const char * text;
    size_t size;
    int32_t is_literal;
} pmtp_text;

/* Splits the text that the parts make together as pmtp_tokenize does with parse_special, but finds special tokens,
 * those included that it finds without parse_special too, only where all of their bytes are of parts that are literal.
 * So a chat's messages cannot forge turns: what a template wrote is literal, what messages hold is not. Where there is
 * no special token in what is not literal the tokens are those of pmtp_tokenize. Runs of white space that a vocabulary
 * has as tokens are found everywhere. */
pmtp_status pmtp_tokenize_parts(const pmtp_model * model, const pmtp_text * parts, size_t n_parts, int32_t add_special,
                                int32_t * tokens, int32_t capacity, int32_t * n_tokens, const pmtp_watch * watch);

/* The bytes of one token (not NUL-terminated, maybe a part of a character); special: also those of control tokens,
 * which are empty otherwise. Writes at most `capacity` bytes and sets *n_bytes to the number needed. Fails with
 * INVALID_ARGUMENT if the capacity is too small (*n_bytes is set) or there is no such token. */
pmtp_status pmtp_token_bytes(const pmtp_model * model, int32_t token, int32_t special, char * bytes, int32_t capacity,
                             int32_t * n_bytes);

/* The bytes of all tokens as pmtp_token_bytes() gives them, one after another, and their sizes, uint32_t [n_vocab].
 * Writes at most `capacity` bytes and sets *n_bytes to the number needed. Fails with INVALID_ARGUMENT if the capacity
 * is too small: `bytes` and `sizes` are unspecified then. */
pmtp_status pmtp_vocabulary_bytes(const pmtp_model * model, int32_t special, char * bytes, size_t capacity,
                                  uint32_t * sizes, size_t * n_bytes);

/* 1 if the token ends a completion; 0 if not, if there is no such token, and for NULL. */
int32_t pmtp_token_is_end(const pmtp_model * model, int32_t token);

/* The target's logits after each token, into the caller's `logits`: row-major float [n_tokens][n_vocab], evaluated in
 * batches of n_batch rows (1..32). After a failure `logits` is unspecified. watch: NULL, or what ends the call within a
 * batch. Fails with BUSY while there is no room beside the sequences that run, CONTEXT_OVERFLOW (n_tokens > n_ctx),
 * CANCELLED or INVALID_ARGUMENT. */
pmtp_status pmtp_logits(pmtp_model * model, const int32_t * tokens, int32_t n_tokens, int32_t n_batch, float * logits,
                        const pmtp_watch * watch);

/* Writes what the KV cache keeps of ended sequences to a file, which is overwritten; after a failure its content is
 * unspecified. Fails with MODEL_LOAD (it cannot be written) or INVALID_ARGUMENT (an architecture with recurrent
 * states). */
pmtp_status pmtp_model_save_state(pmtp_model * model, const char * path);

/* Takes what pmtp_model_save_state() wrote into the KV cache, beside what it holds: the latest texts first, as far as
 * there is room beside running sequences; *n_texts: how many. Every byte is checked before it is used. Fails with
 * MODEL_LOAD for a file that is none, truncated, altered, or of another model, other cache types or another version. */
pmtp_status pmtp_model_load_state(pmtp_model * model, const char * path, int32_t * n_texts);

/* Begins a completion of the prompt that the segments make together; it waits its turn, and later steps compute it.
 * *out is the caller's, to be freed with pmtp_sequence_free(); a failure makes it NULL (but for a NULL argument), so
 * pass no handle that is in use. Prompt and parameters are copied, but for the grammar's `user`. What the KV cache
 * holds of the prompt is not evaluated again. Fails with INVALID_ARGUMENT or CONTEXT_OVERFLOW (the prompt and one token
 * are more than n_ctx or n_cells). */
pmtp_status pmtp_sequence_start(pmtp_model * model, const pmtp_segment * segments, int32_t n_segments,
                                const pmtp_sequence_params * params, pmtp_sequence ** out);

/* Computes one batch: a draft/verify round of every sequence that has its first token, and parts of the prompts of
 * others; ended sequences make room for waiting ones first. Writes a burst for each sequence that got something, at
 * most `capacity`, the others at the next call, and sets *n; 0: nothing runs or waits. Calls grammars on the calling
 * thread. A fault of one sequence ends that one (a burst with finish FAILED): INVALID_ARGUMENT if grammar, logit_bias
 * and min_tokens forbid every token, INTERNAL if its grammar returned an error; OUT_OF_MEMORY and faults of llama.cpp
 * end those in the batch. The call itself fails with INVALID_ARGUMENT, with OUT_OF_MEMORY where nothing was computed,
 * so that it may be made again, or where the process ends. */
pmtp_status pmtp_step(pmtp_model * model, pmtp_burst * bursts, int32_t capacity, int32_t * n);

/* Ends the sequence: a step returns a burst with PMTP_FINISH_CANCELLED for it, the one under way or the next. Tokens
 * that are out stay, other sequences go on. Does not wait; also while a step runs. NULL is allowed. */
void pmtp_sequence_cancel(pmtp_sequence * sequence);

/* Takes back all but the first n_completion tokens, in the statistics and in the KV cache alike, and ends the sequence,
 * which gets no further burst: for stop strings, which only the caller sees. Fails with INVALID_ARGUMENT if there are
 * not so many tokens. */
pmtp_status pmtp_sequence_truncate(pmtp_sequence * sequence, int32_t n_completion);

/* What happened so far, as of the last step. */
pmtp_status pmtp_sequence_get_stats(const pmtp_sequence * sequence, pmtp_stats * out);

/* `masks` of a pmtp_grammar whose `user` is a pmtp_matcher. */
int32_t pmtp_matcher_masks(void * user, const int32_t * drafts, int32_t n_drafts, uint32_t * allowed);

/* `commit` of such a grammar. */
int32_t pmtp_matcher_commit(void * user, const int32_t * tokens, int32_t n);

/* `allows` of such a grammar. Tokens without a text need bytes in llguidance's vocabulary, such as 255 alone: without,
 * validate takes them for allowed. */
int32_t pmtp_matcher_allows(void * user, const int32_t * tokens, int32_t n);

/* Why the sequence failed, as one line of text; empty if it did not, and for NULL. Valid until it is freed. */
const char * pmtp_sequence_error(const pmtp_sequence * sequence);

/* Frees the sequence, ended or not; it gets no further burst, but of a step that is under way on another thread: who
 * finds sequences by their handles frees them between steps, for a later one may get the same. What is in the KV cache
 * may be reused. */
void pmtp_sequence_free(pmtp_sequence * sequence);

/* As pmtp_model_release(). */
void pmtp_sequence_release(pmtp_sequence ** sequence);

/* Writes the tensors of a GGUF file (f32, f16 or bf16 matrices) in fewer bits to another file, by llama.cpp's own
 * quantiser; metadata stays. type: "q2_k", "q3_k_s", "q3_k_m", "q3_k_l", "q4_k_s", "q4_k_m", "q5_k_s", "q5_k_m" or
 * "q6_k", llama.cpp's mixtures, which give some tensors more bits. n_threads: 1 or more. `out_path` is overwritten;
 * after a failure its content is unspecified. Any thread. Fails with INVALID_ARGUMENT (no such type) or MODEL_LOAD (the
 * file cannot be read or is damaged, or the other cannot be written: the message has llama.cpp's reason). watch: NULL,
 * or what ends the call with CANCELLED after the tensor in hand. Lines of llama.cpp's log, one a tensor, are dropped.
 */
pmtp_status pmtp_quantize(const char * path, const char * out_path, const char * type, int32_t n_threads,
                          const pmtp_watch * watch);

/* cffi: end */

#if defined(__GNUC__)
#pragma GCC visibility pop
#endif

#ifdef __cplusplus
}
#endif

#endif /* PYLLAMA_MTP_H */
