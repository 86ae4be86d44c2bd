// What the operators demand of their arguments, shared by the CPU and the CUDA library; checks.py asks the same in
// Python, in the same words. A failed check raises RuntimeError.
#pragma once

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/core/ScalarType.h>
#include <torch/headeronly/util/Exception.h>

#include <cstdint>
#include <optional>
#include <string>

namespace nmm {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;

constexpr int64_t kMostRows = (int64_t{1} << 31) - 1;  // row numbers are int32
constexpr int64_t kFp8Group = 128;                     // values that share a scale
constexpr float kFp8Largest = 448.0f;                  // the largest e4m3 value
constexpr float kFp8SmallestScale = 0x1p-126f;         // a smaller one's reciprocal could overflow
constexpr float kSmallestSum = 1e-20f;                 // normalised scores that sum to less are divided by this

inline std::string name_of(ScalarType dtype) {
  switch (dtype) {
    case ScalarType::Float: return "torch.float32";
    case ScalarType::Double: return "torch.float64";
    case ScalarType::BFloat16: return "torch.bfloat16";
    case ScalarType::Half: return "torch.float16";
    case ScalarType::Int: return "torch.int32";
    case ScalarType::Long: return "torch.int64";
    default: return std::string("torch.") + torch::headeronly::toString(dtype);
  }
}

// The dtype sums are kept in: fp32, or fp64 for fp64 itself.
inline ScalarType wide(ScalarType dtype) { return dtype == ScalarType::Double ? dtype : ScalarType::Float; }

inline void check_matrix(const char* name, const Tensor& x) {
  STD_TORCH_CHECK(x.dim() == 2, name, " has ", x.dim(), " dimensions; give it two, [rows, width]");
}

inline void check_float(const char* name, const Tensor& x) {
  const ScalarType dtype = x.scalar_type();
  STD_TORCH_CHECK(
      dtype == ScalarType::Float || dtype == ScalarType::BFloat16 || dtype == ScalarType::Half ||
          dtype == ScalarType::Double,
      name, " is ", name_of(dtype), "; convert it to float32, bfloat16, float16 or float64");
}

inline void check_dtype(const char* name, const Tensor& x, ScalarType dtype) {
  STD_TORCH_CHECK(x.scalar_type() == dtype, name, " is ", name_of(x.scalar_type()), "; convert it to ", name_of(dtype));
}

inline void check_row_map(const Tensor& row_map) {
  check_matrix("row_map", row_map);
  check_dtype("row_map", row_map, ScalarType::Int);
}

inline void check_row_map(const Tensor& row_map, int64_t tokens) {
  check_row_map(row_map);
  STD_TORCH_CHECK(
      row_map.size(0) == tokens, "row_map has ", row_map.size(0), " rows for ", tokens,
      " tokens; make it by dispatch_plan from the same tokens");
}

inline void check_probabilities(const Tensor& probabilities, const Tensor& row_map, const Tensor& y) {
  check_matrix("probabilities", probabilities);
  STD_TORCH_CHECK(
      probabilities.size(0) == row_map.size(0) && probabilities.size(1) == row_map.size(1), "probabilities [",
      probabilities.size(0), ", ", probabilities.size(1), "] and row_map [", row_map.size(0), ", ", row_map.size(1),
      "] differ; give both [tokens, top_k]");
  check_dtype("probabilities", probabilities, wide(y.scalar_type()));
}

inline void check_index(const char* name, const Tensor& index) {
  STD_TORCH_CHECK(index.dim() == 1, name, " has ", index.dim(), " dimensions; give it one");
  check_dtype(name, index, ScalarType::Long);
}

inline void check_rows(int64_t rows) {
  STD_TORCH_CHECK(
      rows >= 0 && rows <= kMostRows, "rows is ", rows, "; row numbers are int32, so give 0 to ", kMostRows);
}

inline void check_combine_backward(
    const Tensor& grad, const Tensor& y, const Tensor& row_map, const Tensor& probabilities) {
  check_matrix("grad", grad);
  check_matrix("y", y);
  check_float("y", y);
  check_dtype("grad", grad, y.scalar_type());
  STD_TORCH_CHECK(
      grad.size(1) == y.size(1), "grad is ", grad.size(1), " wide and y ", y.size(1), "; give both the same width");
  check_row_map(row_map, grad.size(0));
  check_probabilities(probabilities, row_map, y);
}

inline void check_narrow(const Tensor& x) {
  const ScalarType dtype = x.scalar_type();
  STD_TORCH_CHECK(
      dtype == ScalarType::Float || dtype == ScalarType::BFloat16 || dtype == ScalarType::Half, "x is ",
      name_of(dtype), "; convert it to float32, bfloat16 or float16");
}

inline void check_gather_backward(const Tensor& grad, const Tensor& index, const char* name) {
  check_matrix("grad", grad);
  check_index(name, index);
  STD_TORCH_CHECK(
      grad.size(0) == index.size(0), "grad has ", grad.size(0), " rows and ", name, " ", index.size(0),
      "; give a row for each place");
}

inline void check_scatter(const Tensor& a, const Tensor& b, const Tensor& home) {
  check_matrix("a", a);
  check_matrix("b", b);
  check_index("home", home);
  STD_TORCH_CHECK(
      a.size(1) == b.size(1), "a is ", a.size(1), " wide and b ", b.size(1), "; give both the same width");
  check_dtype("b", b, a.scalar_type());
}

inline void check_score(const std::string& score) {
  STD_TORCH_CHECK(
      score == "softmax" || score == "sigmoid", "score is \"", score, "\"; give \"softmax\" or \"sigmoid\"");
}

inline void check_route(
    const Tensor& logits, int64_t top_k, const std::string& score, const std::optional<Tensor>& bias) {
  check_matrix("logits", logits);
  check_float("logits", logits);
  const int64_t experts = logits.size(1);
  STD_TORCH_CHECK(
      top_k >= 1 && top_k <= experts, "top_k is ", top_k, " for ", experts, " experts; give 1 to ", experts);
  check_score(score);
  if (bias.has_value()) {
    STD_TORCH_CHECK(
        bias->dim() == 1 && bias->size(0) == experts, "bias has ", bias->numel(),
        " values; give one value for each of ", experts, " experts");
    check_dtype("bias", *bias, ScalarType::Float);
  }
}

inline void check_route_backward(
    const Tensor& grad, const Tensor& logits, const Tensor& experts, const std::string& score) {
  check_matrix("logits", logits);
  check_float("logits", logits);
  check_matrix("grad", grad);
  check_matrix("experts", experts);
  check_dtype("grad", grad, wide(logits.scalar_type()));
  check_dtype("experts", experts, ScalarType::Int);
  STD_TORCH_CHECK(
      grad.size(0) == logits.size(0) && experts.size(0) == logits.size(0) && grad.size(1) == experts.size(1),
      "grad [", grad.size(0), ", ", grad.size(1), "], experts [", experts.size(0), ", ", experts.size(1),
      "] and logits of ", logits.size(0), " tokens differ; give what route took and returned");
  check_score(score);
}

inline void check_plan(const Tensor& experts, int64_t num_experts, int64_t align) {
  check_matrix("experts", experts);
  check_dtype("experts", experts, ScalarType::Int);
  STD_TORCH_CHECK(num_experts >= 1, "num_experts is ", num_experts, "; give at least 1");
  STD_TORCH_CHECK(align >= 1, "align is ", align, "; give at least 1");
  const int64_t choices = experts.numel();
  const int64_t segments = choices < num_experts ? choices : num_experts;
  const int64_t rows = (choices + segments * (align - 1)) / align * align;
  STD_TORCH_CHECK(
      rows <= kMostRows, "the plan may need ", rows, " rows, but row numbers are int32; split the tokens");
}

}  // namespace nmm
