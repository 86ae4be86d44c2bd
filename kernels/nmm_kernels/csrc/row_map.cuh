// How kernels read a row map: lanes fetch up to 32 choices of a token in one access and pass them round by shuffles.
//
// Shapes: T tokens, K choices, R rows. row_map [T, K] int32, -1 for a dropped choice.
#pragma once

#include "target.cuh"

namespace nmm::cuda {

// Ends the kernel when a choice of this token points behind the last of `rows`. Kernels ask first of all, while they
// hold nothing yet: the call that an assertion is would cost registers wherever values have to outlive it.
__device__ __forceinline__ void check_rows_of(const int* row_map, unsigned token, int top_k, int rows) {
  for (int choice = lane_number(); choice < top_k; choice += WARP)
    DEMAND(row_map[int64_t(token) * top_k + choice] < rows, "row_map names a row beyond the last of the matrix");
}

// This lane's choice of the 32 that begin at `begin`: its row, or -1 where there is none.
__device__ __forceinline__ int row_of_lane(const int* row_map, unsigned token, int top_k, int begin) {
  const int choice = begin + lane_number();
  return choice < top_k ? row_map[int64_t(token) * top_k + choice] : -1;
}

}  // namespace nmm::cuda
