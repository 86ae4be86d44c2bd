// Router scores, the top K of them, and counts on CPU, a block of tokens at a time so that scores stay in the cache.
//
// Shapes: logits [T, E], bias [E], probabilities [T, K], experts [T, K], counts [E].
#include <algorithm>
#include <atomic>
#include <cstring>
#include <vector>

#include "cpu_ops.h"

namespace nmm {
namespace {

constexpr int64_t kScoresPerBlock = 4096;

int64_t tokens_per_block(int64_t experts) { return std::max<int64_t>(1, kScoresPerBlock / experts); }

// Larger first, NaN before all: as torch sorts.
template <class W>
bool better(W a, W b) {
  return a > b || (a != a && b == b);
}

// The K best of ranked[E], best first. Equal ones keep the order of their index, for a later one has to be better.
template <class W>
void choose(const W* ranked, int64_t experts, int64_t top_k, int32_t* chosen) {
  int64_t n = 0;
  for (int64_t e = 0; e < experts; ++e) {
    if (n == top_k && !better(ranked[e], ranked[chosen[n - 1]])) continue;
    int64_t place = n < top_k ? n++ : n - 1;
    for (; place > 0 && better(ranked[e], ranked[chosen[place - 1]]); --place) chosen[place] = chosen[place - 1];
    chosen[place] = static_cast<int32_t>(e);
  }
}

template <class W>
void normalise_row(W* probability, int64_t top_k) {
  W total = 0;
  for (int64_t k = 0; k < top_k; ++k) total += probability[k];
  const W divisor = total < W{kSmallestSum} ? W{kSmallestSum} : total;
  for (int64_t k = 0; k < top_k; ++k) probability[k] /= divisor;
}

struct RouteArguments {
  const char* logits;
  const float* bias;  // or null
  void* probabilities;
  int32_t* experts;
  std::atomic<int32_t>* counts;
  int64_t num_experts, top_k, bytes;  // bytes of one token's logits
  Dtype dtype;
  bool sigmoid, normalise;
};

template <class W>
void route_tokens(const RouteArguments& a, int64_t begin, int64_t end) {
  const int64_t E = a.num_experts, K = a.top_k, block = tokens_per_block(E);
  std::vector<W> scores(block * E), ranked(block * E);
  std::vector<int32_t> count(E, 0);
  for (int64_t first = begin; first < end; first += block) {
    const int64_t tokens = std::min(block, end - first);
    rows().scores[a.dtype](a.logits + first * a.bytes, scores.data(), tokens, E, a.sigmoid);
    if (a.bias) {
      for (int64_t t = 0; t < tokens; ++t)
        for (int64_t e = 0; e < E; ++e) ranked[t * E + e] = scores[t * E + e] + a.bias[e];
    } else {
      rows().widen[a.dtype](a.logits + first * a.bytes, ranked.data(), tokens * E);
    }
    for (int64_t t = 0; t < tokens; ++t) {
      int32_t* chosen = a.experts + (first + t) * K;
      W* probability = static_cast<W*>(a.probabilities) + (first + t) * K;
      choose(ranked.data() + t * E, E, K, chosen);
      for (int64_t k = 0; k < K; ++k) probability[k] = scores[t * E + chosen[k]];
      if (a.normalise) normalise_row(probability, K);
      for (int64_t k = 0; k < K; ++k) ++count[chosen[k]];
    }
  }
  for (int64_t e = 0; e < E; ++e) a.counts[e].fetch_add(count[e], std::memory_order_relaxed);
}

struct GradArguments {
  const char* logits;
  const void* grad;
  const int32_t* experts;
  char* out;
  int64_t num_experts, top_k, bytes;
  Dtype dtype;
  bool sigmoid, normalise;
};

// One token's gradient with respect to its scores[E], in place of them.
template <class W>
void grad_of_scores(const GradArguments& a, const W* grad, const int32_t* chosen, W* scores, W* slope) {
  const int64_t E = a.num_experts, K = a.top_k;
  W total = 0, divisor = 1, mean = 0, inner = 0;
  if (a.normalise) {
    for (int64_t k = 0; k < K; ++k) total += scores[chosen[k]];
    divisor = total < W{kSmallestSum} ? W{kSmallestSum} : total;
    // Below the smallest sum the divisor is a constant, and so has no gradient of its own.
    if (!(total < W{kSmallestSum}))
      for (int64_t k = 0; k < K; ++k) mean += grad[k] * scores[chosen[k]] / divisor;
  }
  for (int64_t e = 0; e < E; ++e) slope[e] = 0;
  for (int64_t k = 0; k < K; ++k) {
    slope[chosen[k]] = (grad[k] - mean) / divisor;
    inner += slope[chosen[k]] * scores[chosen[k]];
  }
  for (int64_t e = 0; e < E; ++e)
    scores[e] *= a.sigmoid ? slope[e] * (1 - scores[e]) : slope[e] - inner;
}

template <class W>
void route_backward_tokens(const GradArguments& a, int64_t begin, int64_t end) {
  const int64_t E = a.num_experts, K = a.top_k, block = tokens_per_block(E);
  std::vector<W> scores(block * E), slope(E);
  for (int64_t first = begin; first < end; first += block) {
    const int64_t tokens = std::min(block, end - first);
    rows().scores[a.dtype](a.logits + first * a.bytes, scores.data(), tokens, E, a.sigmoid);
    for (int64_t t = 0; t < tokens; ++t)
      grad_of_scores(
          a, static_cast<const W*>(a.grad) + (first + t) * K, a.experts + (first + t) * K, scores.data() + t * E,
          slope.data());
    rows().narrow[a.dtype](scores.data(), a.out + first * a.bytes, tokens * E);
  }
}

}  // namespace

std::tuple<Tensor, Tensor, Tensor> route(
    Tensor logits, int64_t top_k, std::string score, bool normalise, std::optional<Tensor> bias) {
  check_route(logits, top_k, score, bias);
  logits = torch::stable::contiguous(logits);
  if (bias.has_value()) bias = torch::stable::contiguous(*bias);
  const int64_t tokens = logits.size(0), num_experts = logits.size(1);
  Tensor probabilities = new_matrix(logits, tokens, top_k, wide(logits.scalar_type()));
  Tensor experts = new_matrix(logits, tokens, top_k, ScalarType::Int);
  Tensor counts = torch::stable::new_empty(logits, {num_experts}, ScalarType::Int);

  std::vector<std::atomic<int32_t>> count(num_experts);
  const RouteArguments arguments{
      bytes_of(logits),
      bias.has_value() ? static_cast<const float*>(bias->const_data_ptr()) : nullptr,
      probabilities.mutable_data_ptr(),
      static_cast<int32_t*>(experts.mutable_data_ptr()),
      count.data(),
      num_experts,
      top_k,
      row_bytes(logits),
      dtype_of(logits),
      score == "sigmoid",
      normalise,
  };
  const auto body = arguments.dtype == kDouble ? route_tokens<double> : route_tokens<float>;
  // A score costs about as much as moving 64 bytes.
  parallel(tokens, 64 * num_experts, [&](int64_t begin, int64_t end) { body(arguments, begin, end); });
  auto* out = static_cast<int32_t*>(counts.mutable_data_ptr());
  for (int64_t e = 0; e < num_experts; ++e) out[e] = count[e].load(std::memory_order_relaxed);
  return {probabilities, experts, counts};
}

Tensor route_backward(Tensor grad, Tensor logits, Tensor experts, std::string score, bool normalise) {
  check_route_backward(grad, logits, experts, score);
  grad = torch::stable::contiguous(grad);
  logits = torch::stable::contiguous(logits);
  experts = torch::stable::contiguous(experts);
  Tensor out = new_matrix(logits, logits.size(0), logits.size(1));
  const GradArguments arguments{
      bytes_of(logits),
      grad.const_data_ptr(),
      static_cast<const int32_t*>(experts.const_data_ptr()),
      mutable_bytes_of(out),
      logits.size(1),
      experts.size(1),
      row_bytes(logits),
      dtype_of(logits),
      score == "sigmoid",
      normalise,
  };
  const auto body = arguments.dtype == kDouble ? route_backward_tokens<double> : route_backward_tokens<float>;
  parallel(logits.size(0), 64 * logits.size(1), [&](int64_t begin, int64_t end) { body(arguments, begin, end); });
  return out;
}

}  // namespace nmm
