#include "drafters/gemma4/mtp_head.h"

#include "base/error.h"
#include "drafters/gemma4/head_layout.h"
#include "llama/internal.h"

#include "ggml-cpu.h"

#include <algorithm>
#include <cstdio>
#include <cstring>
#include <functional>
#include <map>

namespace pmtp {

namespace {

[[noreturn]] void mismatch(const char * what, long long head, long long target) {
    throw Error(
        PMTP_ERROR_INCOMPATIBLE_HEAD,
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
            throw Error(PMTP_ERROR_INCOMPATIBLE_HEAD,
                        "the target needs both sliding and full attention layers to share with a head");
        }
        return (int) *std::max_element(ids.begin(), ids.end());
    };
    return { last(cache.get_base()), last(cache.get_swa()) };
}

// Declares tensors with their expected shapes, gives each a buffer of the kind that its use runs fastest from, then
// fills them.
class MtpHead::Reader {
  public:
    Reader(const std::string & path, MtpHead & head, ggml_backend_dev_t device)
        : head_(head),
          device_(device),
          file_(fopen(path.c_str(), "rb"), fclose),
          gguf_(nullptr, gguf_free),
          infos_(nullptr, ggml_free) {
        if (!file_) {
            bad_file("cannot open " + path);
        }
        ggml_context * infos = nullptr;
        gguf_.reset(gguf_init_from_file(path.c_str(), { /*no_alloc*/ true, &infos }));
        infos_.reset(infos);
        if (!gguf_) {
            bad_file(path + " is not a readable GGUF file");
        }
    }

    const gguf_context * gguf() const { return gguf_.get(); }

    bool has(const std::string & name) const { return ggml_get_tensor(infos_.get(), name.c_str()) != nullptr; }

    const ggml_tensor & info(const std::string & name) const {
        const ggml_tensor * tensor = ggml_get_tensor(infos_.get(), name.c_str());
        if (tensor == nullptr) {
            bad_file("tensor " + name + " is missing; convert the checkpoint again with convert-assistant");
        }
        return *tensor;
    }

    using Check =
        std::function<ggml_tensor *(ggml_context *, ggml_tensor *)>;  // the operation that a weight is used by

    // A norm, scale or factor: f32 with the given number of values.
    ggml_tensor * vector(const std::string & name, int64_t n) {
        const ggml_tensor & file = info(name);
        if (file.type != GGML_TYPE_F32 || ggml_nelements(&file) != n || file.ne[0] != n) {
            bad_file(format("tensor %s is %s [%lld, %lld], expected f32 [%lld]", name.c_str(),
                            ggml_type_name(file.type), (long long) file.ne[0], (long long) file.ne[1], (long long) n));
        }
        return place(name, GGML_TYPE_F32, { n, 1, 1 }, nullptr);
    }

    // A matrix [n_in, n_out] that is multiplied with a state.
    ggml_tensor * matrix(const std::string & name, int64_t n_in, int64_t n_out) {
        const ggml_tensor & file = checked_matrix(name, n_in, n_out);
        return place(name, file.type, { n_in, n_out, 1 }, [=](ggml_context * ctx, ggml_tensor * w) {
            return ggml_mul_mat(ctx, w, ggml_new_tensor_2d(ctx, GGML_TYPE_F32, n_in, 1));
        });
    }

    // The same, seen as n_clusters matrices of which n_used are multiplied.
    ggml_tensor * clusters(const std::string & name, int64_t n_in, int64_t n_rows, int64_t n_clusters, int64_t n_used) {
        const ggml_tensor & file = checked_matrix(name, n_in, n_rows * n_clusters);
        return place(name, file.type, { n_in, n_rows, n_clusters }, [=](ggml_context * ctx, ggml_tensor * w) {
            return ggml_mul_mat_id(ctx, w, ggml_new_tensor_3d(ctx, GGML_TYPE_F32, n_in, 1, 1),
                                   ggml_new_tensor_2d(ctx, GGML_TYPE_I32, n_used, 1));
        });
    }

