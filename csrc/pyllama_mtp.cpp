// The C entry points: argument checks, exceptions -> status and message. No algorithm.
#include "pyllama_mtp.h"

#include "base/calls.h"
#include "base/error.h"
#include "base/log.h"
#include "base/watch.h"
#include "engine/matcher.h"
#include "engine/model.h"
#include "engine/tokenize.h"

#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstddef>
#include <exception>
#include <memory>
#include <mutex>
#include <new>
#include <utility>
#include <vector>

// Owned by its caller, and by its sequences.
struct pmtp_model : pmtp::Model {
    using pmtp::Model::Model;

    std::atomic<int> owners{ 1 };
    std::vector<pmtp::Burst> pending;  // bursts that there was no room for; of one step at a time
    std::mutex stepping;               // one step after the other
    const uint64_t process = pmtp::process();
};

namespace {

using pmtp::Error;
using pmtp::format;
using pmtp::Status;
using pmtp::Watch;

static_assert((int) pmtp::Status::invalid_argument == PMTP_ERROR_INVALID_ARGUMENT &&
              (int) pmtp::Status::model_load == PMTP_ERROR_MODEL_LOAD &&
              (int) pmtp::Status::incompatible_head == PMTP_ERROR_INCOMPATIBLE_HEAD &&
              (int) pmtp::Status::context_overflow == PMTP_ERROR_CONTEXT_OVERFLOW &&
              (int) pmtp::Status::out_of_memory == PMTP_ERROR_OUT_OF_MEMORY &&
              (int) pmtp::Status::busy == PMTP_ERROR_BUSY && (int) pmtp::Status::internal == PMTP_ERROR_INTERNAL);
static_assert(pmtp::kMaxDraft == PMTP_MAX_DRAFT && pmtp::kDraftAuto == PMTP_DRAFT_AUTO &&
              pmtp::kMaxSequences == PMTP_MAX_SEQS);
static_assert((int) pmtp::Rule::automatic == PMTP_ACCEPTANCE_AUTO && (int) pmtp::Rule::block == PMTP_ACCEPTANCE_BLOCK &&
              (int) pmtp::Finish::none == PMTP_FINISH_NONE && (int) pmtp::Finish::failed == PMTP_FINISH_FAILED &&
              (int) pmtp::DrafterKind::ngram == PMTP_DRAFTER_NGRAM);
static_assert(PMTP_PHASE_IN_TEXT == pmtp::Matcher::in_text && PMTP_PHASE_IN_THOUGHT == pmtp::Matcher::in_thought);
static_assert(sizeof(pmtp_matcher) == sizeof(pmtp::Matcher) &&
              offsetof(pmtp_matcher, rollback) == offsetof(pmtp::Matcher, rollback) &&
              offsetof(pmtp_matcher, ends) == offsetof(pmtp::Matcher, ends) &&
              offsetof(pmtp_matcher, phase) == offsetof(pmtp::Matcher, phase));
static_assert(sizeof(pmtp_token_logprob) == sizeof(pmtp::TokenLogprob) &&
              offsetof(pmtp_token_logprob, logprob) == offsetof(pmtp::TokenLogprob, logprob));

thread_local std::string last_error;

template <typename Body> pmtp_status guarded(Body body) noexcept {
    try {
        try {
            body();
            return PMTP_OK;
        } catch (const Error & e) {
            last_error = e.what();
            return (pmtp_status) e.status;
        } catch (const std::bad_alloc &) {
            last_error = "out of memory";
            return PMTP_ERROR_OUT_OF_MEMORY;
        } catch (const std::exception & e) {
            last_error = e.what();
            return PMTP_ERROR_INTERNAL;
        } catch (...) {
            last_error = "unknown exception";
            return PMTP_ERROR_INTERNAL;
        }
    } catch (...) {  // no memory left for the message
        return PMTP_ERROR_OUT_OF_MEMORY;
    }
}

// The C++ runtime allocates a thread's record of exceptions when it first throws one, and the C library ends the
// process if there is no memory left for it: a thread of its own makes its first call here, and its first exception may
// be bad_alloc.
void prepare_exceptions() { [[maybe_unused]] const volatile int n = std::uncaught_exceptions(); }

// A call that may take long.
template <typename Body> pmtp_status computing(Body body) noexcept {
    prepare_exceptions();
    const pmtp_status status = guarded([&] {
        const pmtp::Call call;
        body();
    });
    pmtp::stay_if_ending();
    return status;
}

// Of a call that writes nothing but the answer: nobody looks at its stages.
Watch watch_of(const pmtp_watch * watch) { return watch != nullptr ? Watch(nullptr, nullptr, &watch->stop) : Watch(); }

void give_up(pmtp_model * model) {
    if (--model->owners == 0) {
        delete model;
    }
}

void require(bool ok, const char * message) {
    if (!ok) {
        throw Error(Status::invalid_argument, message);
    }
}

void require(bool ok, const std::string & message) {
    if (!ok) {
        throw Error(Status::invalid_argument, message);
    }
}

// The threads of a model are not there in a forked child, and its locks may be held for ever.
void require_own(const pmtp_model & model) {
    if (model.process != pmtp::process()) {
        throw Error(Status::other_process, "the model was loaded before this process was forked: load it in the child");
    }
}

void require_tokens(const pmtp_model & model, const int32_t * tokens, int32_t n, const char * what) {
    require(n >= 0 && (tokens != nullptr || n == 0), format("%s: no tokens given", what));
    for (int32_t i = 0; i < n; i++) {
        if (tokens[i] < 0 || tokens[i] >= model.n_vocab()) {  // no message for each that is right
            require(false,
                    format("%s: token id %d at index %d, expected 0..%d", what, tokens[i], i, model.n_vocab() - 1));
        }
    }
}

void require_between(const char * what, double value, double low, double high) {
    require(value >= low && value <= high, format("%s is %g, expected %g..%g", what, value, low, high));
}

void check(const pmtp_model & model, const pmtp_sequence_params & p) {
    require(p.max_tokens >= 1, format("max_tokens is %d, expected 1 or more", p.max_tokens));
    require_between("min_tokens", p.min_tokens, 0, p.max_tokens);
    require(std::isfinite(p.temperature) && p.temperature >= 0,
            format("temperature is %g, expected 0 or more", p.temperature));
    require(p.top_p > 0 && p.top_p <= 1, format("top_p is %g, expected more than 0 and at most 1", p.top_p));
    require_between("min_p", p.min_p, 0, 1);
    require(p.top_k >= 0, format("top_k is %d, expected 1 or more, or 0 for all", p.top_k));
    require_between("presence_penalty", p.presence_penalty, -2, 2);
    require_between("frequency_penalty", p.frequency_penalty, -2, 2);
    require(p.repetition_penalty > 0 && p.repetition_penalty <= 2,
            format("repetition_penalty is %g, expected more than 0 and at most 2", p.repetition_penalty));
    require_between("acceptance", p.acceptance, PMTP_ACCEPTANCE_AUTO, PMTP_ACCEPTANCE_BLOCK);
    require_between("n_synthetic_acceptance", p.n_synthetic_acceptance, 0, PMTP_MAX_DRAFT);
    require(p.synthetic_acceptance != nullptr || p.n_synthetic_acceptance == 0, "synthetic_acceptance: none given");
    for (int32_t i = 0; i < p.n_synthetic_acceptance; i++) {
        require_between("synthetic_acceptance", p.synthetic_acceptance[i], 0,
                        i == 0 ? 1 : p.synthetic_acceptance[i - 1]);
    }
    require((p.grammar.masks == nullptr) == (p.grammar.commit == nullptr),
            "grammar: one of masks and commit is NULL, expected both or neither");
    require(p.grammar.masks == nullptr || p.n_synthetic_acceptance == 0,
            "synthetic_acceptance beside a grammar: drafts that the grammar refuses cannot be accepted");
    require_between("n_logprobs", p.n_logprobs, -1, PMTP_MAX_LOGPROBS);
    require_between("n_prompt_logprobs", p.n_prompt_logprobs, -1, PMTP_MAX_LOGPROBS);
    require_between("num_speculative_tokens", p.num_speculative_tokens, PMTP_DRAFT_AUTO, PMTP_MAX_DRAFT);
    require_tokens(model, p.stop_tokens, p.n_stop_tokens, "stop_tokens");
    require(p.n_logit_bias >= 0 && (p.logit_bias != nullptr || p.n_logit_bias == 0), "logit_bias: none given");
    for (int32_t i = 0; i < p.n_logit_bias; i++) {
        require_tokens(model, &p.logit_bias[i].token, 1, "logit_bias");
        const float bias = p.logit_bias[i].bias;
        require(std::isfinite(bias) || bias == -INFINITY,
                format("logit_bias of token %d is %g, expected a number or -inf", p.logit_bias[i].token, bias));
    }
}

llama_ftype mixture(const std::string & type) {
    static const std::pair<const char *, llama_ftype> mixtures[] = {
        { "q2_k", LLAMA_FTYPE_MOSTLY_Q2_K },     { "q3_k_s", LLAMA_FTYPE_MOSTLY_Q3_K_S },
        { "q3_k_m", LLAMA_FTYPE_MOSTLY_Q3_K_M }, { "q3_k_l", LLAMA_FTYPE_MOSTLY_Q3_K_L },
        { "q4_k_s", LLAMA_FTYPE_MOSTLY_Q4_K_S }, { "q4_k_m", LLAMA_FTYPE_MOSTLY_Q4_K_M },
        { "q5_k_s", LLAMA_FTYPE_MOSTLY_Q5_K_S }, { "q5_k_m", LLAMA_FTYPE_MOSTLY_Q5_K_M },
        { "q6_k", LLAMA_FTYPE_MOSTLY_Q6_K },
    };
    for (const auto & [name, ftype] : mixtures) {
        if (type == name) {
            return ftype;
        }
    }
    throw Error(Status::invalid_argument,
                format("type is %s, expected q2_k, q3_k_s, q3_k_m, q3_k_l, q4_k_s, q4_k_m, q5_k_s, q5_k_m or q6_k",
                       type.c_str()));
}

}  // namespace

