// Compiled like turboquant/cuda, whose bytes it writes.
#include "kernels/rows/cuda/heads.cuh"

#include "kernels/cuda/launch.cuh"
#include "kernels/rows/cuda/head_values.cuh"
#include "turboquant/cuda/encode_block.cuh"
#include "turboquant/cuda/rotate_row.cuh"

#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include <algorithm>

namespace {

using pmtp::HeadValues, pmtp::kWarp, pmtp::Layout;

// Warps of a thread block that rotates rows.
constexpr int kWarps = 4;

__host__ __device__ bool is_turbo(CellType type) {
    return type == CellType::turbo4 || type == CellType::turbo3 || type == CellType::turbo2;
}

// Up to so many rows, which do not fill the device, all warps of a head search for the scale of one block of 64, and
// each block has such warps.
constexpr int kFewRows = 16;

template <int n> __host__ __device__ bool is_shared(const Heads & heads, int n_rows) {
    return Layout<n>::kHeads == 1 && heads.cells.data != nullptr && is_turbo(heads.cells.type) && n_rows <= kFewRows;
}

template <int n> __host__ __device__ int blocks_of(const Heads & heads, int n_rows) {
    using L = Layout<n>;
    const int n_heads = n_rows * heads.n_heads;
    return is_shared<n>(heads, n_rows) ? n_heads * L::kWarps : (n_heads + L::kHeads - 1) / L::kHeads;
}

// Searches of a block of threads at once.
template <int n> int n_partials(const HeadsOp & op) {
    int n_searches = 0;
    for (int i = 0; i < op.n_kinds; i++) {
        const Heads & heads = op.kinds[i];
        if (heads.cells.data != nullptr && is_turbo(heads.cells.type)) {
            n_searches = std::max(n_searches, is_shared<n>(heads, op.n_rows) ? 1 : Layout<n>::kThreads / kWarp);
        }
    }
    return n_searches;
}

// The angle without its whole turns, of which __sinf and __cosf lose half of the bits.
__device__ __forceinline__ float within_one_turn(float angle) {
    constexpr float kTurn = 6.28125f;  // of so few bits that its multiples are exact; and what a turn has beside them
    constexpr float kRest = 1.9353071795864769e-3f;
    const float turns = rintf(angle * 0.15915494309189535f);
    return __fmaf_rn(turns, -kRest, __fmaf_rn(turns, -kTurn, angle));
}

// The block of 32 values that the lanes have, with the arithmetic of ggml's reference.
__device__ __forceinline__ void write_q8_0(float x, uint8_t * block) {
    const float largest = pmtp::reduce_lanes<kWarp>(fabsf(x), pmtp::Max());
    const float scale = largest / 127;
    const float inverse = scale != 0 ? 1.0f / scale : 0.0f;
    const int lane = threadIdx.x % kWarp;
    block[2 + lane] = (uint8_t) (int8_t) roundf(x * inverse);
    if (lane == 0) {
        *(uint16_t *) block = __half_as_ushort(__float2half_rn(scale));
    }
}

__device__ __forceinline__ void write_q4_0(float x, uint8_t * block) {
    const int lane = threadIdx.x % kWarp;
    // the first of the largest has the sign
    const uint64_t rank = pmtp::reduce_lanes<kWarp>(
        (uint64_t) __float_as_uint(fabsf(x)) << 32 | (uint32_t) (kWarp - 1 - lane), pmtp::Max());
    const float largest = __shfl_sync(0xffffffffu, x, kWarp - 1 - (int) (uint32_t) rank);
    const float scale = largest / -8;
    const float inverse = scale != 0 ? 1.0f / scale : 0.0f;
    const int quant = min(15, (int) (int8_t) (x * inverse + 8.5f));
    const int high = __shfl_down_sync(0xffffffffu, quant, kWarp / 2);
    if (lane < kWarp / 2) {
        block[2 + lane] = (uint8_t) (quant | high << 4);
    }
    if (lane == 0) {
        *(uint16_t *) block = __half_as_ushort(__float2half_rn(scale));
    }
}

// The block of 64 values that lie at x.
__device__ __forceinline__ void write_turbo(const float * x, const CellRows & cells, char * cell, int block,
                                            pmtp::turboquant::Partial & partial, pmtp::turboquant::Team team) {
    namespace tq = pmtp::turboquant;
    float parts[tq::kParts];
#pragma unroll
    for (int p = 0; p < tq::kParts; p++) {
        parts[p] = x[p * tq::kLanes + threadIdx.x % tq::kLanes];
    }
    const auto write = [&](auto bits) {
        constexpr int b = decltype(bits)::value;
        tq::encode_block<b>(parts, cells.role, (uint8_t *) cell + (size_t) block * tq::kBlockBytes<b>, partial, team);
    };
    switch (cells.type) {
        case CellType::turbo4: write(std::integral_constant<int, 4>()); break;
        case CellType::turbo3: write(std::integral_constant<int, 3>()); break;
        default: write(std::integral_constant<int, 2>()); break;
    }
}

template <int n> __global__ void __launch_bounds__(Layout<n>::kThreads)
    finish_heads(const __grid_constant__ HeadsOp op) {
    using L = Layout<n>;
    __shared__ typename HeadValues<n>::Memory memory;
    extern __shared__ pmtp::turboquant::Partial partial[];  // n_partials()
    HeadValues<n> all(memory);

    int block = blockIdx.x;
    int kind = 0;
    for (; block >= blocks_of<n>(op.kinds[kind], op.n_rows); kind++) {
        block -= blocks_of<n>(op.kinds[kind], op.n_rows);
    }
    const Heads & heads = op.kinds[kind];
    const bool shared = is_shared<n>(heads, op.n_rows);
    const int task = shared ? block / L::kWarps : block * L::kHeads + (int) threadIdx.x / kWarp / L::kWarps;
    const bool is_task = task < op.n_rows * heads.n_heads;  // else the warps do nothing that is seen
    const int row = is_task ? task / heads.n_heads : 0;
    const int head = is_task ? task % heads.n_heads : 0;
    // All loads first, so that they wait for memory together.
    float turn_factor = 1.0f, weight[2] = { 1.0f, 1.0f }, sign[2] = { 1.0f, 1.0f }, rotated_sign[2] = { 1.0f, 1.0f };
    if (heads.turns && op.turn.factors != nullptr) {
        turn_factor = op.turn.factors[all.at(0)];
    }
#pragma unroll
    for (int i = 0; i < 2; i++) {
        if (heads.weight != nullptr) {
            weight[i] = heads.weight[all.at(i)];
        }
        if (heads.rotation != 0 && heads.signs != nullptr) {
            sign[i] = heads.signs[all.at(i) & (heads.rotation - 1)];
            rotated_sign[i] = heads.signs[all.at_rotated(i) & (heads.rotation - 1)];
        }
    }
    const float frequency = op.turn.scale * exp2f(op.turn.log2_base * (float) all.at(0)) / turn_factor;
    const float rotated = heads.rotation != 0 ? 1.0f / sqrtf((float) heads.rotation) : 0.0f;
    const float rotation[2] = { copysignf(rotated, sign[0]), copysignf(rotated, sign[1]) };
    const bool negative[2] = { rotated_sign[0] < 0, rotated_sign[1] < 0 };
    wait_for_previous();
    let_next_begin();

    const float * x = heads.x + ((size_t) row * heads.n_heads + head) * n;
    float v[2] = { x[all.at(0)], x[all.at(1)] };
    const int position = heads.turns ? op.turn.positions[row] : 0;
    const CellRows & cells = heads.cells;
    const int64_t number = cells.data == nullptr ? 0
                           : cells.wide          ? ((const int64_t *) cells.numbers)[row]
                                                 : ((const int32_t *) cells.numbers)[row];
    const float angle = within_one_turn((float) position * frequency);
    const float sine = __sinf(angle) * op.turn.magnitude;
    const float cosine = __cosf(angle) * op.turn.magnitude;
    if (heads.norms) {
        const float scale = rsqrtf(all.sum(v[0] * v[0] + v[1] * v[1]) / n + heads.eps);
        v[0] *= scale;
        v[1] *= scale;
    }
    if (heads.weight != nullptr) {
        v[0] *= weight[0];
        v[1] *= weight[1];
    }
    if (heads.turns) {
        const float a = v[0], b = v[1];
        v[0] = a * cosine - b * sine;
        v[1] = a * sine + b * cosine;
    }
    const bool is_rotated = heads.rotation != 0;
    if (is_rotated) {
        all.rotate(v, heads.rotation, rotation, negative);
    }
    char * cell = cells.data + cells.cell_bytes * number;
    if (heads.out == nullptr && is_turbo(cells.type)) {
        const float * values = all.share(v, is_rotated);
        const int slice = shared ? block % L::kWarps : all.warp();
        const pmtp::turboquant::Team team{ shared ? L::kWarps : 1, shared ? all.warp() : 0 };
        if (is_task) {
            write_turbo(values + slice * TURBO_BLOCK, cells, cell, head * L::kWarps + slice,
                        partial[shared ? 0 : threadIdx.x / kWarp], team);
        }
        return;
    }
    const bool in_order = heads.out == nullptr && (cells.type == CellType::q8_0 || cells.type == CellType::q4_0);
    if (is_rotated && in_order) {  // a warp has whole blocks of 32
        const float * values = all.share(v, true);
        v[0] = values[all.at(0)];
        v[1] = values[all.at(1)];
    }
    if (!is_task) {
        return;
    }
#pragma unroll
    for (int i = 0; i < 2; i++) {
        const int at = head * n + (is_rotated && !in_order ? all.at_rotated(i) : all.at(i));
        if (heads.out != nullptr) {
            heads.out[(size_t) row * heads.n_heads * n + at] = v[i];
        } else if (cells.type == CellType::f16) {
            ((half *) cell)[at] = __float2half_rn(v[i]);
        } else if (cells.type == CellType::bf16) {
            ((nv_bfloat16 *) cell)[at] = __float2bfloat16_rn(v[i]);
        } else if (cells.type == CellType::q8_0) {
            write_q8_0(v[i], (uint8_t *) cell + (size_t) (at / kWarp) * 34);
        } else {
            write_q4_0(v[i], (uint8_t *) cell + (size_t) (at / kWarp) * 18);
        }
    }
}

// y = R x of each n_registers * kWarp values.
template <int n_registers>
__device__ __forceinline__ void rotate(float (&v)[n_registers], const float (&sign)[n_registers]) {
    constexpr int kSize = n_registers * kWarp;
    const float scale = 1.0f / sqrtf((float) kSize);
#pragma unroll
    for (int i = 0; i < n_registers; i++) {
        v[i] *= copysignf(scale, sign[i]);
    }
    pmtp::turboquant::transform(v, kSize);
#pragma unroll
    for (int i = 0; i < n_registers; i++) {
        v[i] = sign[i] < 0 ? -v[i] : v[i];
    }
}

template <int n_registers> __global__ void __launch_bounds__(kWarps * kWarp)
    rotate_rows(const float * x, const float * signs, float * y, PmtpQ8Block * quantised, int n, int n_rows) {
    constexpr int kSize = n_registers * kWarp;
    const int task = blockIdx.x * kWarps + threadIdx.x / kWarp;
    const int row = task / (n / kSize);
    const int begin = task % (n / kSize) * kSize;
    const size_t at = (size_t) row * n + begin + threadIdx.x % kWarp;
    wait_for_previous();
    let_next_begin();
    if (row >= n_rows) {
        return;
    }
    float v[n_registers], sign[n_registers];
#pragma unroll
    for (int i = 0; i < n_registers; i++) {
        v[i] = x[at + i * kWarp];
        sign[i] = signs != nullptr ? signs[i * kWarp + threadIdx.x % kWarp] : 1.0f;
    }
    rotate(v, sign);
#pragma unroll
    for (int i = 0; i < n_registers; i++) {
        y[at + i * kWarp] = v[i];
        if (quantised != nullptr) {
            const float values[1] = { v[i] };
            pmtp_quantise(values, pmtp_place(quantised, n, n_rows, row, begin / kWarp + i));
        }
    }
}

}  // namespace

