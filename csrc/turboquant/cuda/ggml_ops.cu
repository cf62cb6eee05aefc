#include "turboquant/cuda/ggml_ops.cuh"

#include "turboquant/cuda/kernels.cuh"

namespace {

using namespace pmtp::turboquant;

int bits_of(ggml_type type) {
    return type == GGML_TYPE_TURBO4 ? 4 : type == GGML_TYPE_TURBO3 ? 3 : type == GGML_TYPE_TURBO2 ? 2 : 0;
}

Shape shape_of(const ggml_tensor * t) { return { t->ne[0], t->ne[1], t->ne[2], t->ne[3] }; }

Strides strides_of(const ggml_tensor * t) { return { (int64_t) t->nb[1], (int64_t) t->nb[2], (int64_t) t->nb[3] }; }

bool rows_are_dense(const ggml_tensor * t) { return t->nb[0] == ggml_type_size(t->type); }

bool few_blocks(const ggml_tensor * t) { return shape_of(t).blocks() <= UINT32_MAX; }

// The tensor that is written to has the operation's strides; a row is written by the rule for its role.
void set_rows(const ggml_tensor * op, cudaStream_t stream) {
    const ggml_tensor * x = op->src[0];
    const ggml_tensor * numbers = op->src[1];
    const RowNumbers to{ (const char *) numbers->data,
                         numbers->type == GGML_TYPE_I64,
                         { (int64_t) numbers->nb[0], (int64_t) numbers->nb[1], (int64_t) numbers->nb[2] },
                         numbers->ne[1],
                         numbers->ne[2] };
    const turbo_role role = op->op_params[TURBO_PARAM] == TURBO_VALUE ? TURBO_VALUE : TURBO_KEY;
    encode(bits_of(op->type), role, (const float *) x->data, strides_of(x), op->data, strides_of(op), to, shape_of(x),
           stream);
}

void copy(const ggml_tensor * from, const ggml_tensor * to, cudaStream_t stream) {
    if (from->type == GGML_TYPE_F32) {
        encode(bits_of(to->type), TURBO_KEY, (const float *) from->data, strides_of(from), to->data, strides_of(to), {},
               shape_of(from), stream);
    } else {
        decode(bits_of(from->type), from->data, strides_of(from), (float *) to->data, strides_of(to), shape_of(from),
               stream);
    }
}

template <int bits> void to_fp16_nc(const void * x, half * y, int64_t ne0, int64_t ne1, int64_t ne2, int64_t ne3,
                                    int64_t s1, int64_t s2, int64_t s3, cudaStream_t stream) {
    constexpr int64_t bytes = bits == 4   ? sizeof(block_turbo4)
                              : bits == 3 ? sizeof(block_turbo3)
                                          : sizeof(block_turbo2);
    const int64_t row = ne0 * (int64_t) sizeof(half);
    decode(bits, x, { s1 * bytes, s2 * bytes, s3 * bytes }, y, { row, row * ne1, row * ne1 * ne2 },
           { ne0, ne1, ne2, ne3 }, stream);
}

template <int bits> void to_fp16(const void * x, half * y, int64_t n, cudaStream_t stream) {
    decode(bits, x, {}, y, {}, { n, 1, 1, 1 }, stream);
}

}  // namespace

bool pmtp_cuda_is_turbo(ggml_type type) { return bits_of(type) != 0; }

bool pmtp_cuda_turbo_writes(const ggml_tensor * op) {
    const ggml_tensor * x = op->src[0];
    const ggml_tensor * other = op->src[1];
    if (op->op == GGML_OP_SET_ROWS) {
        return bits_of(op->type) != 0 && x->type == GGML_TYPE_F32 && rows_are_dense(x) && rows_are_dense(op) &&
               few_blocks(x) && (other->type == GGML_TYPE_I64 || other->type == GGML_TYPE_I32);
    }
    const bool encodes = x->type == GGML_TYPE_F32 && bits_of(other->type) != 0,
               decodes = bits_of(x->type) != 0 && other->type == GGML_TYPE_F32;
    return op->op == GGML_OP_CPY && (encodes || decodes) && ggml_are_same_shape(x, other) && rows_are_dense(x) &&
           rows_are_dense(other) && few_blocks(x);
}

bool pmtp_cuda_turbo_write(const ggml_tensor * op, cudaStream_t stream) {
    if (!pmtp_cuda_turbo_writes(op)) {
        return false;
    }
    if (op->op == GGML_OP_SET_ROWS) {
        set_rows(op, stream);
    } else {
        copy(op->src[0], op->src[1], stream);
    }
    return true;
}

bool pmtp_cuda_is_signed_rotation(const ggml_tensor * op) {
    return op->op == GGML_OP_MUL_MAT && op->op_params[1] == GGML_HINT_SRC0_IS_HADAMARD &&
           op->op_params[TURBO_PARAM] != 0;
}

bool pmtp_cuda_rotate(const ggml_tensor * rotation, const ggml_tensor * x, const ggml_tensor * out,
                      cudaStream_t stream) {
    const int64_t n = x->ne[0];
    if (rotation->type != GGML_TYPE_F32 || !ggml_is_contiguous(x) || !ggml_is_contiguous(out) ||
        out->type != GGML_TYPE_F32 || (n != 64 && n != 128 && n != 256 && n != 512)) {
        return false;  // the matrix itself is multiplied with
    }
    const auto * signs = (const float *) rotation->data;  // of its first row
    if (x->type == GGML_TYPE_F16) {
        rotate((const half *) x->data, signs, (float *) out->data, (int) n, ggml_nrows(x), stream);
    } else if (x->type == GGML_TYPE_F32) {
        rotate((const float *) x->data, signs, (float *) out->data, (int) n, ggml_nrows(x), stream);
    }
    return x->type == GGML_TYPE_F16 || x->type == GGML_TYPE_F32;
}

pmtp_cuda_to_fp16_t pmtp_cuda_turbo_to_fp16(ggml_type type) {
    switch (type) {
        case GGML_TYPE_TURBO4: return to_fp16<4>;
        case GGML_TYPE_TURBO3: return to_fp16<3>;
        case GGML_TYPE_TURBO2: return to_fp16<2>;
        default: return nullptr;
    }
}

pmtp_cuda_to_fp16_nc_t pmtp_cuda_turbo_to_fp16_nc(ggml_type type) {
    switch (type) {
        case GGML_TYPE_TURBO4: return to_fp16_nc<4>;
        case GGML_TYPE_TURBO3: return to_fp16_nc<3>;
        case GGML_TYPE_TURBO2: return to_fp16_nc<2>;
        default: return nullptr;
    }
}
