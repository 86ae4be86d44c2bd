// modality_gather and modality_scatter with their gradients: rows go by a permutation, so everything is a copy.
//
// Two kernels do all four. gather_rows reads row index[i] of [a; b] seen as one array; spread_rows writes to it. The
// concatenation never exists. modality_gather is a gather with b empty, modality_scatter one with both, and their
// gradients are the spreads.
// Shapes: a [A, H], b [B, H] of any dtype, index [N] int64 into A + B rows, rows [N, H]; mapped [A + B] bytes.
// Bytes: 2 rows an index, the minimum (a concatenation first would double them), and 8 for the index.
#pragma once

#include "clear_rows.cuh"
#include "tile.cuh"

namespace nmm::cuda {

template <class Word>
__global__ void __launch_bounds__(BLOCK, FULL_OCCUPANCY)
    gather_rows_kernel(const Word* __restrict__ a, const Word* __restrict__ b, const int64_t* __restrict__ index,
                       Word* __restrict__ out, int64_t rows_a, int64_t rows_b, unsigned count, int words) {
  const unsigned target = warp_of_grid();
  if (target >= count) return;
  const int64_t from = index[target];
  DEMAND(from >= 0 && from < rows_a + rows_b, "a routing index names a row that is not there");
  const Word* row = from < rows_a ? a + from * words : b + (from - rows_a) * words;
  const int first = first_word_of_tile();
  Tile<Word> tile;
  tile.load(row, first, words);
  tile.store(out + int64_t(target) * words, first, words);
}

template <class Word>
__global__ void __launch_bounds__(BLOCK, FULL_OCCUPANCY)
    spread_rows_kernel(const Word* __restrict__ in, const int64_t* __restrict__ index, Word* __restrict__ a,
                       Word* __restrict__ b, uint8_t* __restrict__ mapped, int64_t rows_a, int64_t rows_b,
                       unsigned count, int words) {
  const unsigned source = warp_of_grid();
  if (source >= count) return;
  const int64_t to = index[source];
  DEMAND(to >= 0 && to < rows_a + rows_b, "a routing index names a row that is not there");
  Word* row = to < rows_a ? a + to * words : b + (to - rows_a) * words;
  const int first = first_word_of_tile();
  if (first == 0) mapped[to] = 1;
  Tile<Word> tile;
  tile.load(in + int64_t(source) * words, first, words);
  tile.store(row, first, words);
}

inline void gather_rows(const void* a, const void* b, const int64_t* index, void* out, int64_t rows_a, int64_t rows_b,
                        unsigned count, int64_t row_bytes, cudaStream_t stream) {
  if (count == 0 || row_bytes == 0) return;
  const int bytes = widest_word(row_bytes, a, b, out);
  with_word(bytes, [&](auto word) {
    using Word = decltype(word);
    const Word* const from_a = static_cast<const Word*>(a);
    const Word* const from_b = static_cast<const Word*>(b);
    Word* const target = static_cast<Word*>(out);
    const int words = int(row_bytes / bytes);
    LAUNCH(gather_rows_kernel<Word>, tile_grid(count, words), BLOCK, 0, stream, from_a, from_b, index, target, rows_a,
           rows_b, count, words);
  });
}

inline void spread_rows(const void* in, const int64_t* index, void* a, void* b, uint8_t* mapped, int64_t rows_a,
                        int64_t rows_b, unsigned count, int64_t row_bytes, cudaStream_t stream) {
  if (row_bytes == 0) return;
  const int bytes = widest_word(row_bytes, in, a, b);
  const int words = int(row_bytes / bytes);
  if (count != 0) {
    with_word(bytes, [&](auto word) {
      using Word = decltype(word);
      const Word* const source = static_cast<const Word*>(in);
      Word* const to_a = static_cast<Word*>(a);
      Word* const to_b = static_cast<Word*>(b);
      LAUNCH(spread_rows_kernel<Word>, tile_grid(count, words), BLOCK, 0, stream, source, index, to_a, to_b, mapped,
             rows_a, rows_b, count, words);
    });
  }
  clear_rows(mapped, a, row_bytes, nullptr, 0, rows_a, stream);
  clear_rows(mapped + rows_a, b, row_bytes, nullptr, 0, rows_b, stream);
}

}  // namespace nmm::cuda