// Holds its model.
struct pmtp_sequence {
    explicit pmtp_sequence(pmtp_model & model) : model(model) { model.owners++; }
    ~pmtp_sequence() {
        if (sequence) {
            sequence->leave();
            sequence.reset();
            model.engine().sweep_unless_stepping();
        }
        give_up(&model);
    }
    pmtp_sequence(const pmtp_sequence &) = delete;
    pmtp_sequence & operator=(const pmtp_sequence &) = delete;

    pmtp_model & model;
    pmtp::SharedSequence sequence;
};

namespace {

pmtp::ModelParams model_params(const pmtp_model_params & p) {
    pmtp::ModelParams m;
    m.n_ctx = p.n_ctx;
    m.max_num_seqs = p.max_num_seqs;
    m.n_cells = p.n_cells;
    m.prefix_cache_bytes = p.prefix_cache_bytes;
    require_between("drafter", p.drafter, PMTP_DRAFTER_AUTO, PMTP_DRAFTER_NGRAM);
    m.drafter = (pmtp::DrafterKind) p.drafter;
    m.n_batch = p.n_batch;
    m.n_threads = p.n_threads;
    m.n_gpu_layers = p.n_gpu_layers;
    m.flash_attention = p.flash_attention;
    m.cache_type_k = p.cache_type_k;
    m.cache_type_v = p.cache_type_v;
    m.cache_type_k_swa = p.cache_type_k_swa;
    m.cache_type_v_swa = p.cache_type_v_swa;
    m.watch = p.watch != nullptr ? Watch(&p.watch->stage, &p.watch->per_mille, &p.watch->stop) : Watch();
    return m;
}

pmtp_model_info model_info(const pmtp::ModelInfo & m) {
    pmtp_model_info info = {};
    info.n_vocab = m.n_vocab;
    info.n_ctx = m.n_ctx;
    info.max_num_seqs = m.max_num_seqs;
    info.n_cells = m.n_cells;
    info.drafter = (int32_t) m.drafter;
    info.n_ctx_train = m.n_ctx_train;
    info.n_embd = m.n_embd;
    info.n_layer = m.n_layer;
    info.n_swa = m.n_swa;
    info.n_threads = m.n_threads;
    info.has_head = m.has_head;
    info.head_n_centroids = m.head_n_centroids;
    info.head_top_k = m.head_top_k;
    info.flash_attention = m.flash_attention;
    info.batch_invariant = m.batch_invariant;
    info.token_bos = m.token_bos;
    info.token_eos = m.token_eos;
    info.add_bos = m.add_bos;
    info.n_params = m.n_params;
    info.target_bytes = m.target_bytes;
    info.embedding_bytes = m.embedding_bytes;
    info.head_bytes = m.head_bytes;
    info.cache_bytes = m.cache_bytes;
    info.compute_bytes = m.compute_bytes;
    return info;
}

pmtp::SequenceParams sequence_params(const pmtp_sequence_params & p, const std::vector<int32_t> & model_ends) {
    pmtp::SequenceParams s;
    s.sampling.warp = { p.temperature, p.top_p, p.min_p, p.top_k };
    s.sampling.presence_penalty = p.presence_penalty;
    s.sampling.frequency_penalty = p.frequency_penalty;
    s.sampling.repetition_penalty = p.repetition_penalty;
    s.sampling.min_tokens = p.min_tokens;
    s.sampling.n_logprobs = p.n_logprobs;
    for (int32_t i = 0; i < p.n_logit_bias; i++) {
        s.sampling.logit_bias.push_back({ p.logit_bias[i].token, p.logit_bias[i].bias });
    }
    s.sampling.end_tokens.assign(p.stop_tokens, p.stop_tokens + p.n_stop_tokens);
    if (!p.ignore_eos) {
        s.sampling.end_tokens.insert(s.sampling.end_tokens.end(), model_ends.begin(), model_ends.end());
    }
    s.grammar = { p.grammar.masks, p.grammar.commit, p.grammar.user, p.grammar.allows };
    s.n_prompt_logprobs = p.n_prompt_logprobs;
    s.max_tokens = p.max_tokens;
    s.seed = p.seed;
    s.reproducible = p.reproducible != 0;
    s.rule = (pmtp::Rule) p.acceptance;
    s.drafts = p.num_speculative_tokens;
    s.synthetic.assign(p.synthetic_acceptance, p.synthetic_acceptance + p.n_synthetic_acceptance);
    return s;
}

void write(const pmtp::Burst & from, pmtp_burst & out) {
    const pmtp::Sequence & s = *from.sequence;
    out = {};
    out.sequence = static_cast<pmtp_sequence *>(s.owner);
    out.n_prompt = from.n_prompt;
    out.is_round = from.is_round;
    out.n_drafted = from.n_drafted;
    out.n_accepted = from.n_accepted;
    out.n_emitted = from.n_emitted;
    out.finish = (int32_t) from.finish;
    out.status = from.finish == pmtp::Finish::failed ? (int32_t) s.status() : (int32_t) PMTP_OK;
    std::copy(from.drafted.begin(), from.drafted.end(), out.drafted);
    std::copy(from.emitted.begin(), from.emitted.end(), out.emitted);
    if (from.n_emitted > 0 && !s.logprobs().empty()) {
        out.logprobs = reinterpret_cast<const pmtp_token_logprob *>(s.logprobs().data());
    }
    if (from.n_prompt > 0 && !s.prompt_logprobs().empty()) {
        out.n_prompt_logprobs = s.n_prompt_reported();
        out.prompt_logprobs = reinterpret_cast<const pmtp_token_logprob *>(s.prompt_logprobs().data());
    }
}

pmtp_stats stats_of(const pmtp::Statistics & s) {
    pmtp_stats out = {};
    out.prompt_tokens = s.prompt_tokens;
    out.cached_prompt_tokens = s.cached_prompt_tokens;
    out.completion_tokens = s.completion_tokens;
    out.acceptance = (int32_t) s.rule;
    out.rounds = s.rounds;
    out.drafted = s.drafted;
    out.accepted = s.accepted;
    out.drafting_rounds = s.drafting_rounds;
    out.drafting_rounds_emitted = s.drafting_rounds_emitted;
    std::copy(s.drafted_per_position.begin(), s.drafted_per_position.end(), out.drafted_per_position);
    std::copy(s.accepted_per_position.begin(), s.accepted_per_position.end(), out.accepted_per_position);
    out.queue_seconds = s.queue_seconds;
    out.prompt_seconds = s.prompt_seconds;
    out.decode_seconds = s.decode_seconds;
    out.draft_seconds = s.draft_seconds;
    out.verify_seconds = s.verify_seconds;
    out.sample_seconds = s.sample_seconds;
    return out;
}

}  // namespace

