// Zero the rows that nobody mapped to: padding at the ends of expert segments, and what dropped choices leave over.
//
// Kernels that fill rows mark each of them by one byte; this one reads the marks and writes the other rows alone, so a
// full plan costs one byte a row where clearing everything first would cost a whole row each.
// Shapes: R rows of `words` words, mapped [R] bytes, scales [R, G] or none.
// Bytes: R + (unmapped rows) * row; the minimum without the marks' R. One block takes 32 rows: its warps read the same
// 32 marks and share the empty rows among themselves, so that the padding of one expert is not one warp's work.
#pragma once

#include "elements.cuh"

namespace nmm::cuda {

template <class Word>
__global__ void __launch_bounds__(BLOCK, FULL_OCCUPANCY)
    clear_rows_kernel(const uint8_t* __restrict__ mapped, Word* __restrict__ out, float* __restrict__ scales,
                      int64_t rows, int words, int groups) {
  const int64_t first = int64_t(blockIdx.x) * WARP;
  const int64_t own = first + lane_number();
  unsigned empty = __ballot_sync(ALL_LANES, own < rows && mapped[own] == 0);
  for (int turn = 0; empty != 0; ++turn) {
    const int64_t row = first + __ffs(empty) - 1;
    empty &= empty - 1;
    if (turn % WARPS != warp_number()) continue;
    for (int i = lane_number(); i < words; i += WARP) out[row * words + i] = Word{};
    for (int i = lane_number(); i < groups; i += WARP) scales[row * groups + i] = 1.0f;
  }
}

// `groups` scales a row are set to 1; give nullptr and 0 where rows have none.
inline void clear_rows(const uint8_t* mapped, void* out, int64_t row_bytes, float* scales, int groups, int64_t rows,
                       cudaStream_t stream) {
  if (rows == 0) return;
  const int bytes = widest_word(row_bytes, out);
  with_word(bytes, [&](auto word) {
    using Word = decltype(word);
    const unsigned blocks = unsigned(divide_up(rows, WARP));
    Word* const target = static_cast<Word*>(out);
    const int words = int(row_bytes / bytes);
    LAUNCH(clear_rows_kernel<Word>, blocks, BLOCK, 0, stream, mapped, target, scales, rows, words, groups);
  });
}

}  // namespace nmm::cuda
