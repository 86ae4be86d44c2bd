// Token rows to expert order on CPU: each row is read once and written to its K places while it is in the cache.
//
// Shapes: x [T, H], row_map [T, K], out [R, H]. Traffic: (T + rows in use) * H values, plus a write of zeros for the
// rows nobody maps to, which are found through one byte a row instead of a first pass of zeros over everything.
#include <vector>

#include "cpu_ops.h"

namespace nmm {
Tensor permute(Tensor x, Tensor row_map, int64_t rows) {
  check_matrix("x", x);
  check_row_map(row_map, x.size(0));
  check_rows(rows);
  x = torch::stable::contiguous(x);
  row_map = torch::stable::contiguous(row_map);
  const std::vector<uint8_t> taken = taken_rows(row_map, rows);
  Tensor out = new_matrix(x, rows, x.size(1));

  const RowTable& table = nmm::rows();
  const int64_t top_k = row_map.size(1), bytes = row_bytes(x);
  const bool stream = streams(rows * bytes);
  const char* from = bytes_of(x);
  char* to = mutable_bytes_of(out);
  const auto* map = static_cast<const int32_t*>(row_map.const_data_ptr());
  parallel(x.size(0), bytes * (1 + top_k), [&](int64_t begin, int64_t end) {
    for (int64_t t = begin; t < end; ++t)
      for (int64_t i = t * top_k; i < (t + 1) * top_k; ++i)
        if (map[i] >= 0) table.copy(to + map[i] * bytes, from + t * bytes, bytes, stream);
    table.fence();
  });
  zero_untaken(taken, to, bytes);
  return out;
}

std::tuple<Tensor, Tensor> permute_to_fp8(Tensor x, Tensor row_map, int64_t rows) {
  check_matrix("x", x);
  check_narrow(x);
  check_row_map(row_map, x.size(0));
  check_rows(rows);
  x = torch::stable::contiguous(x);
  row_map = torch::stable::contiguous(row_map);
  const std::vector<uint8_t> taken = taken_rows(row_map, rows);
  const int64_t width = x.size(1), groups = (width + kFp8Group - 1) / kFp8Group, top_k = row_map.size(1);
  Tensor values = new_matrix(x, rows, width, ScalarType::Float8_e4m3fn);
  Tensor scales = new_matrix(x, rows, groups, ScalarType::Float);

  const RowTable& table = nmm::rows();
  const auto quantise = table.quantise[dtype_of(x)];
  const char* from = bytes_of(x);
  const int64_t bytes = row_bytes(x);
  const auto* map = static_cast<const int32_t*>(row_map.const_data_ptr());
  auto* to = reinterpret_cast<uint8_t*>(mutable_bytes_of(values));
  auto* scale = static_cast<float*>(scales.mutable_data_ptr());
  parallel(x.size(0), bytes + width * top_k, [&](int64_t begin, int64_t end) {
    for (int64_t t = begin; t < end; ++t) {
      int64_t first = -1;  // the choice that was quantised; the others copy its bytes
      for (int64_t k = 0; k < top_k; ++k) {
        const int64_t row = map[t * top_k + k];
        if (row < 0) continue;
        if (first < 0) {
          first = row;
          quantise(from + t * bytes, to + row * width, scale + row * groups, width);
        } else {
          table.copy(to + row * width, to + first * width, width, false);
          table.copy(scale + row * groups, scale + first * groups, groups * int64_t{sizeof(float)}, false);
        }
      }
    }
  });
  parallel(rows, width, [&](int64_t begin, int64_t end) {
    for (int64_t row = begin; row < end; ++row) {
      if (taken[row]) continue;
      clear(to + row * width, width);
      for (int64_t group = 0; group < groups; ++group) scale[row * groups + group] = 1.0f;
    }
  });
  return {values, scales};
}

}  // namespace nmm
