// A tile is what one warp carries of one row: two words a lane, both loaded before the first is stored.
//
// Rows are cut into tiles (1 KiB of 16-byte words) so that few tokens still fill the GPU. 2,048 threads with two loads
// in flight each keep 64 KiB on their way to a multiprocessor; at 1 us of latency an H100 (3.35 TB/s) needs 25 KiB and
// a B200 (8 TB/s) 54 KiB. Four words a lane were tried: they spill at 32 registers on sm_100.
// Neighbouring lanes hold neighbouring words: every access of a warp is one run of 512 bytes.
#pragma once

#include "elements.cuh"

namespace nmm::cuda {

constexpr int LANE_WORDS = 2;
constexpr int TILE_WORDS = LANE_WORDS * WARP;

template <class Word>
struct Tile {
  Word word[LANE_WORDS];

  // `first` is this lane's first word of the row.
  __device__ __forceinline__ void load(const Word* row, int first, int words) {
#pragma unroll
    for (int i = 0; i < LANE_WORDS; ++i)
      if (first + i * WARP < words) word[i] = row[first + i * WARP];
  }
  __device__ __forceinline__ void store(Word* row, int first, int words) const {
#pragma unroll
    for (int i = 0; i < LANE_WORDS; ++i)
      if (first + i * WARP < words) row[first + i * WARP] = word[i];
  }
};

__device__ __forceinline__ int first_word_of_tile() { return blockIdx.y * TILE_WORDS + lane_number(); }

// Blocks whose warps take one row (x) and one tile (y) each.
inline dim3 tile_grid(int64_t rows, int64_t words) {
  return dim3(unsigned(divide_up(rows, WARPS)), unsigned(divide_up(words, TILE_WORDS)));
}
// Words of the longest row: the grid's second direction ends there.
constexpr int64_t MOST_WORDS = int64_t(65535) * TILE_WORDS;

}  // namespace nmm::cuda