    // A tensor that comes from metadata or the target.
    ggml_tensor * constant(const char * name, ggml_type type, int64_t ne0, int64_t ne1) {
        return place(name, type, { ne0, ne1, 1 }, nullptr);
    }

    void allocate() {
        for (auto & [buft, ctx] : contexts_) {
            ggml_backend_buffer_t buffer = ggml_backend_alloc_ctx_tensors_from_buft(ctx, buft);
            if (buffer == nullptr) {
                throw Error(PMTP_ERROR_OUT_OF_MEMORY,
                            format("MTP head: cannot allocate weights in %s", ggml_backend_buft_name(buft)));
            }
            ggml_backend_buffer_set_usage(buffer, GGML_BACKEND_BUFFER_USAGE_WEIGHTS);
            for (Storage & slot : head_.storage_) {
                if (slot.context.get() == ctx) {
                    slot.buffer.reset(buffer);
                }
            }
        }
    }

    std::vector<uint8_t> bytes(const std::string & name) const {
        const int64_t id = gguf_find_tensor(gguf_.get(), name.c_str());
        std::vector<uint8_t> data(gguf_get_tensor_size(gguf_.get(), id));
        const size_t offset = gguf_get_data_offset(gguf_.get()) + gguf_get_tensor_offset(gguf_.get(), id);
        if (fseeko(file_.get(), (off_t) offset, SEEK_SET) != 0 ||
            fread(data.data(), 1, data.size(), file_.get()) != data.size()) {
            bad_file(format("tensor %s ends past the end of the file", name.c_str()));
        }
        if (!ggml_validate_row_data(info(name).type, data.data(), data.size())) {
            bad_file(format("tensor %s holds values that are not finite numbers; get the file again", name.c_str()));
        }
        return data;
    }

    // All values of a matrix of any type as f32, of shape [n_in, n_out].
    std::vector<float> floats(const std::string & name, int64_t n_in, int64_t n_out) const {
        const ggml_tensor & file = checked_matrix(name, n_in, n_out);
        const std::vector<uint8_t> data = bytes(name);
        std::vector<float> values(n_in * n_out);
        if (file.type == GGML_TYPE_F32) {
            memcpy(values.data(), data.data(), data.size());
        } else {
            ggml_get_type_traits(file.type)->to_float(data.data(), values.data(), (int64_t) values.size());
        }
        return values;
    }

    std::vector<int32_t> integers(const std::string & name, int64_t n) const {
        const ggml_tensor & file = info(name);
        if (file.type != GGML_TYPE_I32 || ggml_nelements(&file) != n) {
            bad_file(format("tensor %s holds %lld values of type %s, expected %lld of type i32", name.c_str(),
                            (long long) ggml_nelements(&file), ggml_type_name(file.type), (long long) n));
        }
        const std::vector<uint8_t> data = bytes(name);
        std::vector<int32_t> values(n);
        memcpy(values.data(), data.data(), data.size());
        return values;
    }

    void fill(ggml_tensor * tensor) const {
        const std::vector<uint8_t> data = bytes(tensor->name);
        ggml_backend_tensor_set(tensor, data.data(), 0, data.size());
    }

    // Row r of the tensor becomes row order[r] of the file.
    void fill_rows(ggml_tensor * tensor, const int32_t * order, int64_t n_rows) const {
        const std::vector<uint8_t> data = bytes(tensor->name);
        const size_t row = data.size() / n_rows;
        std::vector<uint8_t> sorted(data.size());
        for (int64_t r = 0; r < n_rows; r++) {
            std::copy_n(data.begin() + order[r] * row, row, sorted.begin() + r * row);
        }
        ggml_backend_tensor_set(tensor, sorted.data(), 0, sorted.size());
    }

