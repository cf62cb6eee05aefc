#include "drafters/gemma4/mtp_head.h"

#include "base/error.h"
#include "drafters/gemma4/head_layout.h"
#include "llama/internal.h"

#include <algorithm>
#include <utility>

namespace pmtp {

namespace {

// Of the assistants of E2B and E4B, which were trained with a centroid head.
constexpr int kEdgeWidth = 256;

[[noreturn]] void mismatch(const char * what, long long head, long long target) {
    throw Error(
        Status::incompatible_head,
        format("the MTP head was made for another target: its %s is %lld, the target's is %lld. Use the assistant that "
               "belongs to this model.",
               what, head, target));
}

void require_equal(const char * what, long long head, long long target) {
    if (head != target) {
        mismatch(what, head, target);
    }
}

// What the target divides its angles by on a full attention layer: older heads were published without factors of their
// own.
std::vector<float> rope_factors_of(const llama_model & target, int layer, int64_t n) {
    const ggml_tensor * factors = target.layers[layer].rope_freqs;
    if (factors == nullptr || ggml_nelements(factors) != n) {
        bad_file("tensor rope_freqs.weight is missing, and the target has none either; convert the checkpoint with "
                 "convert-assistant");
    }
    std::vector<float> values(n);
    ggml_backend_tensor_get(factors, values.data(), 0, ggml_nbytes(factors));
    return values;
}

}  // namespace

SharedLayers shared_layers(const llama_kv_cache_iswa & cache) {
    const auto last = [](const llama_kv_cache * kv) {
        const std::vector<uint32_t> ids = kv->get_layer_ids();
        if (ids.empty()) {
            throw Error(Status::incompatible_head,
                        "the target needs both sliding and full attention layers to share with a head");
        }
        return (int) *std::max_element(ids.begin(), ids.end());
    };
    return { last(cache.get_base()), last(cache.get_swa()) };
}

// Reads a head in the order in which its parts depend on each other. Everything that a graph will rely on is checked
// before a weight is read.
class MtpHead::Reader {
  public:
    Reader(const std::string & path, MtpHead & head, const llama_model & target, const llama_kv_cache_iswa & cache,
           ggml_backend_dev_t device)
        : head_(head),
          target_(target),
          shared_(shared_layers(cache)),
          tensors_(path, device),
          meta_(tensors_.gguf()),
          layout_(layout_of(path, meta_.text("general.architecture"),
                            [this](const Layout & layout) { return has_centroids(layout); })),
          prefix_(std::string(layout_.architecture) + ".") {}

    void read(const Watch & watch) {
        read_sizes();
        require_target();
        read_centroid_sizes();
        declare_projections();
        declare_layers();
        declare_lm_head();
        head_.storage_ = tensors_.load(watch);
    }

  private:
    bool has_centroids(const Layout & layout) const {
        return layout.tensors ? tensors_.has(layout.centroids)
                              : meta_.has(std::string(layout.architecture) + "." + layout.n_centroids);
    }

    // What the full attention layers have in common, and the sliding ones.
    struct LayerKind {
        int head_size;
        int n_rot;
        float rope_base;
        int n_head_kv;  // of the target's layer that they attend to
    };

    LayerKind layer_kind(const char * suffix, int target_layer) const {
        LayerKind kind;
        kind.head_size = meta_.u32(prefix_ + "attention.key_length" + suffix, 1 << 12);
        kind.n_rot = meta_.u32(prefix_ + "rope.dimension_count" + suffix, kind.head_size);
        kind.rope_base = meta_.f32(prefix_ + "rope.freq_base" + suffix);
        kind.n_head_kv = (int) target_.hparams.n_head_kv(target_layer);
        return kind;
    }

    void read_sizes() {
        n_layer_ = meta_.u32(prefix_ + "block_count", 64);
        head_.n_embd = meta_.u32(prefix_ + "embedding_length", 1 << 16);
        head_.n_embd_backbone = meta_.u32(prefix_ + layout_.n_embd_backbone, 1 << 20);
        head_.window = meta_.u32(prefix_ + "attention.sliding_window", 1u << 30);
        head_.rms_eps = meta_.f32(prefix_ + "attention.layer_norm_rms_epsilon");
        full_ = layer_kind("", shared_.full);
        sliding_ = layer_kind("_swa", shared_.sliding);
        if (full_.n_rot % 2 != 0 || sliding_.n_rot % 2 != 0) {
            bad_file(format("%d dimensions are rotated on full attention layers and %d on sliding ones, expected pairs",
                            full_.n_rot, sliding_.n_rot));
        }
        head_.n_vocab = (int) std::min<int64_t>(tensors_.info("token_embd.weight").ne[1], INT32_MAX);
    }

