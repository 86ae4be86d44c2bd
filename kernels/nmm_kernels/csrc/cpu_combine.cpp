// Expert rows back to tokens on CPU: a token's K rows are summed block by block, so nothing is read or written twice.
//
// Shapes: y [R, H], row_map [T, K], probabilities [T, K], out [T, H]. Traffic: (rows in use + T) * H values; backward
// (2 * rows in use + T) * H, for it reads y for the probabilities and writes its gradient in the same pass.
#include <cstring>
#include <vector>

#include "cpu_ops.h"

namespace nmm {
namespace {

// The rows of one token's kept choices, side by side with their weights.
struct Choices {
  std::vector<const void*> rows;
  std::vector<void*> out_rows;
  std::vector<double> weights;  // float or double, as wide(dtype) says: room for either
  std::vector<double> dots;
  std::vector<int64_t> places;  // which of the K choices each is
  int64_t n = 0;

  explicit Choices(int64_t top_k) : rows(top_k), out_rows(top_k), weights(top_k), dots(top_k), places(top_k) {}
};

Tensor weighted_sum(Tensor y, Tensor row_map, std::optional<Tensor> probabilities) {
  y = torch::stable::contiguous(y);
  row_map = torch::stable::contiguous(row_map);
  const auto* map = static_cast<const int32_t*>(row_map.const_data_ptr());
  check_reach(map, row_map.numel(), y.size(0));
  const int64_t tokens = row_map.size(0), top_k = row_map.size(1), width = y.size(1), bytes = row_bytes(y);
  Tensor out = new_matrix(y, tokens, width);

  const auto sum = rows().sum[dtype_of(y)];
  const bool stream = streams(tokens * bytes);
  const char* from = bytes_of(y);
  char* to = mutable_bytes_of(out);
  const char* weight = nullptr;
  int64_t weight_bytes = 0;
  if (probabilities.has_value()) {
    probabilities = torch::stable::contiguous(*probabilities);
    weight = bytes_of(*probabilities);
    weight_bytes = static_cast<int64_t>(probabilities->element_size());
  }
  parallel(tokens, bytes * (1 + top_k), [&](int64_t begin, int64_t end) {
    Choices kept(top_k);
    auto* weights = reinterpret_cast<char*>(kept.weights.data());
    for (int64_t t = begin; t < end; ++t) {
      kept.n = 0;
      for (int64_t i = t * top_k; i < (t + 1) * top_k; ++i) {
        if (map[i] < 0) continue;
        kept.rows[kept.n] = from + map[i] * bytes;
        if (weight) std::memcpy(weights + kept.n * weight_bytes, weight + i * weight_bytes, weight_bytes);
        ++kept.n;
      }
      sum(to + t * bytes, kept.rows.data(), weight ? weights : nullptr, kept.n, width, stream);
    }
    rows().fence();
  });
  return out;
}

}  // namespace

Tensor combine(Tensor y, Tensor row_map, std::optional<Tensor> probabilities) {
  check_matrix("y", y);
  check_float("y", y);
  check_row_map(row_map);
  if (probabilities.has_value()) check_probabilities(*probabilities, row_map, y);
  return weighted_sum(y, row_map, probabilities);
}

Tensor permute_backward(Tensor grad, Tensor row_map) {
  check_matrix("grad", grad);
  check_float("grad", grad);
  check_row_map(row_map);
  return weighted_sum(grad, row_map, std::nullopt);
}

std::tuple<Tensor, Tensor> combine_backward(Tensor grad, Tensor y, Tensor row_map, Tensor probabilities) {
  check_combine_backward(grad, y, row_map, probabilities);
  grad = torch::stable::contiguous(grad);
  y = torch::stable::contiguous(y);
  row_map = torch::stable::contiguous(row_map);
  probabilities = torch::stable::contiguous(probabilities);
  const std::vector<uint8_t> taken = taken_rows(row_map, y.size(0));
  const int64_t tokens = row_map.size(0), top_k = row_map.size(1), width = y.size(1), bytes = row_bytes(y);
  const int64_t weight_bytes = static_cast<int64_t>(probabilities.element_size());
  Tensor grad_y = new_matrix(y, y.size(0), width);
  Tensor grad_probabilities = new_matrix(probabilities, tokens, top_k);

  const auto spread = rows().spread[dtype_of(y)];
  const bool stream = streams(y.size(0) * bytes);
  const auto* map = static_cast<const int32_t*>(row_map.const_data_ptr());
  const char *gradient = bytes_of(grad), *from = bytes_of(y), *weight = bytes_of(probabilities);
  char *to = mutable_bytes_of(grad_y), *slopes = mutable_bytes_of(grad_probabilities);
  parallel(tokens, bytes * (1 + 2 * top_k), [&](int64_t begin, int64_t end) {
    Choices kept(top_k);
    auto* weights = reinterpret_cast<char*>(kept.weights.data());
    auto* dots = reinterpret_cast<char*>(kept.dots.data());
    for (int64_t t = begin; t < end; ++t) {
      kept.n = 0;
      for (int64_t i = t * top_k; i < (t + 1) * top_k; ++i) {
        if (map[i] < 0) continue;
        kept.rows[kept.n] = from + map[i] * bytes;
        kept.out_rows[kept.n] = to + map[i] * bytes;
        std::memcpy(weights + kept.n * weight_bytes, weight + i * weight_bytes, weight_bytes);
        kept.places[kept.n++] = i;
      }
      spread(gradient + t * bytes, kept.rows.data(), kept.out_rows.data(), weights, dots, kept.n, width, stream);
      std::memset(slopes + t * top_k * weight_bytes, 0, top_k * weight_bytes);
      for (int64_t j = 0; j < kept.n; ++j)
        std::memcpy(slopes + kept.places[j] * weight_bytes, dots + j * weight_bytes, weight_bytes);
    }
    rows().fence();
  });
  zero_untaken(taken, to, bytes);
  return {grad_y, grad_probabilities};
}

}  // namespace nmm