int32_t pmtp_abi_version(void) { return PMTP_ABI_VERSION; }

const char * pmtp_last_error(void) { return last_error.c_str(); }

void pmtp_set_log(pmtp_log_fn log, void * user) { pmtp::set_log(log, user); }

void pmtp_log_keep(int32_t level, const char * text, void * /*user*/) { pmtp::keep_line(level, text); }

int32_t pmtp_log_take(char * text, int32_t capacity, int32_t * level) {
    return text != nullptr && level != nullptr ? pmtp::take_line(text, capacity, *level) : -1;
}

void pmtp_shutdown(void) { pmtp::shut_down(); }

pmtp_model_params pmtp_default_model_params(void) {
    pmtp_model_params p = {};
    p.max_num_seqs = 1;
    p.n_batch = 512;
    p.n_threads = 4;
    p.n_gpu_layers = -1;
    p.flash_attention = -1;
    p.cache_type_k = "f16";
    p.cache_type_v = "f16";
    return p;
}

pmtp_sequence_params pmtp_default_sequence_params(void) {
    pmtp_sequence_params p = {};
    p.max_tokens = INT32_MAX;
    p.temperature = 1.0;
    p.top_p = 1.0;
    p.repetition_penalty = 1.0;
    p.reproducible = 1;
    p.n_logprobs = -1;
    p.n_prompt_logprobs = -1;
    p.num_speculative_tokens = PMTP_DRAFT_AUTO;
    return p;
}