  private:
    const ggml_tensor & checked_matrix(const std::string & name, int64_t n_in, int64_t n_out) const {
        const ggml_tensor & file = info(name);
        if (file.ne[0] != n_in || file.ne[1] != n_out || ggml_nelements(&file) != n_in * n_out) {
            bad_file(format("tensor %s is [%lld, %lld], expected [%lld, %lld]", name.c_str(), (long long) file.ne[0],
                            (long long) file.ne[1], (long long) n_in, (long long) n_out));
        }
        if (ggml_get_type_traits_cpu(file.type)->vec_dot == nullptr) {
            bad_file(
                format("tensor %s has type %s, which no kernel multiplies", name.c_str(), ggml_type_name(file.type)));
        }
        return file;
    }

    ggml_tensor * place(const std::string & name, ggml_type type, std::vector<int64_t> ne, const Check & use) {
        std::vector<ggml_backend_buffer_type_t> bufts;
        const auto extra = (ggml_backend_dev_get_extra_bufts_t) ggml_backend_reg_get_proc_address(
            ggml_backend_dev_backend_reg(device_), "ggml_backend_dev_get_extra_bufts");
        if (use && extra) {  // repacked weights
            for (ggml_backend_buffer_type_t * b = extra(device_); b && *b; b++) {
                bufts.push_back(*b);
            }
        }
        bufts.push_back(ggml_backend_dev_buffer_type(device_));
        for (ggml_backend_buffer_type_t buft : bufts) {
            if (!use || supports(buft, type, ne, use)) {
                ggml_tensor * tensor = ggml_new_tensor(context(buft), type, 3, ne.data());
                return ggml_set_name(tensor, name.c_str());
            }
        }
        bad_file(format("%s cannot multiply tensor %s of type %s", ggml_backend_dev_name(device_), name.c_str(),
                        ggml_type_name(type)));
    }

    bool supports(ggml_backend_buffer_type_t buft, ggml_type type, const std::vector<int64_t> & ne,
                  const Check & use) const {
        Handle<ggml_context> ctx(ggml_init({ 8 * ggml_tensor_overhead(), nullptr, true }), ggml_free);
        Handle<ggml_backend_buffer> buffer(ggml_backend_buft_alloc_buffer(buft, 0), ggml_backend_buffer_free);
        ggml_tensor * weight = ggml_new_tensor(ctx.get(), type, 3, ne.data());
        weight->buffer = buffer.get();
        return buffer && ggml_backend_dev_supports_op(device_, use(ctx.get(), weight));
    }

    ggml_context * context(ggml_backend_buffer_type_t buft) {
        ggml_context *& ctx = contexts_[buft];
        if (ctx == nullptr) {
            ctx = ggml_init({ 1024 * ggml_tensor_overhead(), nullptr, /*no_alloc*/ true });
            head_.storage_.push_back({ Handle<ggml_context>(ctx, ggml_free), { nullptr, ggml_backend_buffer_free } });
        }
        return ctx;
    }