    void require_target() const {
        const llama_hparams & hparams = target_.hparams;
        require_equal("backbone width", head_.n_embd_backbone, target_.tok_embd->ne[0]);
        require_equal("vocabulary size", head_.n_vocab, target_.tok_embd->ne[1]);
        require_equal("head size on full attention layers", full_.head_size, hparams.n_embd_head_k(shared_.full));
        require_equal("head size on sliding layers", sliding_.head_size, hparams.n_embd_head_k(shared_.sliding));
        require_equal("sliding window", head_.window, hparams.n_swa);
    }

    void read_centroid_sizes() {
        const std::string ordered = prefix_ + "use_ordered_embeddings";
        if (!(layout_.tensors && meta_.has(ordered) ? meta_.flag(ordered) : has_centroids(layout_))) {
            return;
        }
        const std::string n_centroids = prefix_ + layout_.n_centroids, top_k = prefix_ + layout_.top_k;
        if (layout_.default_top_k > 0 && !meta_.has(n_centroids)) {
            head_.n_centroids = (int) std::min<int64_t>(tensors_.info(layout_.centroids).ne[1], head_.n_vocab);
        } else {
            head_.n_centroids = meta_.u32(n_centroids, head_.n_vocab);
        }
        if (layout_.default_top_k > 0 && !meta_.has(top_k)) {
            head_.top_k = std::min(layout_.default_top_k, head_.n_centroids);
        } else {
            head_.top_k = meta_.u32(top_k, head_.n_centroids);
        }
        if (head_.n_vocab % head_.n_centroids != 0) {
            bad_file(format("%d centroids do not divide a vocabulary of %d", head_.n_centroids, head_.n_vocab));
        }
    }

    // The target's embedding, which some files repeat, is read from the target.
    void declare_projections() {
        const char * repeated = "mtp_input_embd.weight";
        if (tensors_.has(repeated) && (tensors_.info(repeated).ne[0] != head_.n_embd_backbone ||
                                       tensors_.info(repeated).ne[1] != head_.n_vocab)) {
            bad_file(format("tensor %s is [%lld, %lld], expected the shape of the target's embedding, [%d, %d]",
                            repeated, (long long) tensors_.info(repeated).ne[0],
                            (long long) tensors_.info(repeated).ne[1], head_.n_embd_backbone, head_.n_vocab));
        }
        head_.output_norm = tensors_.vector("output_norm.weight", head_.n_embd);
        head_.pre_projection =
            tensors_.matrix(layout_.pre_projection, 2 * (int64_t) head_.n_embd_backbone, head_.n_embd);
        head_.post_projection = tensors_.matrix(layout_.post_projection, head_.n_embd, head_.n_embd_backbone);
        const int n_factors = full_.head_size / 2;
        if (layout_.tensors && !tensors_.has("rope_freqs.weight")) {
            head_.rope_factors =
                tensors_.constant("rope_freqs", rope_factors_of(target_, shared_.full, n_factors), n_factors, 1);
        } else {
            head_.rope_factors = tensors_.vector("rope_freqs.weight", n_factors);
        }
    }

    void declare_layers() {
        const auto is_sliding =
            meta_.array<int8_t>(prefix_ + "attention.sliding_window_pattern", GGUF_TYPE_BOOL, n_layer_);
        for (int il = 0; il < n_layer_; il++) {
            head_.layers.push_back(declare_layer(il, is_sliding[il] != 0));
        }
    }

