#include "drafters/gemma4/gemma4_drafter.h"

#include "sampling/draw_ops.h"
#include "base/error.h"
#include "llama/internal.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <new>

namespace pmtp {

namespace {

// Nodes and leaves of a step's graph: of a layer of the head, and of all else.
constexpr size_t kNodesPerLayer = 48;
constexpr size_t kOtherNodes = 320;

llama_kv_cache::slot_info first_sequence() { return { /*s0*/ 0, /*s1*/ 0, /*strm*/ { 0 }, /*idxs*/ {} }; }

ggml_backend_dev_t device_of(const ggml_tensor * tensor) {
    ggml_backend_dev_t device = ggml_backend_buft_get_device(ggml_backend_buffer_get_type(tensor->buffer));
    return device != nullptr ? device : ggml_backend_dev_by_type(GGML_BACKEND_DEVICE_TYPE_CPU);
}

// A constant that the cache fills on the host.
void upload_rotation(ggml_tensor * dst, const llama_kv_cache & cache,
                     void (llama_kv_cache::*fill)(ggml_tensor *) const) {
    Handle<ggml_context> host(ggml_init({ 2 * ggml_tensor_overhead(), nullptr, /*no_alloc*/ true }), ggml_free);
    ggml_tensor * copy = ggml_dup_tensor(host.get(), dst);
    Handle<ggml_backend_buffer> buffer(
        ggml_backend_alloc_ctx_tensors_from_buft(host.get(), ggml_backend_cpu_buffer_type()), ggml_backend_buffer_free);
    if (!buffer) {
        throw Error(Status::out_of_memory, "cannot allocate the rotation of a quantised KV cache");
    }
    (cache.*fill)(copy);
    ggml_backend_tensor_set(dst, copy->data, 0, ggml_nbytes(dst));
}

// The target's embedding rows where the head can read them fastest. The token embedding stays in host memory even when
// everything else is on a GPU; a tied output matrix is a second copy of it there, and gathering from that one keeps the
// graph on the device.
ggml_tensor * embedding_rows(const llama_model & target, ggml_backend_dev_t device) {
    ggml_tensor * output = target.output;
    const bool tied = output != nullptr && std::string(ggml_get_name(output)) == ggml_get_name(target.tok_embd);
    if (!tied || ggml_backend_dev_type(device) == GGML_BACKEND_DEVICE_TYPE_CPU || device_of(output) != device) {
        return target.tok_embd;
    }
    Handle<ggml_context> ctx(ggml_init({ 2 * ggml_tensor_overhead(), nullptr, /*no_alloc*/ true }), ggml_free);
    const ggml_tensor * gather = ggml_get_rows(ctx.get(), output, ggml_new_tensor_1d(ctx.get(), GGML_TYPE_I32, 1));
    return ggml_backend_dev_supports_op(device, gather) ? output : target.tok_embd;
}

}  // namespace

// One of the target's two caches, as a graph reads it.
struct Gemma4Drafter::CacheView {
    const llama_kv_cache * cache;
    int layer;                         // whose K/V is attended to
    uint32_t n_kv;                     // cells that the graph sees
    int window;                        // 0: all earlier positions are visible
    ggml_tensor * mask = nullptr;      // [n_kv]: 0 visible, -inf hidden
    std::vector<uint8_t> values = {};  // of the mask
    ggml_tensor * k_rot = nullptr;     // rotation of a quantised cache, or nullptr
    ggml_tensor * v_rot = nullptr;
};

// What every graph of a drafter uses: buffers that are made once, so that a round allocates next to nothing.
struct Gemma4Drafter::Scratch {
    Scratch(const MtpHead & head, llama_context & context, CacheView & full, CacheView & sliding);

    std::vector<uint8_t> memory;  // of the graph in use
    Handle<ggml_backend_sched> sched{ nullptr, ggml_backend_sched_free };
    ggml_backend_t backend = nullptr;  // the head's

  private:
    void make_rotations(CacheView & full, CacheView & sliding);