pmtp_status pmtp_model_load(const char * target_path, const char * head_path, const pmtp_model_params * params,
                            pmtp_model ** out) {
    return computing([&] {
        require(target_path != nullptr && params != nullptr && out != nullptr, "pmtp_model_load: NULL argument");
        *out = nullptr;
        *out = new pmtp_model(target_path, head_path, model_params(*params));
    });
}

void pmtp_model_free(pmtp_model * model) {
    const pmtp::Free call;
    if (model != nullptr && model->process == pmtp::process() && !pmtp::ending()) {
        give_up(model);
    }
}

void pmtp_model_release(pmtp_model ** model) {
    if (model != nullptr) {
        pmtp_model_free(__atomic_exchange_n(model, nullptr, __ATOMIC_ACQ_REL));
    }
}

pmtp_status pmtp_model_get_info(const pmtp_model * model, pmtp_model_info * out) {
    return guarded([&] {
        require(model != nullptr && out != nullptr, "pmtp_model_get_info: NULL argument");
        require_own(*model);
        *out = model_info(model->info());
    });
}

pmtp_status pmtp_model_get_usage(pmtp_model * model, pmtp_usage * out) {
    return computing([&] {
        require(model != nullptr && out != nullptr, "pmtp_model_get_usage: NULL argument");
        require_own(*model);
        const pmtp::Usage usage = model->engine().usage();
        *out = { usage.n_running, usage.n_waiting, usage.n_cells, (int64_t) usage.prefix_bytes };
    });
}

