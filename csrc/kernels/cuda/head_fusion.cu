#include "kernels/cuda/head_fusion.cuh"

#include "kernels/cuda/head_chains.cuh"
#include "kernels/cuda/keep.cuh"
#include "kernels/cuda/product_fusion.cuh"

namespace {

// Whether the kernel may write the chain's result while it reads.
bool can_write(const HeadChain & chain, const ggml_tensor * result) {
    return apart_or_same(result, chain.x) && (chain.rope == nullptr || are_apart(result, chain.rope->src[1]));
}

// Whether the products spare what the chains read behind them: in the graph's order a later product may take the memory
// of what only earlier chains use.
bool spares_inputs(const Projections & p) {
    for (const ggml_tensor * product : p.product) {
        for (const HeadChain & chain : p.chain) {
            const ggml_tensor * positions = chain.rope != nullptr ? chain.rope->src[1] : nullptr;
            const ggml_tensor * matrix = chain.rotation != nullptr ? chain.rotation->src[0] : nullptr;
            for (const ggml_tensor * input : { positions, matrix }) {
                if (product != nullptr && input != nullptr && !are_apart(product, input)) {
                    return false;
                }
            }
        }
    }
    return true;
}

// Memory of what is read and written together: a product's rows are read when all products are done.
bool is_safe(const Projections & p) {
    const ggml_tensor * queries = p.chain[0].last;
    for (int i = 0; i < 3; i++) {
        for (int j = 0; j < i; j++) {
            if (p.product[i] != nullptr && !are_apart(p.product[i], p.product[j])) {
                return false;
            }
        }
        if (p.product[i] != nullptr &&
            (!are_apart(p.product[i], p.product[i]->src[1]) || (i > 0 && !are_apart(queries, p.product[i])))) {
            return false;
        }
        if (p.write[i] != nullptr && !are_apart(queries, p.write[i]->src[1])) {
            return false;
        }
    }
    return can_write(p.chain[0], queries) && spares_inputs(p);
}

// All in one launch, if the weights have one format.
void multiply(const Projections & p, std::array<WeightProduct, 3> & products, cudaStream_t stream) {
    const ggml_tensor * x = p.product[0]->src[1];
    WeightProduct all = products[0];
    int n_others = 0;
    bool same = true;
    for (int i : { 1, 2 }) {
        if (p.product[i] != nullptr) {
            same = same && products[i].format == all.format;
            all.others[n_others++] = { products[i].weights, products[i].out, products[i].n_out };
        }
    }
    if (same && pmtp_cuda_has_product(all)) {
        pmtp_launch_product(all, x, nullptr, stream);
        return;
    }
    for (int i = 0; i < 3; i++) {
        if (p.product[i] != nullptr) {
            pmtp_launch_product(products[i], x, nullptr, stream);
        }
    }
}

}  // namespace

int pmtp_fuse_projections(const ggml_cgraph * graph, int i, cudaStream_t stream) {
    Projections p;
    if (!p.read(graph, i) || !is_safe(p)) {
        return 0;
    }
    std::array<WeightProduct, 3> products;
    for (int kind = 0; kind < 3; kind++) {
        const ggml_tensor * product = p.product[kind];
        if (product != nullptr &&
            !pmtp_is_product(product->src[0], nullptr, product->src[1], product, products[kind])) {
            return 0;
        }
    }
    multiply(p, products, stream);
    HeadsOp op;
    op.n_kinds = 3;
    op.n_rows = (int) p.chain[0].n_rows();
    op.turn = p.chain[0].turn();
    for (int kind = 0; kind < 3; kind++) {
        op.kinds[kind] = p.chain[kind].heads();
        if (kind > 0) {
            op.kinds[kind].out = nullptr;
            pmtp_cell_rows(p.write[kind], op.kinds[kind].cells);
        }
    }
    pmtp_cuda_finish_heads(op, (int) p.chain[0].n(), stream);
    return p.n_nodes - 1;
}

int pmtp_fuse_heads(const ggml_cgraph * graph, int i, cudaStream_t stream) {
    NodeReader nodes{ graph, i };
    HeadChain chain;
    if (!chain.read(nodes, graph->nodes[i]->src[0]) || (chain.rope == nullptr && chain.rotation == nullptr) ||
        !pmtp_is_closed(graph, i, nodes.at - i, { chain.last }) || !can_write(chain, chain.last)) {
        return 0;
    }
    HeadsOp op;
    op.n_kinds = 1;
    op.n_rows = (int) chain.n_rows();
    op.turn = chain.turn();
    op.kinds[0] = chain.heads();
    pmtp_cuda_finish_heads(op, (int) chain.n(), stream);
    return nodes.at - i - 1;
}

