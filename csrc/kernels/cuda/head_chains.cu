#include "kernels/cuda/head_chains.cuh"

#include <cmath>
#include <vector>

namespace {

bool is_heads(const ggml_tensor * t) {
    return t->type == GGML_TYPE_F32 && ggml_is_contiguous(t) && t->ne[3] == 1 && pmtp_has_heads(t->ne[0]) &&
           t->ne[2] <= INT32_MAX / 1024 && t->ne[1] <= 1024;
}

float rope_param(const ggml_tensor * rope, int word) { return ggml_get_op_params_f32(rope, word); }

bool can_turn(const ggml_tensor * rope) {
    constexpr int kDims = 1, kMode = 2, kExtrapolation = 7, kOffset = 15;
    const ggml_tensor * positions = rope->src[1];
    const ggml_tensor * factors = rope->src[2];
    const int64_t n = rope->ne[0];
    return ggml_get_op_params_i32(rope, kDims) == n && ggml_get_op_params_i32(rope, kMode) == GGML_ROPE_TYPE_NEOX &&
           rope_param(rope, kExtrapolation) == 0.0f && ggml_get_op_params_i32(rope, kOffset) == 0 &&
           positions->type == GGML_TYPE_I32 && ggml_is_contiguous(positions) && positions->ne[0] == rope->ne[2] &&
           // The kernel reads them before those in front have ended.
           (factors == nullptr || (is_weight(factors) && factors->type == GGML_TYPE_F32 &&
                                   ggml_is_contiguous(factors) && factors->ne[0] >= n / 2));
}

bool can_rotate(const ggml_tensor * rotation, int64_t n) {
    const ggml_tensor * matrix = rotation->src[0];
    return matrix->op == GGML_OP_NONE && matrix->type == GGML_TYPE_F32 && ggml_is_contiguous(matrix) &&
           pmtp_has_heads(matrix->ne[0]) && n % matrix->ne[0] == 0;
}

bool cell_type(ggml_type type, CellType & out) {
    switch (type) {
        case GGML_TYPE_F16: out = CellType::f16; return true;
        case GGML_TYPE_BF16: out = CellType::bf16; return true;
        case GGML_TYPE_Q8_0: out = CellType::q8_0; return true;
        case GGML_TYPE_Q4_0: out = CellType::q4_0; return true;
        case GGML_TYPE_TURBO4: out = CellType::turbo4; return true;
        case GGML_TYPE_TURBO3: out = CellType::turbo3; return true;
        case GGML_TYPE_TURBO2: out = CellType::turbo2; return true;
        default: return false;
    }
}

}  // namespace

bool HeadChain::read(NodeReader & nodes, const ggml_tensor * from) {
    x = from;
    norm = nodes.take(GGML_OP_RMS_NORM, x);
    if (norm == nullptr || !is_heads(x) || !is_heads(norm)) {
        return false;
    }
    last = norm;
    const ggml_tensor * mul = nodes.peek();
    if (mul != nullptr && mul->op == GGML_OP_MUL && (mul->src[0] == norm || mul->src[1] == norm)) {
        weight = other_source(mul, norm);
        last = mul;
        nodes.at++;
        if (!is_row_weight(weight, n())) {
            return false;
        }
    }
    rope = nodes.take(GGML_OP_ROPE, last);
    if (rope != nullptr) {
        last = rope;
        if (!can_turn(rope) || !is_heads(rope)) {
            return false;
        }
    }
    const ggml_tensor * flat = nodes.peek();
    if (flat != nullptr && flat->op == GGML_OP_RESHAPE && flat->src[0] == last && is_rotation(nodes.peek(1)) &&
        nodes.peek(1)->src[1] == flat) {
        rotation = nodes.peek(1);
        nodes.at += 2;
        last = nodes.take(GGML_OP_RESHAPE, rotation);
        return last != nullptr && is_heads(last) && can_rotate(rotation, n());
    }
    return true;
}

Heads HeadChain::heads() const {
    Heads heads;
    heads.x = (const float *) x->data;
    heads.n_heads = (int) x->ne[1];
    heads.norms = true;
    heads.eps = epsilon(norm);
    heads.weight = weight != nullptr ? (const float *) weight->data : nullptr;
    heads.turns = rope != nullptr;
    if (rotation != nullptr) {
        heads.rotation = (int) rotation->src[0]->ne[0];
        heads.signs = rotation->op_params[TURBO_PARAM] != 0 ? (const float *) rotation->src[0]->data : nullptr;
    }
    heads.out = (float *) last->data;
    return heads;
}