const char * pmtp_model_metadata(const pmtp_model * model, const char * key) {
    return model != nullptr && key != nullptr ? model->metadata(key) : nullptr;
}

const char * pmtp_model_batch_dependence(const pmtp_model * model) {
    return model != nullptr ? model->batch_dependence().c_str() : "";
}

const char * pmtp_model_placement(const pmtp_model * model) {
    return model != nullptr ? model->placement().c_str() : "";
}

// tokenize: fills `tokens` as llama_tokenize() does.
template <typename Tokenize> static void fill_tokens(const pmtp_model & model, const char * name, size_t text_size,
                                                     int32_t capacity, int32_t * n_tokens, Tokenize tokenize) {
    require(text_size <= INT32_MAX / 2, format("%s: the text is too long", name));
    const int64_t least = model.text_limits().least_tokens(text_size);
    if (least > capacity) {
        *n_tokens = (int32_t) least;
        throw Error(Status::invalid_argument,
                    format("%s: room for %d tokens, at least %d needed", name, capacity, *n_tokens));
    }
    const int32_t n = tokenize();
    *n_tokens = n < 0 ? -n : n;
    if (n < 0) {
        throw Error(Status::invalid_argument, format("%s: room for %d tokens, %d needed", name, capacity, -n));
    }
}

