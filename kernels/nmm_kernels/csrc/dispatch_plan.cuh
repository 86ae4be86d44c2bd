// dispatch_plan: expert ids to rows in expert order, stable, in three kernels and without a sort.
//
// The N = T * K choices are cut into S slices, one a warp. (1) Each slice counts its experts. (2) For each expert, a
// warp turns the counts of all slices into how many come before each slice. (3) Each slice walks its choices again: the
// row is the expert's first row, plus what came in slices before, plus what came before in this one.
// Three launches order the steps; no block ever waits for another, so nothing depends on which ones run at a time.
// Shapes: experts [N] int32 (outside 0..E-1: dropped), row_map [N] int32, counts [E] int32, offsets [E + 1] int64,
// before [S][E] int32 scratch.
// Bytes: 12 N (choices twice, rows once; 8 N is the minimum) and 12 S E, S at most 1,024. A radix sort of pairs would
// move each choice through memory 4 times or more.
// Among the 32 choices of a step, __match_any_sync finds equals: the rank is the number of equal lanes below.
#pragma once

#include "elements.cuh"

namespace nmm::cuda {

constexpr int64_t LEAST_SLICE = 256;  // choices worth a warp of their own
constexpr int64_t MOST_SLICES = 1024;
constexpr int64_t MOST_PLANNED_EXPERTS = SHARED_BYTES / int64_t(sizeof(int));

struct Slices {
  int64_t count, length;  // the length is a multiple of 32
};

inline Slices slices_of(int64_t choices) {
  int64_t length = divide_up(divide_up(choices, MOST_SLICES), WARP) * WARP;
  if (length < LEAST_SLICE) length = LEAST_SLICE;
  const int64_t count = divide_up(choices, length);
  return {count > 0 ? count : 1, length};
}

// This lane's choice number `i` of a slice that ends at `end`: its expert, or -1.
__device__ __forceinline__ int expert_of(const int* experts, int64_t i, int64_t end, int num_experts) {
  const int expert = i < end ? experts[i] : -1;
  return expert < num_experts ? expert : -1;
}

// Dynamic shared memory: counts [warps][E].
__global__ void __launch_bounds__(BLOCK, FULL_OCCUPANCY)
    count_slices_kernel(const int* __restrict__ experts, int* __restrict__ before, int64_t choices, int64_t length,
                        int64_t slices, int num_experts) {
  DYNAMIC_SHARED(int, counts_of_block);
  int* const counts = counts_of_block + warp_number() * num_experts;
  const int64_t slice = warp_of_grid();
  if (slice >= slices) return;
  for (int expert = lane_number(); expert < num_experts; expert += WARP) counts[expert] = 0;
  __syncwarp();
  const int64_t end = min(choices, (slice + 1) * length);
  for (int64_t i = slice * length + lane_number(); i < end; i += WARP) {
    const int expert = expert_of(experts, i, end, num_experts);
    if (expert >= 0) atomicAdd(&counts[expert], 1);
  }
  __syncwarp();
  for (int expert = lane_number(); expert < num_experts; expert += WARP)
    before[slice * num_experts + expert] = counts[expert];
}

// The sum over this lane and those below.
template <class Integer>
__device__ __forceinline__ Integer sum_up_to_lane(Integer value) {
#pragma unroll
  for (int distance = 1; distance < WARP; distance *= 2) {
    const Integer other = __shfl_up_sync(ALL_LANES, value, distance);
    if (lane_number() >= distance) value += other;
  }
  return value;
}

__global__ void __launch_bounds__(BLOCK, FULL_OCCUPANCY)
    sum_slices_kernel(int* __restrict__ before, int* __restrict__ counts, int64_t slices, int num_experts) {
  const int64_t expert = warp_of_grid();
  if (expert >= num_experts) return;
  int total = 0;
  for (int64_t first = 0; first < slices; first += WARP) {
    const int64_t slice = first + lane_number();
    const int own = slice < slices ? before[slice * num_experts + expert] : 0;
    const int inclusive = sum_up_to_lane(own);
    if (slice < slices) before[slice * num_experts + expert] = total + inclusive - own;
    total += __shfl_sync(ALL_LANES, inclusive, WARP - 1);
  }
  if (lane_number() == 0) counts[expert] = total;
}

// Where this slice's first choice of each expert goes; the first slice also writes the offsets.
__device__ __forceinline__ void first_rows(const int* counts, const int* before, int64_t* offsets, int* next,
                                           int64_t slice, int num_experts, int64_t align) {
  int64_t total = 0;
  for (int begin = 0; begin < num_experts; begin += WARP) {
    const int expert = begin + lane_number();
    const int64_t rows = expert < num_experts ? (counts[expert] + align - 1) / align * align : 0;
    const int64_t inclusive = sum_up_to_lane(rows);
    const int64_t first = total + inclusive - rows;
    if (expert < num_experts) next[expert] = int(first) + before[slice * num_experts + expert];
    if (expert < num_experts && slice == 0) offsets[expert] = first;
    total += __shfl_sync(ALL_LANES, inclusive, WARP - 1);
  }
  if (slice == 0 && lane_number() == 0) offsets[num_experts] = total;
  __syncwarp();
}

// Dynamic shared memory: next row [warps][E].
__global__ void __launch_bounds__(BLOCK, FULL_OCCUPANCY)
    place_choices_kernel(const int* __restrict__ experts, const int* __restrict__ before,
                         const int* __restrict__ counts, int* __restrict__ row_map, int64_t* __restrict__ offsets,
                         int64_t choices, int64_t length, int64_t slices, int num_experts, int64_t align) {
  DYNAMIC_SHARED(int, next_of_block);
  int* const next = next_of_block + warp_number() * num_experts;
  const int64_t slice = warp_of_grid();
  if (slice >= slices) return;
  first_rows(counts, before, offsets, next, slice, num_experts, align);
  const int64_t end = min(choices, (slice + 1) * length);
  const unsigned below = (1u << lane_number()) - 1;
  for (int64_t first = slice * length; first < end; first += WARP) {
    const int64_t i = first + lane_number();
    const int expert = expert_of(experts, i, end, num_experts);
    const unsigned equals = __match_any_sync(ALL_LANES, expert);
    const int rank = __popc(equals & below);
    const int row = expert >= 0 ? next[expert] + rank : -1;
    if (i < end) row_map[i] = row;
    __syncwarp();
    if (expert >= 0 && rank == 0) next[expert] += __popc(equals);
    __syncwarp();
  }
}

inline void dispatch_plan(const int* experts, int* row_map, int* counts, int64_t* offsets, int* before, int64_t choices,
                          int num_experts, int64_t align, cudaStream_t stream) {
  const Slices slices = slices_of(choices);
  int64_t warps = SHARED_BYTES / (num_experts * int64_t(sizeof(int)));
  if (warps > WARPS) warps = WARPS;
  const unsigned blocks = unsigned(divide_up(slices.count, warps));
  const int threads = int(warps) * WARP;
  const int64_t shared_bytes = warps * num_experts * int64_t(sizeof(int));
  LAUNCH(count_slices_kernel, blocks, threads, shared_bytes, stream, experts, before, choices, slices.length,
         slices.count, num_experts);
  const unsigned expert_blocks = unsigned(divide_up(num_experts, WARPS));
  LAUNCH(sum_slices_kernel, expert_blocks, BLOCK, 0, stream, before, counts, slices.count, num_experts);
  LAUNCH(place_choices_kernel, blocks, threads, shared_bytes, stream, experts, before, counts, row_map, offsets,
         choices, slices.length, slices.count, num_experts, align);
}

}  // namespace nmm::cuda
