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
// The same, of a column's draw in a step.
constexpr size_t kNodesPerDraw = 12;

// Columns of the graph for n turns: few sizes, so that graphs can be used again. The ones behind the turns repeat the
// first.
int n_columns(int n) {
    int columns = 1;
    while (columns < n) {
        columns *= 2;
    }
    return columns;
}

size_t n_nodes(const MtpHead & head, int k, int columns) {
    return (kOtherNodes + kNodesPerLayer * head.layers.size() + kNodesPerDraw * columns) * k;
}

llama_kv_cache::slot_info first_stream() { return { /*s0*/ 0, /*s1*/ 0, /*strm*/ { 0 }, /*idxs*/ {} }; }

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
    int layer;                      // whose K/V is attended to
    uint32_t n_kv;                  // cells that the graph sees
    int window;                     // 0: all earlier positions are visible
    ggml_tensor * mask = nullptr;   // [n_kv, columns]: 0 visible, -inf hidden
    ggml_tensor * k_rot = nullptr;  // rotation of a quantised cache, or nullptr
    ggml_tensor * v_rot = nullptr;
};

// Memory of the host that a device copies from in the background.
class HostMemory {
  public:
    // Its values, and earlier answers, are lost where it grows.
    void * at_least(size_t size, ggml_backend_t reader) {
        if (buffer_ == nullptr || ggml_backend_buffer_get_size(buffer_.get()) < size) {
            ggml_backend_buffer_type_t type = ggml_backend_dev_host_buffer_type(ggml_backend_get_device(reader));
            buffer_.reset();
            buffer_.reset(
                ggml_backend_buft_alloc_buffer(type != nullptr ? type : ggml_backend_cpu_buffer_type(), size));
            if (buffer_ == nullptr) {
                throw Error(Status::out_of_memory, "cannot allocate the mask of the MTP head");
            }
        }
        return ggml_backend_buffer_get_base(buffer_.get());
    }

  private:
    Handle<ggml_backend_buffer> buffer_{ nullptr, ggml_backend_buffer_free };
};

// What every graph of a drafter uses: buffers that are made once, so that a round allocates next to nothing.
struct Gemma4Drafter::Scratch {
    Scratch(const MtpHead & head, llama_context & context, CacheView & full, CacheView & sliding, int columns);

    std::vector<uint8_t> memory;  // of the graph in use
    HostMemory full_mask, sliding_mask;
    Handle<ggml_backend_sched> sched{ nullptr, ggml_backend_sched_free };
    ggml_backend_t backend = nullptr;  // the head's

  private:
    void make_rotations(CacheView & full, CacheView & sliding);

    Handle<ggml_context> rotations_{ nullptr, ggml_free };
    Handle<ggml_backend_buffer> rotation_buffer_{ nullptr, ggml_backend_buffer_free };
};

// The k steps as one graph, bound to the numbers of cells that the two caches showed when it was built. draws: of each
// column.
struct Gemma4Drafter::Graph {
    Graph(Scratch & scratch, const MtpHead & head, llama_context & context, int k, std::vector<Draw> draws,
          const CacheView & full, const CacheView & sliding);

    bool fits(int n, const std::vector<Draw> & kinds, uint32_t n_kv_full, uint32_t n_kv_sliding) const {
        return k == n && draws == kinds && full.n_kv == n_kv_full && sliding.n_kv == n_kv_sliding;
    }
    size_t n_tensors() const;
    void place();  // says which backend has the inputs
    void set_inputs(const std::vector<DraftTurn> & turns);
    void queue_reads(std::vector<DraftTurn> & turns);
    void take(std::vector<DraftTurn> & turns);

    Scratch & scratch;
    const MtpHead & head;
    const int k;
    const std::vector<Draw> draws;
    const int columns;
    const bool greedy;  // every column
    CacheView full;
    CacheView sliding;
    bool flash_attention;
    Handle<ggml_context> ctx{ nullptr, ggml_free };
    ggml_tensor * embeddings = nullptr;  // the target's
    ggml_cgraph * graph = nullptr;
    ggml_tensor * token = nullptr;     // i32 [columns]
    ggml_tensor * position = nullptr;  // i32 [columns], the same in every step
    ggml_tensor * state = nullptr;     // f32 [B, columns]
    ggml_tensor * choices = nullptr;   // i32 [kChoiceWords, columns * k], if the device draws
    ggml_tensor * drafted = nullptr;   // i32 [k, columns]
    std::vector<ggml_tensor *> drawn;  // if the device draws