pmtp_status pmtp_tokenize(const pmtp_model * model, const char * text, size_t text_size, int32_t add_special,
                          int32_t parse_special, int32_t * tokens, int32_t capacity, int32_t * n_tokens,
                          const pmtp_watch * watch) {
    return computing([&] {
        require(model != nullptr && text != nullptr && n_tokens != nullptr && capacity >= 0 &&
                    (tokens != nullptr || capacity == 0),
                "pmtp_tokenize: NULL argument");
        require_own(*model);
        fill_tokens(*model, "pmtp_tokenize", text_size, capacity, n_tokens, [&] {
            return pmtp::tokenize(model->vocab(), text, (int32_t) text_size, add_special != 0, parse_special != 0,
                                  tokens, capacity, watch_of(watch));
        });
    });
}

pmtp_status pmtp_tokenize_parts(const pmtp_model * model, const pmtp_text * parts, size_t n_parts, int32_t add_special,
                                int32_t * tokens, int32_t capacity, int32_t * n_tokens, const pmtp_watch * watch) {
    return computing([&] {
        require(model != nullptr && (parts != nullptr || n_parts == 0) && n_tokens != nullptr && capacity >= 0 &&
                    (tokens != nullptr || capacity == 0),
                "pmtp_tokenize_parts: NULL argument");
        require_own(*model);
        std::string text, literal;
        for (size_t i = 0; i < n_parts; i++) {
            require(parts[i].text != nullptr || parts[i].size == 0, "pmtp_tokenize_parts: NULL text");
            require(parts[i].size <= INT32_MAX / 2, "pmtp_tokenize_parts: the text is too long");
            text.append(parts[i].size > 0 ? parts[i].text : "", parts[i].size);
            literal.append(parts[i].size, parts[i].is_literal != 0 ? 1 : 0);
        }
        fill_tokens(*model, "pmtp_tokenize_parts", text.size(), capacity, n_tokens, [&] {
            return pmtp::tokenize_parts(model->vocab(), text, literal, add_special != 0, tokens, capacity,
                                        watch_of(watch));
        });
    });
}

pmtp_status pmtp_token_bytes(const pmtp_model * model, int32_t token, int32_t special, char * bytes, int32_t capacity,
                             int32_t * n_bytes) {
    return guarded([&] {
        require(model != nullptr && n_bytes != nullptr && capacity >= 0 && (bytes != nullptr || capacity == 0),
                "pmtp_token_bytes: NULL argument");
        require_own(*model);
        require_tokens(*model, &token, 1, "pmtp_token_bytes");
        const int32_t n = llama_token_to_piece(model->vocab(), token, bytes, capacity, /*lstrip*/ 0, special != 0);
        *n_bytes = n < 0 ? -n : n;
        if (n < 0) {
            throw Error(Status::invalid_argument,
                        format("pmtp_token_bytes: room for %d bytes, %d needed", capacity, -n));
        }
    });
}

