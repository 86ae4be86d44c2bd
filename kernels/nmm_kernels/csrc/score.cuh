// The router's scores of one token, worked out by one warp: softmax over all experts, or sigmoid of each.
//
// Shapes: logits [E] of any float type; scores are wide. Only what every expert shares (the largest logit and the sum
// of exponentials) is kept, so a score costs one exponential whenever it is needed and no memory.
#pragma once

#include "elements.cuh"

namespace nmm::cuda {

constexpr float SMALLEST_SUM = 1e-20f;  // chosen scores that sum to less are divided by this: 0, not NaN

// Exponentials and divisions need up to 40 registers, and 80 in fp64. Routers wait for K searches one after another,
// not for memory, and their rows are short: 75 % occupancy should cost nothing; fp64 is there to check gradients.
template <class T>
constexpr int SCORE_OCCUPANCY = sizeof(Wide<T>) == 8 ? 3 : 6;

template <class T>
struct Scores {
  const T* logits;
  Wide<T> largest, sum;
  bool softmax;

  __device__ __forceinline__ Wide<T> of(int expert) const {
    const Wide<T> logit = widen(logits[expert]);
    return softmax ? exp(logit - largest) / sum : Wide<T>(1) / (Wide<T>(1) + exp(-logit));
  }
};

// All lanes of the warp call it together.
template <class T>
__device__ __forceinline__ Scores<T> scores_of(const T* logits, int experts, bool softmax) {
  Scores<T> scores{logits, Wide<T>(0), Wide<T>(0), softmax};
  if (!softmax) return scores;
  Wide<T> largest = -INFINITY;
  for (int expert = lane_number(); expert < experts; expert += WARP) {
    const Wide<T> logit = widen(logits[expert]);
    largest = logit > largest ? logit : largest;
  }
#pragma unroll
  for (int bits = WARP / 2; bits > 0; bits /= 2) {
    const Wide<T> other = __shfl_xor_sync(ALL_LANES, largest, bits);
    largest = other > largest ? other : largest;
  }
  Wide<T> sum = 0;
  for (int expert = lane_number(); expert < experts; expert += WARP) sum += exp(widen(logits[expert]) - largest);
  scores.largest = largest;
  scores.sum = warp_sum(sum);
  return scores;
}

}  // namespace nmm::cuda