  private:
    ggml_tensor * input(ggml_type type, int64_t n, int64_t n_columns, const char * name);
    void set(ggml_tensor * input, const void * data);
    void add_view_inputs(CacheView & view);
    ggml_tensor * norm(ggml_tensor * x, ggml_tensor * weight) const;
    ggml_tensor * attention(const HeadLayer & layer, ggml_tensor * x) const;
    ggml_tensor * decoder_layer(const HeadLayer & layer, ggml_tensor * x) const;
    bool device_draws(ggml_backend_dev_t device) const;
    int64_t n_candidates() const { return head.token_ordering->ne[0] * head.top_k; }
    ggml_tensor * next_tokens(ggml_tensor * n, int step);
    ggml_tensor * choose(ggml_tensor * logits, ggml_tensor * ids, int step);
    ggml_tensor * best_of(ggml_tensor * logits, ggml_tensor * ids);
    ggml_tensor * draw_here(ggml_tensor * logits, ggml_tensor * ids, int index);
    ggml_tensor * draw_on_device(ggml_tensor * logits, ggml_tensor * ids, int index, Draw draw);
    void take_tables(std::vector<DraftTurn> & turns);
    void fill_mask(CacheView & view, attention::PageTable & pages, HostMemory & memory,
                   const std::vector<DraftTurn> & turns);

    attention::PageTable full_pages_, sliding_pages_;  // of the masks
    std::vector<int32_t> tokens_, positions_;          // of the columns
    std::vector<float> states_;
    std::vector<StepDraw> draws_;       // of step * columns + column, if the CPU draws
    std::vector<ChoiceParams> params_;  // likewise, if the device does
    struct Table {
        int index;  // step * columns + column
        ggml_tensor * tensor;
        std::vector<int32_t> words;
    };
    std::vector<Table> tables_;
    std::vector<int32_t> drafted_;  // read from the tensor
};