pmtp_status pmtp_vocabulary_bytes(const pmtp_model * model, int32_t special, char * bytes, size_t capacity,
                                  uint32_t * sizes, size_t * n_bytes) {
    return guarded([&] {
        require(model != nullptr && sizes != nullptr && n_bytes != nullptr && (bytes != nullptr || capacity == 0),
                "pmtp_vocabulary_bytes: NULL argument");
        require_own(*model);
        size_t used = 0;
        for (int32_t token = 0; token < model->n_vocab(); token++) {
            const size_t left = used < capacity ? capacity - used : 0;
            const int32_t n =
                llama_token_to_piece(model->vocab(), token, left > 0 ? bytes + used : nullptr,
                                     (int32_t) std::min<size_t>(left, INT32_MAX), /*lstrip*/ 0, special != 0);
            sizes[token] = n < 0 ? -n : n;
            used += sizes[token];
        }
        *n_bytes = used;
        if (used > capacity) {
            throw Error(Status::invalid_argument,
                        format("pmtp_vocabulary_bytes: room for %zu bytes, %zu needed", capacity, used));
        }
    });
}

int32_t pmtp_token_is_end(const pmtp_model * model, int32_t token) {
    return model != nullptr && std::count(model->end_tokens().begin(), model->end_tokens().end(), token) > 0;
}

pmtp_status pmtp_logits(pmtp_model * model, const int32_t * tokens, int32_t n_tokens, int32_t n_batch, float * logits,
                        const pmtp_watch * watch) {
    return computing([&] {
        require(model != nullptr && logits != nullptr, "pmtp_logits: NULL argument");
        require_own(*model);
        require_tokens(*model, tokens, n_tokens, "pmtp_logits");
        require_between("n_batch", n_batch, 1, pmtp::kLeastBatch);
        const Watch stop = watch_of(watch);
        model->engine().logits(tokens, n_tokens, n_batch, logits, [&] { return stop.stopped(); });
    });
}

pmtp_status pmtp_model_save_state(pmtp_model * model, const char * path) {
    return computing([&] {
        require(model != nullptr && path != nullptr, "pmtp_model_save_state: NULL argument");
        require_own(*model);
        model->engine().save_state(path);
    });
}

pmtp_status pmtp_model_load_state(pmtp_model * model, const char * path, int32_t * n_texts) {
    return computing([&] {
        require(model != nullptr && path != nullptr && n_texts != nullptr, "pmtp_model_load_state: NULL argument");
        require_own(*model);
        *n_texts = model->engine().load_state(path);
    });
}

pmtp_status pmtp_sequence_start(pmtp_model * model, const pmtp_segment * segments, int32_t n_segments,
                                const pmtp_sequence_params * params, pmtp_sequence ** out) {
    return computing([&] {
        require(model != nullptr && params != nullptr && out != nullptr, "pmtp_sequence_start: NULL argument");
        *out = nullptr;
        require_own(*model);
        require(n_segments >= 0 && (segments != nullptr || n_segments == 0), "prompt: no segments given");
        check(*model, *params);
        pmtp::SequenceParams p = sequence_params(*params, model->end_tokens());
        std::vector<int32_t> prompt;
        for (int32_t i = 0; i < n_segments; i++) {
            require_tokens(*model, segments[i].tokens, segments[i].n_tokens, "prompt");
            require((int64_t) prompt.size() + segments[i].n_tokens <= INT32_MAX, "the prompt is too long");
            prompt.insert(prompt.end(), segments[i].tokens, segments[i].tokens + segments[i].n_tokens);
            if (segments[i].branches != 0) {
                p.branches.push_back((int) prompt.size());
            }
        }
        require(!prompt.empty(), "the prompt is empty");
        auto handle = std::make_unique<pmtp_sequence>(*model);
        handle->sequence = model->engine().start(std::move(prompt), std::move(p), handle.get());
        *out = handle.release();
    });
}

