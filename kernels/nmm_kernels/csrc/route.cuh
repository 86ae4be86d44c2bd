// route: scores, the K best experts and per-expert counts in one pass over the logits. A warp takes a token.
//
// Shapes: logits [T, E], bias [E] fp32 or none, probabilities [T, K] wide, experts [T, K] int32, counts [E] int32 (zero
// before).
// Bytes: E logits read (the second and third reading of a token's logits hit the first-level cache) and 8 K written a
// token, the minimum; scores and sorted copies never exist in memory.
// Experts are ranked by keys: the value's bits made to sort as an unsigned integer, NaN above all as torch sorts it,
// and 0 once taken. A lane owns experts lane, lane + 32, ...; it alone reads and writes their keys, so the K searches
// need no barrier. K passes over E / 32 keys beat a sort for the K of 1 to 8 that models use.
// Counts are collected in shared memory and added once a block: integers, so the order of blocks does not matter.
// Without a bias the logits themselves are ranked, as in every implementation: no rounding of exp can swap two experts.
#pragma once

#include <climits>

#include "score.cuh"

namespace nmm::cuda {

constexpr int ROUTE_BLOCKS = 1024;  // the most; each warp takes tokens in turn

__device__ __forceinline__ uint32_t key_of(float value) {
  if (value != value) return UINT32_MAX;
  const uint32_t bits = __float_as_uint(value + 0.0f);  // -0 and 0 are equal
  return bits & 0x80000000u ? ~bits : bits | 0x80000000u;
}
__device__ __forceinline__ uint64_t key_of(double value) {
  if (value != value) return UINT64_MAX;
  const uint64_t bits = uint64_t(__double_as_longlong(value + 0.0));
  return bits >> 63 ? ~bits : bits | uint64_t(1) << 63;
}
template <class T>
using Key = decltype(key_of(Wide<T>()));

template <class T>
struct RouteArguments {
  const T* logits;
  const float* bias;
  Wide<T>* probabilities;
  int* experts;
  int* counts;
  int64_t tokens;
  int num_experts, top_k;
  bool softmax, normalise;
};

// The expert with the largest key, the lowest number among equals; every lane gets the same answer.
template <class Key>
__device__ __forceinline__ int best_expert(const Key* keys, int experts) {
  Key best = 0;
  int chosen = INT_MAX;
  for (int expert = lane_number(); expert < experts; expert += WARP) {
    const Key key = keys[expert];
    if (key > best) {
      best = key;
      chosen = expert;
    }
  }
#pragma unroll
  for (int bits = WARP / 2; bits > 0; bits /= 2) {
    const Key key = __shfl_xor_sync(ALL_LANES, best, bits);
    const int expert = __shfl_xor_sync(ALL_LANES, chosen, bits);
    if (key > best || (key == best && expert < chosen)) {
      best = key;
      chosen = expert;
    }
  }
  return chosen;
}

template <class T>
__device__ __forceinline__ void route_token(const RouteArguments<T>& a, int64_t token, Key<T>* keys, int* counts) {
  const Scores<T> scores = scores_of(a.logits + token * a.num_experts, a.num_experts, a.softmax);
  for (int expert = lane_number(); expert < a.num_experts; expert += WARP)
    keys[expert] = key_of(a.bias != nullptr ? scores.of(expert) + a.bias[expert] : widen(scores.logits[expert]));
  Wide<T> total = 0;
  for (int choice = 0; choice < a.top_k; ++choice) {
    const int expert = best_expert(keys, a.num_experts);
    const Wide<T> score = scores.of(expert);
    total += score;
    if (lane_number() == expert % WARP) keys[expert] = 0;
    if (lane_number() != choice % WARP) continue;
    a.experts[token * a.top_k + choice] = expert;
    a.probabilities[token * a.top_k + choice] = score;
    atomicAdd(&counts[expert], 1);
  }
  if (!a.normalise) return;
  const Wide<T> divisor = total < SMALLEST_SUM ? Wide<T>(SMALLEST_SUM) : total;
  for (int choice = lane_number(); choice < a.top_k; choice += WARP)
    a.probabilities[token * a.top_k + choice] /= divisor;
}

// Dynamic shared memory: keys [warps][E], then counts [E].
template <class T>
__global__ void __launch_bounds__(BLOCK, SCORE_OCCUPANCY<T>) route_kernel(RouteArguments<T> arguments) {
  DYNAMIC_SHARED(Key<T>, keys);
  const int experts = arguments.num_experts, warps = blockDim.x / WARP;
  int* const counts = reinterpret_cast<int*>(keys + warps * experts);
  for (int expert = threadIdx.x; expert < experts; expert += blockDim.x) counts[expert] = 0;
  __syncthreads();
  for (int64_t token = warp_of_grid(); token < arguments.tokens; token += int64_t(gridDim.x) * warps)
    route_token(arguments, token, keys + warp_number() * experts, counts);
  __syncthreads();
  for (int expert = threadIdx.x; expert < experts; expert += blockDim.x)
    if (counts[expert] != 0) atomicAdd(&arguments.counts[expert], counts[expert]);
}

// Experts that one warp's keys and the counts leave room for.
template <class T>
constexpr int64_t MOST_ROUTED_EXPERTS = SHARED_BYTES / int64_t(sizeof(Key<T>) + sizeof(int));

template <class T>
void route(const RouteArguments<T>& arguments, cudaStream_t stream) {
  if (arguments.tokens == 0) return;
  const int64_t key_bytes = arguments.num_experts * int64_t(sizeof(Key<T>));
  const int64_t count_bytes = arguments.num_experts * int64_t(sizeof(int));
  int64_t warps = (SHARED_BYTES - count_bytes) / key_bytes;
  if (warps > WARPS) warps = WARPS;
  const int64_t wanted = divide_up(arguments.tokens, warps);
  const unsigned blocks = unsigned(wanted < ROUTE_BLOCKS ? wanted : ROUTE_BLOCKS);
  LAUNCH(route_kernel<T>, blocks, int(warps) * WARP, warps * key_bytes + count_bytes, stream, arguments);
}

}  // namespace nmm::cuda
