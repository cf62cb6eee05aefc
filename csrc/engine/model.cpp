#include "engine/model.h"

#include "llama/internal.h"
#include "base/log.h"
#include "base/watch.h"
#include "engine/batch_invariance.h"
#include "engine/device_tables.h"
#include "drafters/gemma4/gemma4_drafter.h"
#include "drafters/ngram/ngram_drafter.h"
#include "llama/hooks/cache_types.h"
#include "llama/hooks/weight_loads.h"

#include <algorithm>
#include <array>

namespace pmtp {

namespace {

// Types that a KV cache may have: every one that llama.cpp reads and writes there.
constexpr std::array kCacheTypes = { GGML_TYPE_F32,    GGML_TYPE_F16,    GGML_TYPE_BF16,   GGML_TYPE_Q8_0,
                                     GGML_TYPE_Q5_1,   GGML_TYPE_Q5_0,   GGML_TYPE_Q4_1,   GGML_TYPE_Q4_0,
                                     GGML_TYPE_IQ4_NL, GGML_TYPE_TURBO4, GGML_TYPE_TURBO3, GGML_TYPE_TURBO2 };

constexpr int64_t kMaxCells = 1 << 30;

ggml_type cache_type(const char * name) {
    std::string known;
    for (ggml_type type : kCacheTypes) {
        if (name != nullptr && std::string(name) == ggml_type_name(type)) {
            return type;
        }
        known += (known.empty() ? "" : ", ") + std::string(ggml_type_name(type));
    }
    throw Error(Status::invalid_argument,
                format("KV cache type '%s' is unknown; known are %s", name ? name : "", known.c_str()));
}

CacheTypes cache_types(const ModelParams & p, const llama_model * model) {
    CacheTypes t{ cache_type(p.cache_type_k), cache_type(p.cache_type_v), {}, {} };
    t.k_swa = p.cache_type_k_swa != nullptr ? cache_type(p.cache_type_k_swa) : t.k;
    t.v_swa = p.cache_type_v_swa != nullptr ? cache_type(p.cache_type_v_swa) : t.v;
    if ((t.k_swa != t.k || t.v_swa != t.v) && llama_model_n_swa(model) == 0) {
        throw Error(
            Status::invalid_argument,
            "cache types for the sliding layers are given, and this model has no sliding layers: leave them out");
    }
    if (p.flash_attention == 0 && (ggml_is_quantized(t.v) || ggml_is_quantized(t.v_swa))) {
        throw Error(Status::invalid_argument,
                    "a quantised cache_type_v needs flash attention; leave it on or choose f16");
    }
    return t;
}

// Prompt tokens of a step in which other sequences decode, on a CPU: some ten rows' time.
constexpr int kSharedChunk = 64;
// Ended sequences that are kept beside those that run.
constexpr int kKept = 16;

int context_length(const ModelParams & p, const llama_model * model) {
    return p.n_ctx != 0 ? p.n_ctx : llama_model_n_ctx_train(model);
}

// Cells of the sliding layers of all sequences that run. llama.cpp's CUDA kernels are at their best with multiples of
// 256.
uint32_t sliding_cells(const llama_context_params & c, const llama_model * model, int max_num_seqs, bool on_gpu) {
    const uint32_t needed = attention::sliding_cells(llama_model_n_swa(model), max_num_seqs, c.n_ubatch);
    return std::min(on_gpu ? GGML_PAD(needed, 256) : needed, GGML_PAD(c.n_ctx, 256));
}

llama_context_params context_params(const ModelParams & p, const CacheTypes & types, const llama_model * model) {
    const auto require = [](bool ok, const char * what, int value, const char * range) {
        if (!ok) {
            throw Error(Status::invalid_argument, format("%s is %d, expected %s", what, value, range));
        }
    };
    require(p.n_ctx >= 0, "n_ctx", p.n_ctx, "0 (as trained) or more");
    require(p.max_num_seqs >= 1 && p.max_num_seqs <= kMaxSequences, "max_num_seqs", p.max_num_seqs, "1..64");
    require(p.n_cells >= 0, "n_cells", p.n_cells, "0 (n_ctx for each sequence) or more");
    require(p.prefix_cache_bytes >= 0, "prefix_cache_bytes", (int) std::max<int64_t>(p.prefix_cache_bytes, INT32_MIN),
            "0 or more");
    require(p.n_batch >= kLeastBatch, "n_batch", p.n_batch, "32 or more");
    require(p.n_threads >= 1 && p.n_threads <= GGML_MAX_N_THREADS, "n_threads", p.n_threads, "1..512");
    require(p.flash_attention >= -1 && p.flash_attention <= 1, "flash_attention", p.flash_attention, "-1, 0 or 1");
    llama_context_params c = llama_context_default_params();
    const int64_t n_cells = p.n_cells != 0 ? p.n_cells : (int64_t) context_length(p, model) * p.max_num_seqs;
    require(n_cells <= kMaxCells, "n_ctx * max_num_seqs", (int) std::min<int64_t>(n_cells, INT32_MAX), "2^30 or less");
    c.n_ctx = (uint32_t) n_cells;
    // Room for a round of every sequence.
    c.n_outputs_max = p.max_num_seqs * (kMaxDraft + 1);
    c.n_outputs_max = std::max<uint32_t>(c.n_outputs_max, kLeastBatch);
    c.n_batch = c.n_ubatch = std::max<uint32_t>(p.n_batch, c.n_outputs_max);
    // Ids for what is kept of ended sequences come on top, where they need no more than cells.
    c.n_seq_max = p.max_num_seqs + (llama_model_is_recurrent(model) || llama_model_is_hybrid(model) ? 0 : kKept);
    c.kv_unified = true;  // else batches of unequal parts are evaluated one by one
    c.n_threads = c.n_threads_batch = p.n_threads;
    c.flash_attn_type = (llama_flash_attn_type) p.flash_attention;
    if (ggml_is_quantized(types.v_swa)) {  // llama.cpp looks at the other layers' type only
        c.flash_attn_type = LLAMA_FLASH_ATTN_TYPE_ENABLED;
    }
    c.type_k = types.k;
    c.type_v = types.v;
    c.swa_full = false;
    return c;
}

llama_model * load_target(const std::string & path, const ModelParams & params) {
    llama_model_params m = llama_model_default_params();
    m.n_gpu_layers = params.n_gpu_layers;
    const DeviceTables tables(path, params.n_gpu_layers);
    m.tensor_buft_overrides = tables.overrides();
    m.check_tensors = true;  // a scale that is no number would spread over every logit
    const Watch watch = params.watch;
    m.progress_callback_user_data = const_cast<Watch *>(&watch);
    m.progress_callback = [](float share, void * user) {
        const Watch & watch = *static_cast<const Watch *>(user);
        watch.report(Stage::target, share);
        return !watch.stopped();
    };
    const ErrorLines errors;
    const WeightLoads loads(params.n_threads, [&] { return watch.stopped(); });
    llama_model * model = llama_model_load_from_file(path.c_str(), m);
    if (model == nullptr) {
        watch.check();
        throw Error(Status::model_load, "cannot load " + path + ": " + errors.text());
    }
    for (const auto & [name, tensor] : llama_internal_get_tensor_map(model)) {
        if (pmtp_is_turbo(tensor->type)) {
            llama_model_free(model);
            throw Error(Status::model_load,
                        format("cannot load %s: tensor %s has type %d, which is not a type of model files",
                               path.c_str(), name.c_str(), (int) tensor->type));
        }
    }
    return model;
}

// TurboQuant needs its rotation: llama.cpp leaves it out where head sizes differ within a cache or are no multiple of
// 64, and on request.
void check_rotation(const llama_kv_cache & cache, ggml_type k, ggml_type v) {
    const std::unique_ptr<ggml_context, void (*)(ggml_context *)> ctx(
        ggml_init({ 4 * ggml_tensor_overhead(), nullptr, /*no_alloc*/ true }), ggml_free);
    const bool rotated_k = cache.build_input_k_rot(ctx.get()) != nullptr,
               rotated_v = cache.build_input_v_rot(ctx.get()) != nullptr;
    for (const auto & [type, rotated] : { std::pair{ k, rotated_k }, std::pair{ v, rotated_v } }) {
        if (pmtp_is_turbo(type) && !rotated) {
            throw Error(Status::model_load, format("KV cache type %s needs rotated heads: all heads of a cache must "
                                                   "have one size, a multiple of 64, and LLAMA_ATTN_ROT_DISABLE "
                                                   "must not be set; choose q4_0 or f16",
                                                   ggml_type_name(type)));
        }
    }
}

void check_rotation(llama_context * context, const CacheTypes & types) {
    llama_memory_t memory = llama_get_memory(context);
    if (const auto * iswa = dynamic_cast<const llama_kv_cache_iswa *>(memory)) {
        check_rotation(*iswa->get_base(), types.k, types.v);
        check_rotation(*iswa->get_swa(), types.k_swa, types.v_swa);
    } else if (const auto * cache = dynamic_cast<const llama_kv_cache *>(memory)) {
        check_rotation(*cache, types.k, types.v);
    } else if (pmtp_is_turbo(types.k) || pmtp_is_turbo(types.v)) {
        throw Error(Status::model_load,
                    "TurboQuant cache types need a model with an ordinary or sliding-window KV cache; choose f16");
    }
}

std::vector<std::pair<std::string, std::string>> read_metadata(const llama_model * model) {
    std::vector<std::pair<std::string, std::string>> all;
    for (int i = 0; i < llama_model_meta_count(model); i++) {
        const auto text = [&](auto read) {
            std::string value(std::max(0, read(model, i, nullptr, 0)), '\0');
            read(model, i, value.data(), value.size() + 1);
            return value;
        };
        all.emplace_back(text(llama_model_meta_key_by_index), text(llama_model_meta_val_str_by_index));
    }
    return all;
}

}  // namespace

Model::Model(const std::string & target_path, const char * head_path, const ModelParams & params)
    : target_(load_target(target_path, params), llama_model_free),
      weights_(take_stock(*target_)),
      n_threads_(params.n_threads) {
    metadata_ = read_metadata(target_.get());
    if (!llama_model_has_decoder(target_.get()) || llama_model_has_encoder(target_.get())) {
        throw Error(Status::model_load, target_path + " is not a text generation model");
    }
    const CacheTypes types = cache_types(params, target_.get());
    EngineParams engine;
    engine.context = context_params(params, types, target_.get());
    engine.n_ctx = context_length(params, target_.get());
    engine.max_num_seqs = params.max_num_seqs;
    engine.n_batch = params.n_batch;
    engine.shared_chunk = kSharedChunk;
    engine.prefix_cache_bytes = (size_t) params.prefix_cache_bytes;
    const Watch watch = params.watch;
    watch.report(Stage::context, 0);
    {
        const bool on_gpu = llama_supports_gpu_offload() && params.n_gpu_layers != 0;
        const SlidingCache sliding(types.k_swa, types.v_swa,
                                   sliding_cells(engine.context, target_.get(), params.max_num_seqs, on_gpu));
        engine_ = std::make_unique<Engine>(target_.get(), engine);
    }
    check_rotation(engine_->target().context(), types);
    for (int32_t token = 0; token < n_vocab(); token++) {
        if (llama_vocab_is_eog(vocab(), token)) {
            end_tokens_.push_back(token);
        }
    }
    if (head_path != nullptr) {
        load_head(head_path, watch);
    }
    set_drafter(params.drafter);
    text_limits_ = TextLimits(vocab(), metadata("tokenizer.ggml.model"));
    describe_placement();
    batch_dependence_ = pmtp::batch_dependence(*engine_->target().context(), types);
    watch.check();
}

void Model::load_head(const char * path, const Watch & watch) {
    const auto * cache = dynamic_cast<const llama_kv_cache_iswa *>(llama_get_memory(engine_->target().context()));
    const char * architecture = metadata("general.architecture");
    if (cache == nullptr || architecture == nullptr || std::string(architecture) != "gemma4") {
        throw Error(Status::incompatible_head,
                    format("the target's architecture is %s; an MTP head needs a gemma4 target",
                           architecture ? architecture : "unknown"));
    }
    // The head computes where the K/V lies that it attends to.
    const ggml_tensor * k = cache->get_base()->get_k_storage(shared_layers(*cache).full);
    ggml_backend_dev_t device = ggml_backend_buft_get_device(ggml_backend_buffer_get_type(k->buffer));
    if (device == nullptr) {
        device = ggml_backend_dev_by_type(GGML_BACKEND_DEVICE_TYPE_CPU);
    }
    head_ = std::make_unique<MtpHead>(path, *target_, *cache, device, watch);
}

void Model::set_drafter(DrafterKind kind) {
    if (kind == DrafterKind::automatic) {
        kind = head_ != nullptr ? DrafterKind::mtp : DrafterKind::none;
    }
    drafter_ = kind;
    if (kind == DrafterKind::mtp) {
        if (head_ == nullptr) {
            throw Error(Status::invalid_argument, "the drafter is the MTP head, and none was given: pass its file");
        }
        // Measured at E2B's shape: drafting at all costs about 0.1 of a round, one more row in the verify batch 0.08,
        // on a CPU and on a GPU. A draft reads the head's weights once more.
        const double step = 0.08 + (double) head_->bytes() / std::max<uint64_t>(1, llama_model_size(target_.get()));
        engine_->set_drafter(
            std::make_unique<Gemma4Drafter>(*head_, engine_->target().context(), engine_->params().max_num_seqs),
            RoundCosts(0.1, step));
    } else if (kind == DrafterKind::ngram) {
        engine_->set_drafter(std::make_unique<NgramDrafter>(), RoundCosts(0.0, 0.08));
    }
}

const char * Model::metadata(const std::string & key) const {
    for (const auto & [name, value] : metadata_) {
        if (name == key) {
            return value.c_str();
        }
    }
    return nullptr;
}

void Model::describe_placement() {
    for (const auto & [buft, data] : llama_get_memory_breakdown(engine_->target().context())) {
        const auto found = weights_.bytes.find(buft);
        const size_t weights = found != weights_.bytes.end() ? found->second : 0;
        placement_ += format("%s%s: weights %.1f MiB, KV cache %.1f MiB, compute %.1f MiB",
                             placement_.empty() ? "" : "; ", ggml_backend_buft_name(buft), weights / 1048576.0,
                             data.context / 1048576.0, data.compute / 1048576.0);
    }
}

ModelInfo Model::info() const {
    ModelInfo info = {};
    info.n_vocab = n_vocab();
    info.n_ctx = engine_->params().n_ctx;
    info.max_num_seqs = engine_->params().max_num_seqs;
    info.n_cells = engine_->n_cells();
    info.drafter = drafter_;
    info.n_ctx_train = llama_model_n_ctx_train(target_.get());
    info.n_embd = llama_model_n_embd(target_.get());
    info.n_layer = llama_model_n_layer(target_.get());
    info.n_swa = llama_model_n_swa(target_.get());
    info.n_threads = n_threads_;
    info.has_head = head_ != nullptr;
    info.head_n_centroids = head_ ? head_->n_centroids : 0;
    info.head_top_k = head_ ? head_->top_k : 0;
    info.flash_attention = engine_->target().context()->get_cparams().flash_attn;
    info.batch_invariant = batch_dependence_.empty();
    info.token_bos = llama_vocab_bos(vocab());
    info.token_eos = llama_vocab_eos(vocab());
    info.add_bos = llama_vocab_get_add_bos(vocab());
    info.n_params = (int64_t) llama_model_n_params(target_.get());
    for (const auto & [buft, bytes] : weights_.bytes) {
        info.target_bytes += bytes;
    }
    info.embedding_bytes = weights_.embedding_bytes;
    info.head_bytes = head_ ? (int64_t) head_->bytes() : 0;
    info.compute_bytes = engine_->drafter() ? (int64_t) engine_->drafter()->compute_bytes() : 0;
    for (const auto & [buft, data] : llama_get_memory_breakdown(engine_->target().context())) {
        info.cache_bytes += data.context;
        info.compute_bytes += data.compute;
    }
    return info;
}

}  // namespace pmtp