void pmtp_cuda_finish_heads(const HeadsOp & op, int n, cudaStream_t stream) {
    const auto launch = [&](auto size) {
        int n_blocks = 0;
        for (int i = 0; i < op.n_kinds; i++) {
            n_blocks += blocks_of<size>(op.kinds[i], op.n_rows);
        }
        launch_early(finish_heads<size>, n_blocks, Layout<size>::kThreads, stream,
                     n_partials<size>(op) * sizeof(pmtp::turboquant::Partial), op);
    };
    switch (n) {
        case 64: launch(std::integral_constant<int, 64>()); break;
        case 128: launch(std::integral_constant<int, 128>()); break;
        case 256: launch(std::integral_constant<int, 256>()); break;
        default: launch(std::integral_constant<int, 512>()); break;
    }
}

void pmtp_cuda_rotate_rows(const float * x, const float * signs, int rotation, float * y, PmtpQ8Block * quantised,
                           int n, int n_rows, cudaStream_t stream) {
    const auto kernel = rotation == 64    ? rotate_rows<2>
                        : rotation == 128 ? rotate_rows<4>
                        : rotation == 256 ? rotate_rows<8>
                                          : rotate_rows<16>;
    const int64_t n_warps = (int64_t) n_rows * (n / rotation);
    launch_early(kernel, (int) ((n_warps + kWarps - 1) / kWarps), kWarps * kWarp, stream, 0, x, signs, y, quantised, n,
                 n_rows);
}