    Handle<ggml_context> rotations_{ nullptr, ggml_free };
    Handle<ggml_backend_buffer> rotation_buffer_{ nullptr, ggml_backend_buffer_free };
};

// The k steps as one graph, bound to the numbers of cells that the two caches showed when it was built.
struct Gemma4Drafter::Graph {
    Graph(Scratch & scratch, const MtpHead & head, llama_context & context, int k, Draw draw, const CacheView & full,
          const CacheView & sliding);

    bool fits(int n, Draw kind, uint32_t n_kv_full, uint32_t n_kv_sliding) const {
        return k == n && draw_ == kind && full.n_kv == n_kv_full && sliding.n_kv == n_kv_sliding;
    }
    size_t n_tensors() const;
    void place();  // says which backend has the inputs
    void set_inputs(const DraftRequest & request);
    void read(std::vector<Draft> & drafts);

    Scratch & scratch;
    const MtpHead & head;
    const int k;
    CacheView full;
    CacheView sliding;
    bool flash_attention;
    Handle<ggml_context> ctx{ nullptr, ggml_free };
    ggml_tensor * embeddings = nullptr;  // the target's
    ggml_cgraph * graph = nullptr;
    ggml_tensor * token = nullptr;     // i32 [1]
    ggml_tensor * position = nullptr;  // i32 [1], the same in every step
    ggml_tensor * state = nullptr;     // f32 [B]
    ggml_tensor * choices = nullptr;   // i32 [kChoiceWords, k], if the device draws
    ggml_tensor * drafted = nullptr;   // i32 [k]
    std::vector<ggml_tensor *> drawn;  // of each step, if the device draws

  private:
    ggml_tensor * input(ggml_type type, int64_t n, const char * name);
    void set(ggml_tensor * input, const void * data);
    void add_view_inputs(CacheView & view);
    ggml_tensor * norm(ggml_tensor * x, ggml_tensor * weight) const;
    ggml_tensor * attention(const HeadLayer & layer, ggml_tensor * x) const;
    ggml_tensor * decoder_layer(const HeadLayer & layer, ggml_tensor * x) const;
    bool device_draws(ggml_backend_dev_t device) const;
    int64_t n_candidates() const { return head.token_ordering->ne[0] * head.top_k; }
    ggml_tensor * next_token(ggml_tensor * n, int step);
    ggml_tensor * draw_here(ggml_tensor * logits, ggml_tensor * ids, int step);
    ggml_tensor * draw_on_device(ggml_tensor * logits, ggml_tensor * ids, int step);
    static void read_table(const std::vector<int32_t> & table, std::vector<WeightedToken> & q);
    void fill_mask(CacheView & view, int32_t query);

