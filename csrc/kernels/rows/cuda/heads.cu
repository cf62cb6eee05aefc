// A warp to a head: value 32 i + lane is register i of a lane. Compiled like turboquant/cuda, whose bytes it writes.
#include "kernels/rows/cuda/heads.cuh"

#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/reduce.cuh"
#include "turboquant/cuda/encode_block.cuh"
#include "turboquant/cuda/rotate_row.cuh"

#include <cuda_bf16.h>
#include <cuda_fp16.h>

namespace {

using pmtp::kWarp;

// Warps of a thread block.
constexpr int kWarps = 4;

__host__ __device__ bool is_turbo(CellType type) {
    return type == CellType::turbo4 || type == CellType::turbo3 || type == CellType::turbo2;
}

__host__ __device__ bool is_quantised(CellType type) { return type != CellType::f16 && type != CellType::bf16; }

// Registers of a lane that a warp writes of a quantised head, which as many warps share: what is quantised together.
constexpr int kSlice = TURBO_BLOCK / kWarp;
// Up to so many rows, whose blocks do not fill the device, a thread block searches for the scale of one TURBO_BLOCK.
constexpr int kFewRows = 16;

// A head's slices, each of which has a team of warps.
__host__ __device__ int slices_of(const Heads & heads, int n) {
    return heads.cells.data != nullptr && is_quantised(heads.cells.type) ? n / TURBO_BLOCK : 1;
}
__host__ __device__ int team_of(const Heads & heads, int n_rows) {
    return heads.cells.data != nullptr && is_turbo(heads.cells.type) && n_rows <= kFewRows ? kWarps : 1;
}

__host__ __device__ int warps_of(const Heads & heads, int n, int n_rows) {
    return n_rows * heads.n_heads * slices_of(heads, n) * team_of(heads, n_rows);
}
__host__ __device__ int blocks_of(int64_t n_warps) { return (int) ((n_warps + kWarps - 1) / kWarps); }

// The angle without its whole turns, of which __sinf and __cosf lose half of the bits.
__device__ __forceinline__ float within_one_turn(float angle) {
    constexpr float kTurn = 6.28125f;  // of so few bits that its multiples are exact; and what a turn has beside them
    constexpr float kRest = 1.9353071795864769e-3f;
    const float turns = rintf(angle * 0.15915494309189535f);
    return __fmaf_rn(turns, -kRest, __fmaf_rn(turns, -kTurn, angle));
}

// y = R x of each `size` values.
template <int n_registers>
__device__ __forceinline__ void rotate(float (&v)[n_registers], int size, const float (&sign)[n_registers]) {
    const float scale = 1.0f / sqrtf((float) size);
#pragma unroll
    for (int i = 0; i < n_registers; i++) {
        v[i] *= copysignf(scale, sign[i]);
    }
    pmtp::turboquant::transform(v, size);
#pragma unroll
    for (int i = 0; i < n_registers; i++) {
        v[i] = sign[i] < 0 ? -v[i] : v[i];
    }
}

// Of this lane's values; without signs all are positive.
template <int n_registers>
__device__ __forceinline__ void load_signs(float (&sign)[n_registers], const float * signs, int size) {
#pragma unroll
    for (int i = 0; i < n_registers; i++) {
        sign[i] = signs != nullptr ? signs[(i * kWarp + threadIdx.x % kWarp) % size] : 1.0f;
    }
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

__device__ __forceinline__ void write_turbo(const float (&v)[kSlice], const CellRows & cells, char * cell, int block,
                                            pmtp::turboquant::Partial & partial, pmtp::turboquant::Team team) {
    namespace tq = pmtp::turboquant;
    float x[tq::kParts];
#pragma unroll
    for (int p = 0; p < tq::kParts; p++) {
        x[p] = __shfl_sync(0xffffffffu, v[p / 2], threadIdx.x % tq::kLanes + p % 2 * tq::kLanes);
    }
    const auto write = [&](auto bits) {
        constexpr int b = decltype(bits)::value;
        tq::encode_block<b>(x, cells.role, (uint8_t *) cell + (size_t) block * tq::kBlockBytes<b>, partial,
                            team);
    };
    switch (cells.type) {
        case CellType::turbo4: write(std::integral_constant<int, 4>()); break;
        case CellType::turbo3: write(std::integral_constant<int, 3>()); break;
        default: write(std::integral_constant<int, 2>()); break;
    }
}

template <int n> __global__ void __launch_bounds__(kWarps * kWarp) finish_heads(const __grid_constant__ HeadsOp op) {
    constexpr int kRegisters = n / kWarp;
    constexpr int kPairs = kRegisters / 2;
    __shared__ pmtp::turboquant::Partial partial[kWarps];
    const int lane = threadIdx.x % kWarp;

    int block = blockIdx.x;
    int kind = 0;
    for (; block >= blocks_of(warps_of(op.kinds[kind], n, op.n_rows)); kind++) {
        block -= blocks_of(warps_of(op.kinds[kind], n, op.n_rows));
    }
    const Heads & heads = op.kinds[kind];
    int task = block * kWarps + threadIdx.x / kWarp;
    if (task >= warps_of(heads, n, op.n_rows)) {
        wait_for_previous();
        let_next_begin();
        return;
    }
    const int n_slices = slices_of(heads, n);
    const pmtp::turboquant::Team team{ team_of(heads, op.n_rows), task % team_of(heads, op.n_rows) };
    task /= team.n_warps;
    const int slice = task % n_slices;
    const int head = task / n_slices % heads.n_heads;
    const int row = task / n_slices / heads.n_heads;
    float frequency[kPairs], weight[kRegisters], sign[kRegisters];
    if (heads.turns) {
#pragma unroll
        for (int i = 0; i < kPairs; i++) {
            const float factor = op.turn.factors != nullptr ? op.turn.factors[i * kWarp + lane] : 1.0f;
            frequency[i] = op.turn.scale * exp2f(op.turn.log2_base * (float) (i * kWarp + lane)) / factor;
        }
    }
    if (heads.weight != nullptr) {
#pragma unroll
        for (int i = 0; i < kRegisters; i++) {
            weight[i] = heads.weight[i * kWarp + lane];
        }
    }
    if (heads.rotation != 0) {
        load_signs(sign, heads.signs, heads.rotation);
    }
    wait_for_previous();
    let_next_begin();

    const float * x = heads.x + ((size_t) row * heads.n_heads + head) * n;
    float v[kRegisters];
#pragma unroll
    for (int i = 0; i < kRegisters; i++) {
        v[i] = x[i * kWarp + lane];
    }
    const int position = heads.turns ? op.turn.positions[row] : 0;
    const CellRows & cells = heads.cells;
    const int64_t number = cells.data == nullptr ? 0
                           : cells.wide          ? ((const int64_t *) cells.numbers)[row]
                                                 : ((const int32_t *) cells.numbers)[row];
    if (heads.norms) {
        float sum = 0.0f;
#pragma unroll
        for (int i = 0; i < kRegisters; i++) {
            sum += v[i] * v[i];
        }
        const float scale = rsqrtf(pmtp::reduce_lanes<kWarp>(sum, pmtp::Sum()) / n + heads.eps);
#pragma unroll
        for (int i = 0; i < kRegisters; i++) {
            v[i] *= scale;
        }
    }
    if (heads.weight != nullptr) {
#pragma unroll
        for (int i = 0; i < kRegisters; i++) {
            v[i] *= weight[i];
        }
    }
    if (heads.turns) {
#pragma unroll
        for (int i = 0; i < kPairs; i++) {
            const float angle = within_one_turn((float) position * frequency[i]);
            const float sine = __sinf(angle) * op.turn.magnitude;
            const float cosine = __cosf(angle) * op.turn.magnitude;
            const float a = v[i], b = v[i + kPairs];
            v[i] = a * cosine - b * sine;
            v[i + kPairs] = a * sine + b * cosine;
        }
    }
    if (heads.rotation != 0) {
        rotate(v, heads.rotation, sign);
    }
    if (heads.out != nullptr) {
        float * out = heads.out + ((size_t) row * heads.n_heads + head) * n;
#pragma unroll
        for (int i = 0; i < kRegisters; i++) {
            out[i * kWarp + lane] = v[i];
        }
        return;
    }
    char * cell = cells.data + cells.cell_bytes * number;
    if (!is_quantised(cells.type)) {
#pragma unroll
        for (int i = 0; i < kRegisters; i++) {
            const int at = (head * kRegisters + i) * kWarp + lane;
            if (cells.type == CellType::f16) {
                ((half *) cell)[at] = __float2half_rn(v[i]);
            } else {
                ((nv_bfloat16 *) cell)[at] = __float2bfloat16_rn(v[i]);
            }
        }
        return;
    }
    float own[kSlice];
#pragma unroll
    for (int i = 0; i < kRegisters; i++) {
        if (i / kSlice == slice) {
            own[i % kSlice] = v[i];
        }
    }
    if (is_turbo(cells.type)) {
        write_turbo(own, cells, cell, head * n_slices + slice, partial[threadIdx.x / kWarp - team.own], team);
        return;
    }
#pragma unroll
    for (int i = 0; i < kSlice; i++) {
        const size_t block = (size_t) head * kRegisters + slice * kSlice + i;
        if (cells.type == CellType::q8_0) {
            write_q8_0(own[i], (uint8_t *) cell + block * 34);
        } else {
            write_q4_0(own[i], (uint8_t *) cell + block * 18);
        }
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
    }
    load_signs(sign, signs, kSize);
    rotate(v, kSize, sign);
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
    int n_blocks = 0;
    for (int i = 0; i < op.n_kinds; i++) {
        n_blocks += blocks_of(warps_of(op.kinds[i], n, op.n_rows));
    }
    const auto kernel = n == 64    ? finish_heads<64>
                        : n == 128 ? finish_heads<128>
                        : n == 256 ? finish_heads<256>
                                   : finish_heads<512>;
    launch_early(kernel, n_blocks, kWarps * kWarp, stream, 0, op);
}

void pmtp_cuda_rotate_rows(const float * x, const float * signs, int rotation, float * y, PmtpQ8Block * quantised,
                           int n, int n_rows, cudaStream_t stream) {
    const auto kernel = rotation == 64    ? rotate_rows<2>
                        : rotation == 128 ? rotate_rows<4>
                        : rotation == 256 ? rotate_rows<8>
                                          : rotate_rows<16>;
    launch_early(kernel, blocks_of((int64_t) n_rows * (n / rotation)), kWarps * kWarp, stream, 0, x, signs, y,
                 quantised, n, n_rows);
}