    HeadLayer declare_layer(int il, bool sliding) {
        const auto name = [il](const char * part) { return format("blk.%d.%s.weight", il, part); };
        const LayerKind & kind = sliding ? sliding_ : full_;
        const int64_t n_embd = head_.n_embd;
        const int64_t n_q = tensors_.info(name("attn_q")).ne[1];
        const int64_t n_ff = tensors_.info(name("ffn_up")).ne[1];
        HeadLayer layer = {};
        layer.sliding = sliding;
        layer.head_size = kind.head_size;
        layer.n_rot = kind.n_rot;
        layer.rope_base = kind.rope_base;
        layer.n_head = (int) (n_q / kind.head_size);
        if (layer.n_head < 1 || layer.n_head > 1024 || n_q % kind.head_size != 0) {
            bad_file(format("%s has %lld rows, expected a multiple of the head size %d", name("attn_q").c_str(),
                            (long long) n_q, kind.head_size));
        }
        if (layer.n_head % kind.n_head_kv != 0) {
            mismatch("number of query heads, which the target's KV heads must divide,", layer.n_head, kind.n_head_kv);
        }
        layer.attn_norm = tensors_.vector(name("attn_norm"), n_embd);
        layer.attn_q = tensors_.matrix(name("attn_q"), n_embd, n_q);
        layer.attn_q_norm = tensors_.vector(name("attn_q_norm"), kind.head_size);
        layer.attn_output = tensors_.matrix(name("attn_output"), n_q, n_embd);
        layer.post_attention_norm = tensors_.vector(name("post_attention_norm"), n_embd);
        layer.ffn_norm = tensors_.vector(name("ffn_norm"), n_embd);
        layer.ffn_gate = tensors_.matrix(name("ffn_gate"), n_embd, n_ff);
        layer.ffn_up = tensors_.matrix(name("ffn_up"), n_embd, n_ff);
        layer.ffn_down = tensors_.matrix(name("ffn_down"), n_ff, n_embd);
        layer.post_ffw_norm = tensors_.vector(name("post_ffw_norm"), n_embd);
        layer.layer_output_scale =
            tensors_.has(name("layer_output_scale")) ? tensors_.vector(name("layer_output_scale"), 1) : nullptr;
        return layer;
    }

    void declare_lm_head() {
        if (!head_.has_centroids()) {
            if (head_.n_embd == kEdgeWidth) {
                LLAMA_LOG_WARN(
                    "the MTP head has no centroids, with which those of E2B and E4B draft faster: it drafts with its "
                    "dense head. To have them, convert the assistant's checkpoint with convert-assistant.\n");
            }
            head_.lm_head = tensors_.matrix("token_embd.weight", head_.n_embd, head_.n_vocab);
            return;
        }
        const int n_centroids = head_.n_centroids;
        const int per_cluster = head_.n_vocab / n_centroids;
        std::vector<float> rows = layout_.tensors ? tensors_.floats(layout_.centroids, head_.n_embd, n_centroids)
                                                  : meta_.array<float>(prefix_ + layout_.centroids, GGUF_TYPE_FLOAT32,
                                                                       (size_t) n_centroids * head_.n_embd);
        std::vector<int32_t> order =
            layout_.tensors ? tensors_.integers(layout_.token_ordering, head_.n_vocab)
                            : meta_.array<int32_t>(prefix_ + layout_.token_ordering, GGUF_TYPE_INT32, head_.n_vocab);
        require_permutation(order);
        head_.centroids = tensors_.constant("centroids", std::move(rows), head_.n_embd, n_centroids);
        head_.token_ordering = tensors_.constant("token_ordering", order, per_cluster, n_centroids);
        head_.lm_head = tensors_.clusters("token_embd.weight", head_.n_embd, per_cluster, n_centroids, head_.top_k,
                                          std::move(order));
    }

    static void require_permutation(const std::vector<int32_t> & order) {
        const int n = (int) order.size();
        std::vector<bool> seen(n, false);
        for (int i = 0; i < n; i++) {
            if (order[i] < 0 || order[i] >= n || seen[order[i]]) {
                bad_file(format("token_ordering is no permutation of the vocabulary: entry %d is %d", i, order[i]));
            }
            seen[order[i]] = true;
        }
    }

    MtpHead & head_;
    const llama_model & target_;
    const SharedLayers shared_;
    HeadTensors tensors_;
    const Metadata meta_;
    const Layout & layout_;
    const std::string prefix_;
    int n_layer_ = 0;
    LayerKind full_{};
    LayerKind sliding_{};
};

MtpHead::MtpHead(const std::string & path, const llama_model & target, const llama_kv_cache_iswa & cache,
                 ggml_backend_dev_t device, const Watch & watch) {
    Reader(path, *this, target, cache, device).read(watch);
}

size_t MtpHead::bytes() const {
    size_t total = 0;
    for (const TensorStorage & storage : storage_) {
        total += ggml_backend_buffer_get_size(storage.buffer.get());
    }
    return total;
}

}  // namespace pmtp