    Draw draw_;
    std::vector<StepDraw> draws_;       // one per step, if the CPU draws
    std::vector<ChoiceParams> params_;  // likewise, if the device does
    std::vector<std::vector<int32_t>> tables_;
};

Gemma4Drafter::Scratch::Scratch(const MtpHead & head, llama_context & context, CacheView & full, CacheView & sliding) {
    const size_t n_nodes = (kOtherNodes + kNodesPerLayer * head.layers.size()) * kMaxDraft;
    memory.resize(n_nodes * ggml_tensor_overhead() + ggml_graph_overhead_custom(n_nodes, false));

    // The context's own backends, so that K/V, embedding and head are read where they lie.
    ggml_backend_sched_t theirs = context.get_sched();
    std::vector<ggml_backend_t> backends;
    std::vector<ggml_backend_buffer_type_t> bufts;
    for (int i = 0; i < ggml_backend_sched_get_n_backends(theirs); i++) {
        backends.push_back(ggml_backend_sched_get_backend(theirs, i));
        bufts.push_back(ggml_backend_sched_get_buffer_type(theirs, backends.back()));
    }
    const ggml_backend_dev_t device = device_of(head.output_norm);
    backend = *std::find_if(backends.begin(), backends.end(),
                            [&](ggml_backend_t b) { return ggml_backend_get_device(b) == device; });
    make_rotations(full, sliding);

    // As large as the largest graph needs: a scheduler takes some 20 kB of address space for each of its nodes.
    size_t n_used = 0;
    for (const Draw draw : { Draw::greedy, Draw::coupled, Draw::independent }) {
        n_used = std::max(n_used, Graph(*this, head, context, kMaxDraft, draw, full, sliding).n_tensors());
    }
    sched.reset(ggml_backend_sched_new(backends.data(), bufts.data(), (int) backends.size(), n_used, false, true));
    for (const Draw draw : { Draw::greedy, Draw::coupled, Draw::independent }) {
        Graph graph(*this, head, context, kMaxDraft, draw, full, sliding);
        graph.place();
        if (!ggml_backend_sched_reserve(sched.get(), graph.graph)) {
            throw Error(Status::out_of_memory, "cannot allocate scratch for the MTP head");
        }
    }
}

// Rotations of quantised caches, of all graphs.
void Gemma4Drafter::Scratch::make_rotations(CacheView & full, CacheView & sliding) {
    rotations_.reset(ggml_init({ 8 * ggml_tensor_overhead(), nullptr, /*no_alloc*/ true }));
    for (CacheView * view : { &full, &sliding }) {
        view->k_rot = view->cache->build_input_k_rot(rotations_.get());
        view->v_rot = view->cache->build_input_v_rot(rotations_.get());
    }
    if (ggml_get_first_tensor(rotations_.get()) == nullptr) {
        return;
    }
    rotation_buffer_.reset(ggml_backend_alloc_ctx_tensors(rotations_.get(), backend));
    if (!rotation_buffer_) {
        throw Error(Status::out_of_memory, "cannot allocate the rotation of a quantised KV cache");
    }
    for (const CacheView * view : { &full, &sliding }) {
        if (view->k_rot != nullptr) {
            upload_rotation(view->k_rot, *view->cache, &llama_kv_cache::set_input_k_rot);
        }
        if (view->v_rot != nullptr) {
            upload_rotation(view->v_rot, *view->cache, &llama_kv_cache::set_input_v_rot);
        }
    }
}

Gemma4Drafter::Graph::Graph(Scratch & scratch, const MtpHead & head, llama_context & context, int k, Draw draw,
                            const CacheView & full_view, const CacheView & sliding_view)
    : scratch(scratch),
      head(head),
      k(k),
      full(full_view),
      sliding(sliding_view),
      flash_attention(context.get_cparams().flash_attn),
      draw_(draw) {
    const size_t n_nodes = (kOtherNodes + kNodesPerLayer * head.layers.size()) * k;
    ctx.reset(ggml_init({ scratch.memory.size(), scratch.memory.data(), /*no_alloc*/ true }));
    graph = ggml_new_graph_custom(ctx.get(), n_nodes, false);

    ggml_context * c = ctx.get();
    token = input(GGML_TYPE_I32, 1, "token");
    position = input(GGML_TYPE_I32, 1, "position");
    state = input(GGML_TYPE_F32, head.n_embd_backbone, "state");
    add_view_inputs(full);
    add_view_inputs(sliding);

    const ggml_backend_dev_t device = device_of(head.output_norm);
    if (draw != Draw::greedy && device_draws(device)) {
        choices = input(GGML_TYPE_I32, kChoiceWords * k, "choices");
        params_.resize(k);
    } else if (draw != Draw::greedy) {
        draws_.resize(k);
    }
    embeddings = embedding_rows(context.get_model(), device);
    ggml_tensor * last = token;
    ggml_tensor * h = state;
    for (int step = 0; step < k; step++) {
        ggml_tensor * e = ggml_scale(c, ggml_get_rows(c, embeddings, last), std::sqrt((float) head.n_embd_backbone));
        ggml_tensor * x =
            ggml_mul_mat(c, head.pre_projection, ggml_concat(c, ggml_reshape_1d(c, e, head.n_embd_backbone), h, 0));
        for (const HeadLayer & layer : head.layers) {
            x = decoder_layer(layer, x);
        }
        ggml_tensor * n = norm(x, head.output_norm);
        last = next_token(n, step);
        drafted = step == 0 ? last : ggml_concat(c, drafted, last, 0);
        if (step + 1 < k) {
            h = ggml_reshape_1d(c, ggml_mul_mat(c, head.post_projection, n), head.n_embd_backbone);
        }
    }
    ggml_set_output(drafted);
    ggml_build_forward_expand(graph, drafted);
}

size_t Gemma4Drafter::Graph::n_tensors() const {
    size_t n = 0;
    for (ggml_tensor * t = ggml_get_first_tensor(ctx.get()); t != nullptr; t = ggml_get_next_tensor(ctx.get(), t)) {
        n++;
    }
    return n + kOtherNodes + kNodesPerLayer * head.layers.size();  // and those of others: weights, caches
}

void Gemma4Drafter::Graph::place() {
    ggml_backend_sched_reset(scratch.sched.get());
    const auto put = [&](ggml_tensor * tensor) {
        ggml_backend_sched_set_tensor_backend(scratch.sched.get(), tensor, scratch.backend);
    };
    for (ggml_tensor * t : { position, state, full.mask, sliding.mask }) {
        put(t);
    }
    for (ggml_tensor * t : drawn) {
        put(t);
    }
    if (choices != nullptr) {
        put(choices);
    }
    if (device_of(embeddings) == device_of(head.output_norm)) {
        put(token);
    }
}

ggml_tensor * Gemma4Drafter::Graph::input(ggml_type type, int64_t n, const char * name) {
    ggml_tensor * tensor = ggml_new_tensor_1d(ctx.get(), type, n);
    ggml_set_input(tensor);
    return ggml_set_name(tensor, name);
}

void Gemma4Drafter::Graph::add_view_inputs(CacheView & view) {
    view.mask = input(flash_attention ? GGML_TYPE_F16 : GGML_TYPE_F32, view.n_kv, "mask");
}

ggml_tensor * Gemma4Drafter::Graph::norm(ggml_tensor * x, ggml_tensor * weight) const {
    return ggml_mul(ctx.get(), ggml_rms_norm(ctx.get(), x, head.rms_eps), weight);
}

// x: [E] -> [head_size * n_head]; the head has queries only, keys and values are the target's.
ggml_tensor * Gemma4Drafter::Graph::attention(const HeadLayer & layer, ggml_tensor * x) const {
    ggml_context * c = ctx.get();
    const CacheView & view = layer.sliding ? sliding : full;
    const int64_t size = layer.head_size;

    ggml_tensor * q = ggml_reshape_3d(c, ggml_mul_mat(c, layer.attn_q, x), size, layer.n_head, 1);
    q = norm(q, layer.attn_q_norm);
    q = ggml_rope_ext(c, q, position, layer.sliding ? nullptr : head.rope_factors, layer.n_rot, GGML_ROPE_TYPE_NEOX,
                      /*n_ctx_orig*/ 0, layer.rope_base, /*freq_scale*/ 1, /*ext_factor*/ 0, /*attn_factor*/ 1, 0, 0);
    if (view.k_rot != nullptr) {
        q = llama_mul_mat_hadamard(c, q, view.k_rot);
    }
    q = ggml_permute(c, q, 0, 2, 1, 3);  // [size, 1, n_head]
    ggml_tensor * k = ggml_permute(c, view.cache->get_k(c, view.layer, view.n_kv, first_sequence()), 0, 2, 1,
                                   3);  // [size, n_kv, n_head_kv]
    ggml_tensor * v = view.cache->get_v(c, view.layer, view.n_kv, first_sequence());
    const bool transposed = v->nb[1] > v->nb[2];  // [n_kv, n_head_kv, size] without flash attention
    v = ggml_permute(c, v, 0, 2, 1, 3);

    ggml_tensor * out;
    if (flash_attention) {
        out = ggml_flash_attn_ext(c, q, k, transposed ? ggml_transpose(c, v) : v, view.mask, /*scale*/ 1, 0, 0);
        ggml_prec_set_acc(out, GGML_PREC_F32);
    } else {
        ggml_tensor * scores = ggml_mul_mat(c, k, q);
        ggml_prec_set_acc(scores, GGML_PREC_F32);
        scores = ggml_soft_max_ext(c, scores, view.mask, /*scale*/ 1, 0);
        out = ggml_mul_mat(c, transposed ? v : ggml_cont(c, ggml_transpose(c, v)), scores);
        out = ggml_cont(c, ggml_permute(c, out, 0, 2, 1, 3));
    }
    out = ggml_reshape_1d(c, out, size * layer.n_head);
    return view.v_rot != nullptr ? llama_mul_mat_hadamard(c, out, view.v_rot) : out;
}

ggml_tensor * Gemma4Drafter::Graph::decoder_layer(const HeadLayer & layer, ggml_tensor * x) const {
    ggml_context * c = ctx.get();
    ggml_tensor * attended = ggml_mul_mat(c, layer.attn_output, attention(layer, norm(x, layer.attn_norm)));
    x = ggml_add(c, x, norm(attended, layer.post_attention_norm));

    ggml_tensor * n = norm(x, layer.ffn_norm);
    ggml_tensor * gated = ggml_geglu_split(c, ggml_mul_mat(c, layer.ffn_gate, n), ggml_mul_mat(c, layer.ffn_up, n));
    x = ggml_add(c, x, norm(ggml_mul_mat(c, layer.ffn_down, gated), layer.post_ffw_norm));
    return layer.layer_output_scale == nullptr ? x : ggml_mul(c, x, layer.layer_output_scale);
}

// Whether the tokens of all steps can be drawn where the logits are.
bool Gemma4Drafter::Graph::device_draws(ggml_backend_dev_t device) const {
    return runs_custom_ops(device) && !(head.has_centroids() && n_candidates() > kMaxDrawnLogits);
}

ggml_tensor * Gemma4Drafter::Graph::draw_here(ggml_tensor * logits, ggml_tensor * ids, int step) {
    ggml_tensor * args[] = { logits, ids };
    return ggml_custom_4d(ctx.get(), GGML_TYPE_I32, 1, 1, 1, 1, args, ids != nullptr ? 2 : 1, draw_token, /*n_tasks*/ 1,
                          &draws_[step]);
}

// Without ids the logits are a whole vocabulary's: the draw is from the best of them.
ggml_tensor * Gemma4Drafter::Graph::draw_on_device(ggml_tensor * logits, ggml_tensor * ids, int step) {
    ggml_context * c = ctx.get();
    ggml_tensor * params = ggml_view_1d(c, choices, kChoiceWords, step * sizeof(ChoiceParams));
    if (ids == nullptr) {
        ggml_tensor * args[] = { logits, params };
        logits = ggml_custom_4d(c, GGML_TYPE_I32, kCandidatesRowWords, 1, 1, 1, args, 2, find_candidates, 1, nullptr);
        drawn.push_back(logits);
    }
    const int64_t n_table = draw_ != Draw::independent ? 0 : ids != nullptr ? ggml_nelements(ids) : kCandidates;
    ggml_tensor * args[] = { logits, ids != nullptr ? ids : params, params };
    ggml_tensor * token = ggml_custom_4d(c, GGML_TYPE_I32, 1 + 2 * n_table, 1, 1, 1, args, ids != nullptr ? 3 : 2,
                                         draw_token, 1, nullptr);
    if (n_table > 0) {
        ggml_set_output(token);
    }
    drawn.push_back(token);
    return ggml_view_1d(c, token, 1, 0);
}

// n: f32 [E], the normalised state -> i32 [1]: the token with the largest logit, or the one that is drawn.
ggml_tensor * Gemma4Drafter::Graph::next_token(ggml_tensor * n, int step) {
    ggml_context * c = ctx.get();
    const auto draw = [&](ggml_tensor * logits, ggml_tensor * ids) {
        return choices != nullptr ? draw_on_device(logits, ids, step) : draw_here(logits, ids, step);
    };
    if (!head.has_centroids()) {
        ggml_tensor * logits = ggml_mul_mat(c, head.lm_head, n);
        return draw_ != Draw::greedy ? draw(logits, nullptr) : ggml_argmax(c, logits);
    }
    // The tokens of the top_k best clusters are the candidates. Their ids travel along: the order of TOP_K is
    // unspecified.
    ggml_tensor * clusters = ggml_top_k(c, ggml_mul_mat(c, head.centroids, n), head.top_k);  // i32 [top_k]
    ggml_tensor * logits = ggml_mul_mat_id(c, head.lm_head, ggml_reshape_3d(c, n, head.n_embd, 1, 1),
                                           clusters);                     // [V / n_centroids, top_k]
    ggml_tensor * ids = ggml_get_rows(c, head.token_ordering, clusters);  // i32, likewise
    if (draw_ != Draw::greedy) {
        return draw(logits, ids);
    }
    ggml_tensor * best = ggml_argmax(c, ggml_reshape_2d(c, logits, n_candidates(), 1));
    return ggml_reshape_1d(c, ggml_get_rows(c, ggml_reshape_2d(c, ids, 1, n_candidates()), best), 1);
}

// Queued before the graph on the backend that reads it; `data` must stay until the graph has run.
void Gemma4Drafter::Graph::set(ggml_tensor * input, const void * data) {
    ggml_backend_tensor_set_async(ggml_backend_sched_get_tensor_backend(scratch.sched.get(), input), input, data, 0,
                                  ggml_nbytes(input));
}

void Gemma4Drafter::Graph::set_inputs(const DraftRequest & r) {
    set(token, &r.token);
    set(position, &r.position);
    set(state, r.state);
    fill_mask(full, r.position);
    fill_mask(sliding, r.position);
    const auto noise = [&](size_t step) {
        return draw_ == Draw::coupled ? Noise(r.seed, Purpose::token, r.position + 1 + step)
                                      : Noise(r.seed, Purpose::draft, r.counter + step);
    };
    for (size_t step = 0; step < draws_.size(); step++) {
        draws_[step].warp = r.warp;
        draws_[step].tabulate = draw_ == Draw::independent;
        draws_[step].noise = noise(step);
    }
    for (size_t step = 0; step < params_.size();
         step++) {  // of a whole vocabulary, coupled draws see every token that can win
        params_[step] = r.warp.choice(noise(step).key(), draw_ == Draw::coupled && !r.warp.truncates());
    }
    if (choices != nullptr) {
        set(choices, params_.data());
    }
}

void Gemma4Drafter::Graph::read(std::vector<Draft> & drafts) {
    std::vector<int32_t> tokens(ggml_nelements(drafted));
    ggml_backend_tensor_get_async(ggml_backend_sched_get_tensor_backend(scratch.sched.get(), drafted), drafted,
                                  tokens.data(), 0, ggml_nbytes(drafted));
    drafts.resize(tokens.size());
    if (choices != nullptr && draw_ == Draw::independent) {
        tables_.clear();
        for (ggml_tensor * t : drawn) {
            if (t->flags & GGML_TENSOR_FLAG_OUTPUT) {
                tables_.emplace_back(ggml_nelements(t));
                ggml_backend_tensor_get_async(scratch.backend, t, tables_.back().data(), 0, ggml_nbytes(t));
            }
        }
    }
    ggml_backend_sched_synchronize(scratch.sched.get());
    for (size_t step = 0; step < tokens.size(); step++) {
        drafts[step].token = tokens[step];
        drafts[step].q.clear();
        if (!draws_.empty() && draws_[step].out_of_memory) {
            throw std::bad_alloc();
        }
        if (!draws_.empty() && draws_[step].tabulate) {
            drafts[step].q.swap(draws_[step].q);
        }
        if (!tables_.empty()) {
            read_table(tables_[step], drafts[step].q);
        }
    }
}

// The distribution that a device drew from, see draw_token.
void Gemma4Drafter::Graph::read_table(const std::vector<int32_t> & table, std::vector<WeightedToken> & q) {
    const size_t n = (table.size() - 1) / 2;
    for (size_t i = 0; i < n; i++) {
        float p;
        memcpy(&p, &table[1 + i], sizeof(p));
        if (p > 0) {
            q.push_back({ table[1 + n + i], p });
        }
    }
}

// Visibility follows the cells' positions, so the order in which a ring was filled does not matter.
void Gemma4Drafter::Graph::fill_mask(CacheView & view, int32_t query) {
    if (view.mask->buffer == nullptr) {
        return;  // no layer of this kind
    }
    const llama_kv_cells & cells = view.cache->get_cells(0);
    const auto visible = [&](uint32_t i) {
        if (cells.is_empty(i) || !cells.seq_has(i, 0)) {
            return false;
        }
        const llama_pos key = cells.pos_get(i);
        return key < query && (view.window == 0 || query - key < view.window);
    };
    view.values.resize(ggml_nbytes(view.mask));
    for (uint32_t i = 0; i < view.n_kv; i++) {
        if (flash_attention) {
            reinterpret_cast<ggml_fp16_t *>(view.values.data())[i] = visible(i) ? 0x0000 : 0xfc00;  // 0, -inf
        } else {
            reinterpret_cast<float *>(view.values.data())[i] = visible(i) ? 0.0f : -INFINITY;
        }
    }
    set(view.mask, view.values.data());
}

Gemma4Drafter::Gemma4Drafter(const MtpHead & head, llama_context * context) : head_(head), context_(context) {
    const auto & iswa = dynamic_cast<const llama_kv_cache_iswa &>(*llama_get_memory(context_));
    const SharedLayers shared = shared_layers(iswa);
    full_ = std::make_unique<CacheView>(CacheView{ iswa.get_base(), shared.full, iswa.get_base()->get_size(), 0 });
    sliding_ = std::make_unique<CacheView>(
        CacheView{ iswa.get_swa(), shared.sliding, iswa.get_swa()->get_size(), head_.window });
    scratch_ = std::make_unique<Scratch>(head_, *context_, *full_, *sliding_);
}

Gemma4Drafter::~Gemma4Drafter() = default;

Gemma4Drafter::Graph & Gemma4Drafter::graph_for(int k, Draw draw) {
    full_->n_kv = full_->cache->get_n_kv(first_sequence());
    sliding_->n_kv = sliding_->cache->get_n_kv(first_sequence());
    if (!graph_ || !graph_->fits(k, draw, full_->n_kv, sliding_->n_kv)) {
        graph_.reset();
        auto graph = std::make_unique<Graph>(*scratch_, head_, *context_, k, draw, *full_, *sliding_);
        graph->place();
        if (!ggml_backend_sched_alloc_graph(scratch_->sched.get(), graph->graph)) {
            throw Error(Status::out_of_memory, "cannot allocate the MTP head's draft graph");
        }
        graph_ = std::move(graph);
    }
    return *graph_;
}

bool Gemma4Drafter::draft(const DraftRequest & request, std::vector<Draft> & drafts) {
    Graph & graph = graph_for(request.k, request.warp.greedy() ? Draw::greedy : request.draw);
    graph.set_inputs(request);
    const ggml_status status = ggml_backend_sched_graph_compute_async(scratch_->sched.get(), graph.graph);
    drafts.clear();
    if (status == GGML_STATUS_ABORTED) {
        return false;
    }
    if (status != GGML_STATUS_SUCCESS) {
        throw Error(Status::internal, format("the draft graph failed with status %d", (int) status));
    }
    graph.read(drafts);
    return true;
}

size_t Gemma4Drafter::compute_bytes() const {
    ggml_backend_sched_t sched = scratch_->sched.get();
    size_t total = scratch_->memory.size();
    for (int i = 0; i < ggml_backend_sched_get_n_backends(sched); i++) {
        total += ggml_backend_sched_get_buffer_size(sched, ggml_backend_sched_get_backend(sched, i));
    }
    return total;
}

}  // namespace pmtp
