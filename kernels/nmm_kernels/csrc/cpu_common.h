// What the CPU operators share: dtypes as table indices, results, loops over torch's threads, checks of row numbers.
#pragma once

#include <sys/mman.h>
#include <unistd.h>

#include <cstring>
#include <vector>

#include "checks.h"
#include "cpu_rows.h"

namespace nmm {

// Bytes a thread should have to move before a second one is worth waking.
constexpr int64_t kBytesPerThread = 64 * 1024;

inline Dtype dtype_of(const Tensor& x) {
  switch (x.scalar_type()) {
    case ScalarType::Float: return kFloat;
    case ScalarType::BFloat16: return kBFloat16;
    case ScalarType::Half: return kHalf;
    default: return kDouble;  // the checks let no other pass
  }
}

inline const char* bytes_of(const Tensor& x) { return static_cast<const char*>(x.const_data_ptr()); }
inline char* mutable_bytes_of(const Tensor& x) { return static_cast<char*>(x.mutable_data_ptr()); }
inline int64_t row_bytes(const Tensor& x) { return x.size(1) * static_cast<int64_t>(x.element_size()); }

// Asks for huge pages under a result so large that the allocator takes it fresh from the system: the first touch of
// each 4 KiB page costs more than the row that is written there. The system may refuse, and then nothing is lost.
inline void use_huge_pages(const Tensor& x) {
  constexpr uintptr_t page = uintptr_t{2} << 20;
  constexpr uintptr_t least = uintptr_t{4} << 20;
  const uintptr_t bytes = static_cast<uintptr_t>(x.numel()) * x.element_size();
  if (bytes < least) return;
  const uintptr_t begin = reinterpret_cast<uintptr_t>(x.const_data_ptr());
  const uintptr_t first = (begin + page - 1) / page * page, last = (begin + bytes) / page * page;
  madvise(reinterpret_cast<void*>(first), last - first, MADV_HUGEPAGE);
}

inline Tensor new_matrix(const Tensor& like, int64_t rows, int64_t width, std::optional<ScalarType> dtype = {}) {
  Tensor made = torch::stable::new_empty(like, {rows, width}, dtype);
  use_huge_pages(made);
  return made;
}

// Runs body(begin, end) over 0..count-1 on torch's threads; `bytes` is what one item moves.
template <class Body>
void parallel(int64_t count, int64_t bytes, const Body& body) {
  const int64_t grain = kBytesPerThread / (bytes > 0 ? bytes : 1);
  torch::stable::parallel_for(0, count, grain > 0 ? grain : 1, body);
}

// Whether a result of `bytes` is written past the caches. What fits stays in them for the product that reads it next;
// what does not would only have its old content fetched to be overwritten.
inline bool streams(int64_t bytes) {
  static const int64_t cache = [] {
    const long size = sysconf(_SC_LEVEL3_CACHE_SIZE);
    return size > 0 ? int64_t{size} : int64_t{32} << 20;
  }();
  return bytes > cache;
}

// Refuses a row number that lies outside the matrix: an operator never writes where it should not.
inline void check_reach(const int32_t* row_map, int64_t choices, int64_t rows) {
  int32_t largest = -1;
  for (int64_t i = 0; i < choices; ++i) largest = row_map[i] > largest ? row_map[i] : largest;
  STD_TORCH_CHECK(
      largest < rows, "row_map holds row ", largest, ", but there are ", rows,
      " rows; make room for planned_rows(choices, experts, align)");
}

// One byte for each of `rows`: 1 where row_map names it.
inline std::vector<uint8_t> taken_rows(const Tensor& row_map, int64_t rows) {
  const auto* map = static_cast<const int32_t*>(row_map.const_data_ptr());
  const int64_t choices = row_map.numel();
  check_reach(map, choices, rows);
  std::vector<uint8_t> taken(rows, 0);
  for (int64_t i = 0; i < choices; ++i)
    if (map[i] >= 0) taken[map[i]] = 1;
  return taken;
}

// Matrices without width have no address, which memset may not be given.
inline void clear(void* to, int64_t bytes) {
  if (bytes > 0) std::memset(to, 0, bytes);
}

// Zeroes the rows of `to` that nobody took.
inline void zero_untaken(const std::vector<uint8_t>& taken, char* to, int64_t bytes) {
  if (taken.empty() || std::memchr(taken.data(), 0, taken.size()) == nullptr) return;
  parallel(static_cast<int64_t>(taken.size()), bytes, [&](int64_t begin, int64_t end) {
    for (int64_t row = begin; row < end; ++row)
      if (!taken[row]) clear(to + row * bytes, bytes);
  });
}

}  // namespace nmm