Gemma4Drafter::Scratch::Scratch(const MtpHead & head, llama_context & context, CacheView & full, CacheView & sliding,
                                int columns) {
    const size_t size = n_nodes(head, kMaxDraft, columns);
    memory.resize(size * ggml_tensor_overhead() + ggml_graph_overhead_custom(size, false));

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
        const std::vector<Draw> draws(columns, draw);
        n_used = std::max(n_used, Graph(*this, head, context, kMaxDraft, draws, full, sliding).n_tensors());
    }
    sched.reset(ggml_backend_sched_new(backends.data(), bufts.data(), (int) backends.size(), n_used, false, true));
    for (const Draw draw : { Draw::greedy, Draw::coupled, Draw::independent }) {
        Graph graph(*this, head, context, kMaxDraft, std::vector<Draw>(columns, draw), full, sliding);
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

Gemma4Drafter::Graph::Graph(Scratch & scratch, const MtpHead & head, llama_context & context, int k,
                            std::vector<Draw> kinds, const CacheView & full_view, const CacheView & sliding_view)
    : scratch(scratch),
      head(head),
      k(k),
      draws(std::move(kinds)),
      columns((int) draws.size()),
      greedy(std::count(draws.begin(), draws.end(), Draw::greedy) == columns),
      full(full_view),
      sliding(sliding_view),
      flash_attention(context.get_cparams().flash_attn) {
    ctx.reset(ggml_init({ scratch.memory.size(), scratch.memory.data(), /*no_alloc*/ true }));
    graph = ggml_new_graph_custom(ctx.get(), n_nodes(head, k, columns), false);

    ggml_context * c = ctx.get();
    token = input(GGML_TYPE_I32, 1, columns, "token");
    position = input(GGML_TYPE_I32, columns, 1, "position");
    state = input(GGML_TYPE_F32, head.n_embd_backbone, columns, "state");
    add_view_inputs(full);
    add_view_inputs(sliding);

    const ggml_backend_dev_t device = device_of(head.output_norm);
    if (!greedy && device_draws(device)) {
        params_.resize(k * columns);
        choices = input(GGML_TYPE_I32, kChoiceWords, k * columns, "choices");
    } else if (!greedy) {
        draws_.resize(k * columns);
    }
    embeddings = embedding_rows(context.get_model(), device);
    ggml_tensor * last = ggml_reshape_1d(c, token, columns);
    ggml_tensor * h = state;
    for (int step = 0; step < k; step++) {
        ggml_tensor * e = ggml_scale(c, ggml_get_rows(c, embeddings, last), std::sqrt((float) head.n_embd_backbone));
        ggml_tensor * x = ggml_mul_mat(c, head.pre_projection, ggml_concat(c, e, h, 0));
        for (const HeadLayer & layer : head.layers) {
            x = decoder_layer(layer, x);
        }
        ggml_tensor * n = norm(x, head.output_norm);
        last = next_tokens(n, step);
        ggml_tensor * row = ggml_reshape_2d(c, last, 1, columns);
        drafted = step == 0 ? row : ggml_concat(c, drafted, row, 0);
        if (step + 1 < k) {
            h = ggml_mul_mat(c, head.post_projection, n);
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

ggml_tensor * Gemma4Drafter::Graph::input(ggml_type type, int64_t n, int64_t n_columns, const char * name) {
    ggml_tensor * tensor = ggml_new_tensor_2d(ctx.get(), type, n, n_columns);
    ggml_set_input(tensor);
    return ggml_set_name(tensor, name);
}

void Gemma4Drafter::Graph::add_view_inputs(CacheView & view) {
    view.mask = input(flash_attention ? GGML_TYPE_F16 : GGML_TYPE_F32, view.n_kv, columns, "mask");
}

ggml_tensor * Gemma4Drafter::Graph::norm(ggml_tensor * x, ggml_tensor * weight) const {
    return ggml_mul(ctx.get(), ggml_rms_norm(ctx.get(), x, head.rms_eps), weight);
}

// x: [E, columns] -> [head_size * n_head, columns]; the head has queries only, keys and values are the target's.
ggml_tensor * Gemma4Drafter::Graph::attention(const HeadLayer & layer, ggml_tensor * x) const {
    ggml_context * c = ctx.get();
    const CacheView & view = layer.sliding ? sliding : full;
    const int64_t size = layer.head_size;

    ggml_tensor * q = ggml_reshape_3d(c, ggml_mul_mat(c, layer.attn_q, x), size, layer.n_head, columns);
    q = norm(q, layer.attn_q_norm);
    q = ggml_rope_ext(c, q, position, layer.sliding ? nullptr : head.rope_factors, layer.n_rot, GGML_ROPE_TYPE_NEOX,
                      /*n_ctx_orig*/ 0, layer.rope_base, /*freq_scale*/ 1, /*ext_factor*/ 0, /*attn_factor*/ 1, 0, 0);
    if (view.k_rot != nullptr) {
        q = llama_mul_mat_hadamard(c, q, view.k_rot);
    }
    q = ggml_permute(c, q, 0, 2, 1, 3);  // [size, columns, n_head]
    ggml_tensor * k = ggml_permute(c, view.cache->get_k(c, view.layer, view.n_kv, first_stream()), 0, 2, 1,
                                   3);  // [size, n_kv, n_head_kv]
    ggml_tensor * v = view.cache->get_v(c, view.layer, view.n_kv, first_stream());
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
    out = ggml_reshape_2d(c, out, size * layer.n_head, columns);
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

ggml_tensor * Gemma4Drafter::Graph::draw_here(ggml_tensor * logits, ggml_tensor * ids, int index) {
    ggml_tensor * args[] = { logits, ids };
    return ggml_custom_4d(ctx.get(), GGML_TYPE_I32, 1, 1, 1, 1, args, ids != nullptr ? 2 : 1, draw_token, /*n_tasks*/ 1,
                          &draws_[index]);
}

// Without ids the logits are a whole vocabulary's: the draw is from the best of them.
ggml_tensor * Gemma4Drafter::Graph::draw_on_device(ggml_tensor * logits, ggml_tensor * ids, int index, Draw draw) {
    ggml_context * c = ctx.get();
    ggml_tensor * params = ggml_view_1d(c, choices, kChoiceWords, index * sizeof(ChoiceParams));
    if (ids == nullptr) {
        ggml_tensor * args[] = { logits, params };
        logits = ggml_custom_4d(c, GGML_TYPE_I32, kCandidatesRowWords, 1, 1, 1, args, 2, find_candidates, 1, nullptr);
        drawn.push_back(logits);
    }
    const int64_t n_table = draw != Draw::independent ? 0 : ids != nullptr ? ggml_nelements(ids) : kCandidates;
    ggml_tensor * args[] = { logits, ids != nullptr ? ids : params, params };
    ggml_tensor * token = ggml_custom_4d(c, GGML_TYPE_I32, 1 + 2 * n_table, 1, 1, 1, args, ids != nullptr ? 3 : 2,
                                         draw_token, 1, nullptr);
    if (n_table > 0) {
        ggml_set_output(token);
        tables_.push_back({ index, token, std::vector<int32_t>(1 + 2 * n_table) });
    }
    drawn.push_back(token);
    return ggml_view_1d(c, token, 1, 0);
}

// n: f32 [E, columns], the normalised states -> i32 [columns]: the tokens with the largest logits, or those drawn.
ggml_tensor * Gemma4Drafter::Graph::next_tokens(ggml_tensor * n, int step) {
    ggml_context * c = ctx.get();
    if (!head.has_centroids()) {
        return choose(ggml_mul_mat(c, head.lm_head, n), nullptr, step);
    }
    // The tokens of the top_k best clusters are the candidates. Their ids travel along: the order of TOP_K is
    // unspecified.
    ggml_tensor * clusters = ggml_top_k(c, ggml_mul_mat(c, head.centroids, n), head.top_k);  // i32 [top_k, columns]
    ggml_tensor * logits = ggml_mul_mat_id(c, head.lm_head, ggml_reshape_3d(c, n, head.n_embd, 1, columns),
                                           clusters);  // [V / n_centroids, top_k, columns]
    ggml_tensor * ids = ggml_get_rows(c, head.token_ordering,
                                      ggml_reshape_1d(c, clusters, (int64_t) head.top_k * columns));  // i32, likewise
    return choose(ggml_reshape_2d(c, logits, n_candidates(), columns), ggml_reshape_2d(c, ids, n_candidates(), columns),
                  step);
}

// logits: f32 [n, columns]; ids: i32 [n, columns], their tokens, or nullptr.
ggml_tensor * Gemma4Drafter::Graph::choose(ggml_tensor * logits, ggml_tensor * ids, int step) {
    ggml_context * c = ctx.get();
    if (greedy) {
        return best_of(logits, ids);
    }
    ggml_tensor * tokens = nullptr;
    for (int i = 0; i < columns; i++) {
        const int64_t n = logits->ne[0];
        ggml_tensor * l = ggml_view_2d(c, logits, n, 1, logits->nb[1], i * logits->nb[1]);
        ggml_tensor * d = ids != nullptr ? ggml_view_2d(c, ids, n, 1, ids->nb[1], i * ids->nb[1]) : nullptr;
        const int index = step * columns + i;
        ggml_tensor * one = draws[i] == Draw::greedy ? best_of(l, d)
                            : choices != nullptr     ? draw_on_device(l, d, index, draws[i])
                                                     : draw_here(l, d, index);
        tokens = tokens == nullptr ? one : ggml_concat(c, tokens, one, 0);
    }
    return tokens;
}

ggml_tensor * Gemma4Drafter::Graph::best_of(ggml_tensor * logits, ggml_tensor * ids) {
    ggml_context * c = ctx.get();
    const int64_t n = logits->ne[0], n_columns = logits->ne[1];
    ggml_tensor * best = ggml_argmax(c, logits);
    make_find_one(best);
    if (ids == nullptr) {
        return best;
    }
    ggml_tensor * found =
        ggml_get_rows(c, ggml_reshape_3d(c, ids, 1, n, n_columns), ggml_reshape_2d(c, best, 1, n_columns));
    return ggml_reshape_1d(c, found, n_columns);
}

// Queued before the graph on the backend that reads it; `data` must stay until the graph has run.
void Gemma4Drafter::Graph::set(ggml_tensor * input, const void * data) {
    ggml_backend_tensor_set_async(ggml_backend_sched_get_tensor_backend(scratch.sched.get(), input), input, data, 0,
                                  ggml_nbytes(input));
}

void Gemma4Drafter::Graph::set_inputs(const std::vector<DraftTurn> & turns) {
    tokens_.clear();
    positions_.clear();
    states_.clear();
    for (int i = 0; i < columns; i++) {
        const DraftTurn & turn = turns[i < (int) turns.size() ? i : 0];
        tokens_.push_back(turn.token);
        positions_.push_back(turn.position);
        states_.insert(states_.end(), turn.state, turn.state + head.n_embd_backbone);
        const bool couples = draws[i] == Draw::coupled;
        for (int step = 0; step < k && !greedy; step++) {
            const Noise noise = couples ? Noise(turn.seed, Purpose::token, turn.position + 1 + step)
                                        : Noise(turn.seed, Purpose::draft, turn.counter + step);
            if (draws[i] == Draw::greedy) {
                continue;
            }
            if (choices != nullptr) {  // of a whole vocabulary, coupled draws see every token that can win
                params_[step * columns + i] = turn.warp.choice(noise.key(), couples && !turn.warp.truncates());
            } else {
                StepDraw & draw = draws_[step * columns + i];
                draw.warp = turn.warp;
                draw.tabulate = draws[i] == Draw::independent;
                draw.noise = noise;
            }
        }
    }
    set(token, tokens_.data());
    set(position, positions_.data());
    set(state, states_.data());
    fill_mask(full, full_pages_, scratch.full_mask, turns);
    fill_mask(sliding, sliding_pages_, scratch.sliding_mask, turns);
    if (choices != nullptr) {
        set(choices, params_.data());
    }
}

void Gemma4Drafter::Graph::queue_reads(std::vector<DraftTurn> & turns) {
    ggml_backend_t backend = ggml_backend_sched_get_tensor_backend(scratch.sched.get(), drafted);
    drafted_.resize(ggml_nelements(drafted));
    ggml_backend_tensor_get_async(backend, drafted, drafted_.data(), 0, ggml_nbytes(drafted));
    for (Table & table : tables_) {
        ggml_backend_tensor_get_async(scratch.backend, table.tensor, table.words.data(), 0, ggml_nbytes(table.tensor));
    }
    for (size_t i = 0; i < turns.size(); i++) {
        turns[i].drafts->assign(turns[i].k, {});
        turns[i].place = { backend, drafted, (int) i * k };
    }
}

void Gemma4Drafter::Graph::take(std::vector<DraftTurn> & turns) {
    for (size_t i = 0; i < turns.size(); i++) {
        for (int step = 0; step < turns[i].k; step++) {
            const size_t index = step * columns + i;
            Draft & draft = (*turns[i].drafts)[step];
            draft.token = drafted_[i * k + step];
            if (!draws_.empty() && draws_[index].out_of_memory) {
                throw std::bad_alloc();
            }
            if (!draws_.empty() && draws_[index].tabulate) {
                draft.q.swap(draws_[index].q);
            }
        }
    }
    take_tables(turns);
}

// The distributions that a device drew from, see draw_token.
void Gemma4Drafter::Graph::take_tables(std::vector<DraftTurn> & turns) {
    for (const Table & table : tables_) {
        const size_t turn = table.index % columns;
        const int step = table.index / columns;
        if (turn >= turns.size() || step >= turns[turn].k) {
            continue;
        }
        const size_t n = (table.words.size() - 1) / 2;
        for (size_t i = 0; i < n; i++) {
            float p;
            memcpy(&p, &table.words[1 + i], sizeof(p));
            if (p > 0) {
                (*turns[turn].drafts)[step].q.push_back({ table.words[1 + n + i], p });
            }
        }
    }
}

// Visibility follows the cells' positions, so the order in which cells were filled does not matter.
void Gemma4Drafter::Graph::fill_mask(CacheView & view, attention::PageTable & pages, HostMemory & memory,
                                     const std::vector<DraftTurn> & turns) {
    if (view.mask->buffer == nullptr) {
        return;  // no layer of this kind
    }
    const llama_kv_cells & cells = view.cache->get_cells(0);
    void * values = memory.at_least(ggml_nbytes(view.mask), scratch.backend);
    for (int column = 0; column < columns; column++) {
        const DraftTurn & turn = turns[column < (int) turns.size() ? column : 0];
        const int64_t first = view.window == 0 ? 0 : (int64_t) turn.position - view.window + 1;
        pages.add(turn.slot, turn.position);
        const auto fill = [&](auto * rows) {
            attention::fill_mask_row(cells, turn.slot, first, turn.position - 1, rows + (size_t) column * view.n_kv,
                                     view.n_kv);
        };
        if (flash_attention) {
            fill((uint16_t *) values);
        } else {
            fill((float *) values);
        }
    }
    set(view.mask, values);
    pages.attach(view.mask, cells, view.window);
}

Gemma4Drafter::Gemma4Drafter(const MtpHead & head, llama_context * context, int most_turns)
    : head_(head),
      context_(context) {
    const auto & iswa = dynamic_cast<const llama_kv_cache_iswa &>(*llama_get_memory(context_));
    const SharedLayers shared = shared_layers(iswa);
    full_ = std::make_unique<CacheView>(CacheView{ iswa.get_base(), shared.full, iswa.get_base()->get_size(), 0 });
    sliding_ = std::make_unique<CacheView>(
        CacheView{ iswa.get_swa(), shared.sliding, iswa.get_swa()->get_size(), head_.window });
    scratch_ = std::make_unique<Scratch>(head_, *context_, *full_, *sliding_, n_columns(most_turns));
}

Gemma4Drafter::~Gemma4Drafter() = default;

Gemma4Drafter::Graph & Gemma4Drafter::graph_for(int k, const std::vector<Draw> & draws) {
    full_->n_kv = full_->cache->get_n_kv(first_stream());
    sliding_->n_kv = sliding_->cache->get_n_kv(first_stream());
    if (!graph_ || !graph_->fits(k, draws, full_->n_kv, sliding_->n_kv)) {
        graph_.reset();
        auto graph = std::make_unique<Graph>(*scratch_, head_, *context_, k, draws, *full_, *sliding_);
        graph->place();
        if (!ggml_backend_sched_alloc_graph(scratch_->sched.get(), graph->graph)) {
            throw Error(Status::out_of_memory, "cannot allocate the MTP head's draft graph");
        }
        graph_ = std::move(graph);
    }
    return *graph_;
}

bool Gemma4Drafter::begin(std::vector<DraftTurn> & turns) {
    int k = 0;
    draws_.clear();
    for (const DraftTurn & turn : turns) {
        k = std::max(k, turn.k);
        draws_.push_back(turn.warp.greedy() ? Draw::greedy : turn.draw);
        turn.drafts->clear();
    }
    draws_.resize(n_columns((int) turns.size()), draws_[0]);
    Graph & graph = graph_for(k, draws_);
    graph.set_inputs(turns);
    const ggml_status status = ggml_backend_sched_graph_compute_async(scratch_->sched.get(), graph.graph);
    if (status == GGML_STATUS_ABORTED) {
        return false;
    }
    if (status != GGML_STATUS_SUCCESS) {
        throw Error(Status::internal, format("the draft graph failed with status %d", (int) status));
    }
    graph.queue_reads(turns);
    return true;
}

void Gemma4Drafter::finish(std::vector<DraftTurn> & turns) { graph_->take(turns); }

size_t Gemma4Drafter::compute_bytes() const {
    ggml_backend_sched_t sched = scratch_->sched.get();
    size_t total = scratch_->memory.size();
    for (int i = 0; i < ggml_backend_sched_get_n_backends(sched); i++) {
        total += ggml_backend_sched_get_buffer_size(sched, ggml_backend_sched_get_backend(sched, i));
    }
    return total;
}

}  // namespace pmtp