    MtpHead & head_;
    ggml_backend_dev_t device_;
    std::unique_ptr<FILE, int (*)(FILE *)> file_;
    Handle<gguf_context> gguf_;
    Handle<ggml_context> infos_;
    std::map<ggml_backend_buffer_type_t, ggml_context *> contexts_;
};

MtpHead::MtpHead(const std::string & path, const llama_model & target, const llama_kv_cache_iswa & cache,
                 ggml_backend_dev_t device) {
    Reader reader(path, *this, device);
    const Metadata meta(reader.gguf());
    const Layout & layout = layout_of(path, meta.text("general.architecture"));
    const std::string p = std::string(layout.architecture) + ".";
    const int n_layer = meta.u32(p + "block_count", 64);
    n_embd = meta.u32(p + "embedding_length", 1 << 16);
    n_embd_backbone = meta.u32(p + layout.n_embd_backbone, 1 << 20);
    window = meta.u32(p + "attention.sliding_window", 1u << 30);
    rms_eps = meta.f32(p + "attention.layer_norm_rms_epsilon");
    const int head_size = meta.u32(p + "attention.key_length", 1 << 12);
    const int head_size_swa = meta.u32(p + "attention.key_length_swa", 1 << 12);
    const int n_rot = meta.u32(p + "rope.dimension_count", head_size);
    const int n_rot_swa = meta.u32(p + "rope.dimension_count_swa", head_size_swa);
    if (n_rot % 2 != 0 || n_rot_swa % 2 != 0) {
        bad_file(format("%d dimensions are rotated on full attention layers and %d on sliding ones, expected pairs",
                        n_rot, n_rot_swa));
    }
    const float rope_base = meta.f32(p + "rope.freq_base");
    const float rope_base_swa = meta.f32(p + "rope.freq_base_swa");
    const auto pattern = meta.array<int8_t>(p + "attention.sliding_window_pattern", GGUF_TYPE_BOOL, n_layer);
    n_vocab = (int) std::min<int64_t>(reader.info("token_embd.weight").ne[1], INT32_MAX);

    const SharedLayers shared = shared_layers(cache);
    const llama_hparams & hparams = target.hparams;
    require_equal("backbone width", n_embd_backbone, target.tok_embd->ne[0]);
    require_equal("vocabulary size", n_vocab, target.tok_embd->ne[1]);
    require_equal("head size on full attention layers", head_size, hparams.n_embd_head_k(shared.full));
    require_equal("head size on sliding layers", head_size_swa, hparams.n_embd_head_k(shared.sliding));
    require_equal("sliding window", window, hparams.n_swa);

    const std::string ordered = p + "use_ordered_embeddings";
    const bool has_arrays = !layout.tensors && meta.has(p + layout.n_centroids);
    const bool has_tensors = layout.tensors && (meta.has(ordered) ? meta.flag(ordered) : reader.has(layout.centroids));
    if (has_arrays || has_tensors) {
        n_centroids = meta.u32(p + layout.n_centroids, n_vocab);
        top_k = meta.u32(p + layout.top_k, n_centroids);
        if (n_vocab % n_centroids != 0) {
            bad_file(format("%d centroids do not divide a vocabulary of %d", n_centroids, n_vocab));
        }
    }

    output_norm = reader.vector("output_norm.weight", n_embd);
    pre_projection = reader.matrix(layout.pre_projection, 2 * (int64_t) n_embd_backbone, n_embd);
    post_projection = reader.matrix(layout.post_projection, n_embd, n_embd_backbone);
    std::vector<float> targets_factors;
    if (layout.tensors && !reader.has("rope_freqs.weight")) {
        targets_factors = rope_factors_of(target, shared.full, head_size / 2);
        rope_factors = reader.constant("rope_freqs", GGML_TYPE_F32, head_size / 2, 1);
    } else {
        rope_factors = reader.vector("rope_freqs.weight", head_size / 2);
    }
    for (int il = 0; il < n_layer; il++) {
        const auto name = [il](const char * part) { return format("blk.%d.%s.weight", il, part); };
        HeadLayer layer = {};
        layer.sliding = pattern[il] != 0;
        layer.head_size = layer.sliding ? head_size_swa : head_size;
        layer.n_rot = layer.sliding ? n_rot_swa : n_rot;
        layer.rope_base = layer.sliding ? rope_base_swa : rope_base;
        const int64_t n_q = reader.info(name("attn_q")).ne[1];
        const int n_head_kv = (int) hparams.n_head_kv(layer.sliding ? shared.sliding : shared.full);
        layer.n_head = (int) (n_q / layer.head_size);
        if (layer.n_head < 1 || layer.n_head > 1024 || n_q % layer.head_size != 0) {
            bad_file(format("%s has %lld rows, expected a multiple of the head size %d", name("attn_q").c_str(),
                            (long long) n_q, layer.head_size));
        }
        if (layer.n_head % n_head_kv != 0) {
            mismatch("number of query heads, which the target's KV heads must divide,", layer.n_head, n_head_kv);
        }
        const int64_t n_ff = reader.info(name("ffn_up")).ne[1];
        layer.attn_norm = reader.vector(name("attn_norm"), n_embd);
        layer.attn_q = reader.matrix(name("attn_q"), n_embd, n_q);
        layer.attn_q_norm = reader.vector(name("attn_q_norm"), layer.head_size);
        layer.attn_output = reader.matrix(name("attn_output"), n_q, n_embd);
        layer.post_attention_norm = reader.vector(name("post_attention_norm"), n_embd);
        layer.ffn_norm = reader.vector(name("ffn_norm"), n_embd);
        layer.ffn_gate = reader.matrix(name("ffn_gate"), n_embd, n_ff);
        layer.ffn_up = reader.matrix(name("ffn_up"), n_embd, n_ff);
        layer.ffn_down = reader.matrix(name("ffn_down"), n_ff, n_embd);
        layer.post_ffw_norm = reader.vector(name("post_ffw_norm"), n_embd);
        layer.layer_output_scale = reader.vector(name("layer_output_scale"), 1);
        layers.push_back(layer);
    }
    std::vector<int32_t> order;
    std::vector<float> rows;
    if (has_centroids()) {
        const int per_cluster = n_vocab / n_centroids;
        if (layout.tensors) {
            rows = reader.floats(layout.centroids, n_embd, n_centroids);
            order = reader.integers(layout.token_ordering, n_vocab);
        } else {
            rows = meta.array<float>(p + layout.centroids, GGUF_TYPE_FLOAT32, (size_t) n_centroids * n_embd);
            order = meta.array<int32_t>(p + layout.token_ordering, GGUF_TYPE_INT32, n_vocab);
        }
        std::vector<bool> seen(n_vocab, false);
        for (int i = 0; i < n_vocab; i++) {
            if (order[i] < 0 || order[i] >= n_vocab || seen[order[i]]) {
                bad_file(format("token_ordering is no permutation of the vocabulary: entry %d is %d", i, order[i]));
            }
            seen[order[i]] = true;
        }
        centroids = reader.constant("centroids", GGML_TYPE_F32, n_embd, n_centroids);
        token_ordering = reader.constant("token_ordering", GGML_TYPE_I32, per_cluster, n_centroids);
        lm_head = reader.clusters("token_embd.weight", n_embd, per_cluster, n_centroids, top_k);
    } else {
        lm_head = reader.matrix("token_embd.weight", n_embd, n_vocab);
    }

    reader.allocate();
    for (const Storage & slot : storage_) {
        ggml_context * ctx = slot.context.get();
        for (ggml_tensor * t = ggml_get_first_tensor(ctx); t != nullptr; t = ggml_get_next_tensor(ctx, t)) {
            if (t != centroids && t != token_ordering && t != lm_head &&
                (t != rope_factors || targets_factors.empty())) {
                reader.fill(t);
            }
        }
    }
    if (!targets_factors.empty()) {
        ggml_backend_tensor_set(rope_factors, targets_factors.data(), 0, ggml_nbytes(rope_factors));
    }
    if (has_centroids()) {
        ggml_backend_tensor_set(centroids, rows.data(), 0, ggml_nbytes(centroids));
        ggml_backend_tensor_set(token_ordering, order.data(), 0, ggml_nbytes(token_ordering));
        reader.fill_rows(lm_head, order.data(), n_vocab);
    } else {
        reader.fill(lm_head);
    }
}

size_t MtpHead::bytes() const {
    size_t total = 0;
    for (const Storage & slot : storage_) {
        total += ggml_backend_buffer_get_size(slot.buffer.get());
    }
    return total;
}

}  // namespace pmtp