Turn HeadChain::turn() const {
    constexpr int kBase = 5, kScale = 6, kMagnitude = 8;
    Turn turn;
    if (rope != nullptr) {
        turn.positions = (const int32_t *) rope->src[1]->data;
        turn.factors = rope->src[2] != nullptr ? (const float *) rope->src[2]->data : nullptr;
        turn.log2_base = -2.0f / (float) n() * std::log2(rope_param(rope, kBase));
        turn.scale = rope_param(rope, kScale);
        turn.magnitude = rope_param(rope, kMagnitude);
    }
    return turn;
}

bool Projections::read(const ggml_cgraph * graph, int i) {
    NodeReader nodes{ graph, i };
    const ggml_tensor * x = graph->nodes[i]->src[1];
    for (int kind = 0; kind < 3; kind++) {
        const ggml_tensor * node = nodes.peek();
        const ggml_tensor * source = product[1];  // where values have no product of their own
        if (node != nullptr && node->op == GGML_OP_MUL_MAT && node->src[1] == x && !is_rotation(node)) {
            source = product[kind] = node;
            nodes.at++;
        } else if (kind < 2) {
            return false;
        }
        const ggml_tensor * heads = nodes.take(GGML_OP_RESHAPE, source);
        if (heads == nullptr || !chain[kind].read(nodes, heads) || chain[kind].n() != chain[0].n() ||
            chain[kind].n_rows() != chain[0].n_rows()) {
            return false;
        }
    }
    const ggml_tensor * turned[] = { chain[0].rope, chain[1].rope };
    if (turned[0] == nullptr || turned[1] == nullptr || chain[2].rope != nullptr ||
        turned[0]->src[1] != turned[1]->src[1] || turned[0]->src[2] != turned[1]->src[2] ||
        memcmp(turned[0]->op_params, turned[1]->op_params, sizeof(turned[0]->op_params)) != 0) {
        return false;
    }
    for (int kind : { 1, 2 }) {
        const ggml_tensor * rows = nodes.take(GGML_OP_VIEW, chain[kind].last);
        write[kind] = rows != nullptr ? nodes.take(GGML_OP_SET_ROWS, rows) : nullptr;
        CellRows cells;
        if (write[kind] == nullptr || !pmtp_cell_rows(write[kind], cells) ||
            rows->ne[0] != chain[kind].n() * chain[kind].x->ne[1]) {
            return false;
        }
    }
    n_nodes = nodes.at - i;
    return pmtp_is_closed(graph, i, n_nodes, { chain[0].last, write[1], write[2] });
}

bool pmtp_cell_rows(const ggml_tensor * set_rows, CellRows & cells) {
    const ggml_tensor * rows = set_rows->src[0];
    const ggml_tensor * numbers = set_rows->src[1];
    if (!cell_type(set_rows->type, cells.type) || rows->type != GGML_TYPE_F32 || !ggml_is_matrix(rows) ||
        !ggml_is_contiguous(rows) || !ggml_is_matrix(set_rows) || !ggml_is_vector(numbers) ||
        !ggml_is_contiguous(numbers) || numbers->ne[0] != rows->ne[1] || rows->ne[0] % TURBO_BLOCK != 0 ||
        (numbers->type != GGML_TYPE_I64 && numbers->type != GGML_TYPE_I32)) {
        return false;
    }
    cells.data = (char *) set_rows->data;
    cells.role = set_rows->op_params[TURBO_PARAM] == TURBO_VALUE ? TURBO_VALUE : TURBO_KEY;
    cells.cell_bytes = (int64_t) set_rows->nb[1];
    cells.numbers = (const char *) numbers->data;
    cells.wide = numbers->type == GGML_TYPE_I64;
    return true;
}

bool pmtp_is_closed(const ggml_cgraph * graph, int i, int n, std::initializer_list<const ggml_tensor *> outputs) {
    constexpr int kMost = 31;
    if (n > kMost || n > graph->n_nodes - i) {
        return false;
    }
    std::vector<ggml_op> ops;
    std::vector<int> output_nodes;
    for (int at = i; at < i + n; at++) {
        ops.push_back(graph->nodes[at]->op);
        for (const ggml_tensor * output : outputs) {
            if (graph->nodes[at] == output) {
                output_nodes.push_back(at);
            }
        }
    }
    return ggml_can_fuse_subgraph(graph, i, n, ops.data(), output_nodes.data(), (int) output_nodes.size());
}
