// permute: copy token rows to expert order. A warp reads one tile of a token once and writes it to its K places.
//
// Shapes: x [T, H], row_map [T, K] int32, out [R, H] of any dtype; mapped [R] bytes, zero before.
// Bytes: (1 + K) rows a token, the minimum, and 4 K a tile for the row map (0.4 % of what a full tile moves).
// Against a copy driven by output rows, which needs the inverse map and reads x K times: 2 K rows. K is not a template
// parameter: rows come by shuffle, so 8 of 256 experts and 3 of 5 run the same code. Zeroing is clear_rows.cuh's.
#pragma once

#include "clear_rows.cuh"
#include "row_map.cuh"
#include "tile.cuh"

namespace nmm::cuda {

template <class Word>
__global__ void __launch_bounds__(BLOCK, FULL_OCCUPANCY)
    permute_kernel(const Word* __restrict__ x, const int* __restrict__ row_map, Word* __restrict__ out,
                   uint8_t* __restrict__ mapped, unsigned tokens, int rows, int top_k, int words) {
  const unsigned token = warp_of_grid();
  if (token >= tokens) return;
  check_rows_of(row_map, token, top_k, rows);
  const int first = first_word_of_tile();
  Tile<Word> tile;
  tile.load(x + int64_t(token) * words, first, words);
  int mine = -1;
#pragma unroll 1
  for (int choice = 0; choice < top_k; ++choice) {
    if (choice % WARP == 0) {
      mine = row_of_lane(row_map, token, top_k, choice);
      if (blockIdx.y == 0 && mine >= 0) mapped[mine] = 1;
    }
    const int row = __shfl_sync(ALL_LANES, mine, choice % WARP);
    if (row >= 0) tile.store(out + int64_t(row) * words, first, words);
  }
}

inline void permute(const void* x, const int* row_map, void* out, uint8_t* mapped, unsigned tokens, int rows,
                    int top_k, int64_t row_bytes, cudaStream_t stream) {
  if (row_bytes == 0) return;
  const int bytes = widest_word(row_bytes, x, out);
  const int words = int(row_bytes / bytes);
  if (tokens != 0 && top_k != 0) {
    with_word(bytes, [&](auto word) {
      using Word = decltype(word);
      const Word* const source = static_cast<const Word*>(x);
      Word* const target = static_cast<Word*>(out);
      LAUNCH(permute_kernel<Word>, tile_grid(tokens, words), BLOCK, 0, stream, source, row_map, target, mapped, tokens,
             rows, top_k, words);
    });
  }
  clear_rows(mapped, out, row_bytes, nullptr, 0, rows, stream);
}

}  // namespace nmm::cuda