PmtpRotatedRows pmtp_rotated_rows_of(const ggml_tensor * attention) {
    constexpr int kSize = 64, kNodes = 5;
    const ggml_cgraph * graph = pmtp_graph_of_shared();
    int i = 0;
    while (graph != nullptr && i < graph->n_nodes && graph->nodes[i] != attention) {
        i++;
    }
    if (graph == nullptr || i + kNodes > graph->n_nodes) {
        return {};
    }
    NodeReader nodes{ graph, i + 1 };
    const ggml_tensor * flat = nodes.take(GGML_OP_RESHAPE, attention);
    const ggml_tensor * pieces = flat != nullptr ? nodes.take(GGML_OP_RESHAPE, flat) : nullptr;
    const ggml_tensor * rotation = nodes.peek();
    const ggml_tensor * rows = nodes.peek(1);
    if (pieces == nullptr || !is_rotation(rotation) || rotation->src[1] != pieces || rows == nullptr ||
        rows->op != GGML_OP_RESHAPE || rows->src[0] != rotation || !is_rows(rows)) {
        return {};
    }
    const ggml_tensor * matrix = rotation->src[0];
    if (matrix->op != GGML_OP_NONE || matrix->type != GGML_TYPE_F32 || !ggml_is_contiguous(matrix) ||
        matrix->ne[0] != kSize || !pmtp_is_closed(graph, i, kNodes, { rows })) {
        return {};
    }
    return { rotation, rows };
}

int pmtp_fuse_rotation(const ggml_cgraph * graph, int i, cudaStream_t stream) {
    const ggml_tensor * rotation = graph->nodes[i];
    if (!is_rotation(rotation) ||
        !pmtp_is_closed(graph, i, 2, { i + 1 < graph->n_nodes ? graph->nodes[i + 1] : nullptr })) {
        return 0;
    }
    if (pmtp_is_rotated(rotation)) {
        return 1;
    }
    const ggml_tensor * matrix = rotation->src[0];
    const ggml_tensor * x = rotation->src[1];
    const ggml_tensor * y = graph->nodes[i + 1];
    const int64_t size = matrix->ne[0];
    if (y->op != GGML_OP_RESHAPE || y->src[0] != rotation || !is_rows(y) || x->type != GGML_TYPE_F32 ||
        !ggml_is_contiguous(x) || matrix->type != GGML_TYPE_F32 || !ggml_is_contiguous(matrix) ||
        !pmtp_has_heads(size) || y->ne[0] % size != 0 || y->ne[1] > INT32_MAX / 1024 || !apart_or_same(y, x)) {
        return 0;
    }
    const float * signs = rotation->op_params[TURBO_PARAM] != 0 ? (const float *) matrix->data : nullptr;
    pmtp_cuda_rotate_rows((const float *) x->data, signs, (int) size, (float *) y->data,
                          (PmtpQ8Block *) pmtp_rows_of(y).data, (int) y->ne[0], (int) y->ne[1], stream);
    return 1;
}

bool pmtp_cuda_norm_heads(const ggml_tensor * norm, cudaStream_t stream) {
    ggml_tensor * node = const_cast<ggml_tensor *>(norm);
    ggml_cgraph alone = {};
    alone.n_nodes = 1;
    alone.nodes = &node;
    NodeReader nodes{ &alone, 0 };
    HeadChain chain;
    if (norm->src[0]->op != GGML_OP_RESHAPE || !chain.read(nodes, norm->src[0]) || !can_write(chain, norm)) {
        return false;
    }
    HeadsOp op;
    op.n_kinds = 1;
    op.n_rows = (int) chain.n_rows();
    op.kinds[0] = chain.heads();
    pmtp_cuda_finish_heads(op, (int) chain.n(), stream);
    return true;
}

bool pmtp_cuda_write_heads(const ggml_tensor * set_rows, cudaStream_t stream) {
    const ggml_tensor * rows = set_rows->src[0];
    HeadsOp op;
    if ((set_rows->type != GGML_TYPE_Q8_0 && set_rows->type != GGML_TYPE_Q4_0) ||
        !pmtp_cell_rows(set_rows, op.kinds[0].cells) || rows->ne[1] > INT32_MAX / (rows->ne[0] / 64)) {
        return false;
    }
    int n = 512;
    while (rows->ne[0] % n != 0) {
        n /= 2;
    }
    op.n_kinds = 1;
    op.n_rows = (int) rows->ne[1];
    op.kinds[0].x = (const float *) rows->data;
    op.kinds[0].n_heads = (int) (rows->ne[0] / n);
    pmtp_cuda_finish_heads(op, n, stream);
    return true;
}

int pmtp_keep_projections(const ggml_cgraph * graph, int i, const Keep & keep) {
    Projections p;
    if (!p.read(graph, i)) {
        return 0;
    }
    for (const ggml_tensor * product : p.product) {
        if (product != nullptr) {
            keep(product, p.write[2]);
        }
    }
    keep(p.chain[0].rope->src[1], p.write[2]);
    for (const HeadChain & chain : p.chain) {
        if (chain.rotation != nullptr) {
            keep(chain.rotation->src[0], p.write[2]);
        }
    }
    return p.n_nodes - 1;
}

int pmtp_keep_heads(const ggml_cgraph * graph, int i, const Keep & keep) {
    NodeReader nodes{ graph, i };
    HeadChain chain;
    if (!chain.read(nodes, graph->nodes[i]->src[0]) || (chain.rope == nullptr && chain.rotation == nullptr)) {
        return 0;
    }
    keep(chain.x, chain.last);
    if (chain.rope != nullptr) {
        keep(chain.rope->src[1], chain.last);
    }
    return nodes.at - i - 1;
}
