// route_backward: gradient of the chosen probabilities back to all logits. A warp takes a token.
//
// With s the scores, S the sum of the chosen ones and g the gradient of the probabilities:
//   normalised: g_k <- (g_k - sum_j g_j s_j / S) / S       softmax: dl_e = s_e (g_e - sum_j g_j s_j), g_e = 0 unchosen
//                                                          sigmoid: dl_e = g_e s_e (1 - s_e)
// Shapes: grad [T, K] wide, logits [T, E], experts [T, K] int32, out [T, E].
// Bytes: E logits read and E gradients written a token, the minimum, and 8 K: scores are worked out again, not stored.
// First every lane writes its experts as if none were chosen; after a __syncwarp the chosen ones are written again.
#pragma once

#include "score.cuh"

namespace nmm::cuda {

template <class T>
struct RouteBackwardArguments {
  const Wide<T>* grad;
  const T* logits;
  const int* experts;
  T* out;
  int64_t tokens;
  int num_experts, top_k;
  bool softmax, normalise;
};

// Gradient of a chosen score = (gradient of its probability - mean) / divisor; dot is their sum weighted by scores.
template <class W>
struct Share {
  W mean, divisor, dot;
};

template <class T>
__device__ __forceinline__ Share<Wide<T>> share_of(const RouteBackwardArguments<T>& a, const Scores<T>& scores,
                                                   const int* experts, const Wide<T>* grad) {
  Wide<T> total = 0, dot = 0;
  for (int choice = lane_number(); choice < a.top_k; choice += WARP) {
    const Wide<T> score = scores.of(experts[choice]);
    total += score;
    dot += grad[choice] * score;
  }
  total = warp_sum(total);
  dot = warp_sum(dot);
  if (!a.normalise) return {Wide<T>(0), Wide<T>(1), dot};
  const bool tiny = total < SMALLEST_SUM;  // the divisor is a constant then, without a gradient of its own
  const Wide<T> divisor = tiny ? Wide<T>(SMALLEST_SUM) : total;
  const Wide<T> mean = tiny ? Wide<T>(0) : dot / divisor;
  return {mean, divisor, (dot - mean * total) / divisor};
}

template <class T>
__global__ void __launch_bounds__(BLOCK, SCORE_OCCUPANCY<T>) route_backward_kernel(RouteBackwardArguments<T> a) {
  const int64_t token = warp_of_grid();
  if (token >= a.tokens) return;
  const int* experts = a.experts + token * a.top_k;
  for (int choice = lane_number(); choice < a.top_k; choice += WARP)
    DEMAND(experts[choice] >= 0 && experts[choice] < a.num_experts, "experts names one without a logit");
  const Wide<T>* grad = a.grad + token * a.top_k;
  T* out = a.out + token * a.num_experts;
  const Scores<T> scores = scores_of(a.logits + token * a.num_experts, a.num_experts, a.softmax);
  const Share<Wide<T>> share = share_of(a, scores, experts, grad);
  for (int expert = lane_number(); expert < a.num_experts; expert += WARP)
    out[expert] = narrow<T>(a.softmax ? -scores.of(expert) * share.dot : Wide<T>(0));
  __syncwarp();
  for (int choice = lane_number(); choice < a.top_k; choice += WARP) {
    const Wide<T> score = scores.of(experts[choice]);
    const Wide<T> slope = (grad[choice] - share.mean) / share.divisor;
    out[experts[choice]] = narrow<T>(a.softmax ? score * (slope - share.dot) : slope * score * (Wide<T>(1) - score));
  }
}

template <class T>
void route_backward(const RouteBackwardArguments<T>& arguments, cudaStream_t stream) {
  if (arguments.tokens == 0) return;
  const unsigned blocks = unsigned(divide_up(arguments.tokens, WARPS));
  LAUNCH(route_backward_kernel<T>, blocks, BLOCK, 0, stream, arguments);
}

}  // namespace nmm::cuda