pmtp_status pmtp_step(pmtp_model * model, pmtp_burst * bursts, int32_t capacity, int32_t * n) {
    return computing([&] {
        require(model != nullptr && n != nullptr && bursts != nullptr, "pmtp_step: NULL argument");
        if (capacity < 1) {
            throw Error(Status::invalid_argument, format("capacity is %d, expected 1 or more", capacity));
        }
        require_own(*model);
        const std::lock_guard lock(model->stepping);
        std::vector<pmtp::Burst> & pending = model->pending;
        int32_t written = 0;
        do {  // again where nobody wants to hear of what a step brought
            if (pending.empty()) {
                model->engine().step(pending);
            }
            size_t taken = 0;
            for (; taken < pending.size() && written < capacity; taken++) {
                if (!pending[taken].sequence->left()) {
                    write(pending[taken], bursts[written++]);
                }
            }
            pending.erase(pending.begin(), pending.begin() + (long) taken);
            if (taken == 0) {  // nothing runs or waits
                break;
            }
        } while (written == 0);
        *n = written;
    });
}

void pmtp_sequence_cancel(pmtp_sequence * sequence) {
    if (sequence != nullptr) {
        sequence->sequence->cancel();
    }
}

pmtp_status pmtp_sequence_truncate(pmtp_sequence * sequence, int32_t n_completion) {
    return computing([&] {
        require(sequence != nullptr, "pmtp_sequence_truncate: NULL argument");
        require_own(sequence->model);
        const std::lock_guard lock(sequence->model.stepping);  // bursts of this sequence may be on their way
        sequence->model.engine().truncate(*sequence->sequence, n_completion);
    });
}

pmtp_status pmtp_sequence_get_stats(const pmtp_sequence * sequence, pmtp_stats * out) {
    return guarded([&] {
        require(sequence != nullptr && out != nullptr, "pmtp_sequence_get_stats: NULL argument");
        require_own(sequence->model);
        *out = stats_of(sequence->sequence->published());
    });
}

int32_t pmtp_matcher_masks(void * user, const int32_t * drafts, int32_t n_drafts, uint32_t * allowed) {
    return static_cast<pmtp::Matcher *>(user)->masks(drafts, n_drafts, allowed);
}

int32_t pmtp_matcher_commit(void * user, const int32_t * tokens, int32_t n) {
    return static_cast<pmtp::Matcher *>(user)->commit(tokens, n);
}

int32_t pmtp_matcher_allows(void * user, const int32_t * tokens, int32_t n) {
    return static_cast<const pmtp::Matcher *>(user)->allows(tokens, n);
}

const char * pmtp_sequence_error(const pmtp_sequence * sequence) {
    return sequence != nullptr ? sequence->sequence->error() : "";
}

void pmtp_sequence_free(pmtp_sequence * sequence) {
    const pmtp::Free call;
    if (sequence != nullptr && sequence->model.process == pmtp::process() && !pmtp::ending()) {
        delete sequence;
    }
}

void pmtp_sequence_release(pmtp_sequence ** sequence) {
    if (sequence != nullptr) {
        pmtp_sequence_free(__atomic_exchange_n(sequence, nullptr, __ATOMIC_ACQ_REL));
    }
}

pmtp_status pmtp_quantize(const char * path, const char * out_path, const char * type, int32_t n_threads,
                          const pmtp_watch * watch) {
    return computing([&] {
        require(path != nullptr && out_path != nullptr && type != nullptr, "pmtp_quantize: NULL argument");
        require(n_threads >= 1, format("n_threads is %d, expected 1 or more", n_threads));
        llama_model_quantize_params params = llama_model_quantize_default_params();
        params.ftype = mixture(type);
        params.nthread = n_threads;
        const pmtp::ErrorLines errors;
        const Watch stop = watch_of(watch);
        const pmtp::Quiet quiet(stop);
        if (llama_model_quantize(path, out_path, &params) != 0) {
            stop.check();
            throw Error(Status::model_load,
                        format("llama.cpp could not quantise %s to %s: %s", path, out_path, errors.text().c_str()));
        }
    });
}
