// Every kernel, run by the emulator on small shapes, against loops so plain that they need no proof of their own.
//
// This is the program of the sanitizers: memory comes from the heap in exact sizes, so that one byte too far is seen,
// and shapes are small enough for ThreadSanitizer, which takes 8,000 CUDA threads a launch.
//   plain_loops [order]    0 forward, 1 backward, 2 shuffled; without it, all three. Exit status 1: a value differs.
#include <cstdio>
#include <cstdlib>
#include <limits>
#include <vector>

#include "combine.cuh"
#include "combine_backward.cuh"
#include "dispatch_plan.cuh"
#include "modality.cuh"
#include "permute.cuh"
#include "permute_to_fp8.cuh"
#include "route.cuh"
#include "route_backward.cuh"

namespace {

using namespace nmm::cuda;
using emulator::RACES_ARE_WATCHED;

int differences = 0;
std::mt19937 random_bits(7);

float random_value() { return std::normal_distribution<float>()(random_bits); }

template <class T>
std::vector<T> random_rows(int64_t count) {
  std::vector<T> rows(count);
  for (T& value : rows) value = narrow<T>(random_value());
  return rows;
}

// Results start as bytes that no kernel writes by chance, so that what it leaves out shows.
template <class T>
std::vector<T> unwritten(int64_t count) {
  std::vector<T> values(count);
  if (count != 0) std::memset(static_cast<void*>(values.data()), 0xA5, count * sizeof(T));
  return values;
}

void expect(bool right, const char* kernel, const char* what, int64_t place) {
  if (right) return;
  if (++differences <= 20) std::printf("%s: %s differs at %ld\n", kernel, what, long(place));
}

template <class T>
bool close(T got, double wanted, double scale) {
  const double step = std::is_same_v<T, __nv_bfloat16> ? 1.0 / 128 : std::is_same_v<T, __half> ? 1.0 / 1024 : 1e-5;
  return std::abs(double(widen(got)) - wanted) <= step * (std::abs(wanted) + scale * 1e-2);
}

struct Shape {
  int tokens, top_k, columns, experts, align;
};

struct Plan {
  std::vector<int> experts, row_map, counts;
  std::vector<int64_t> offsets;
  int64_t rows;
};

// The plan by plain loops: experts in order, tokens in order, choices in order.
Plan plan_of(const Shape& s) {
  Plan plan;
  for (int i = 0; i < s.tokens * s.top_k; ++i)
    plan.experts.push_back(i % 11 == 5 ? -1 : i % 13 == 7 ? s.experts : int(random_bits() % s.experts));
  plan.row_map.assign(s.tokens * s.top_k, -1);
  plan.offsets.push_back(0);
  for (int expert = 0; expert < s.experts; ++expert) {
    int64_t row = plan.offsets.back();
    for (int i = 0; i < s.tokens * s.top_k; ++i)
      if (plan.experts[i] == expert) plan.row_map[i] = int(row++);
    plan.counts.push_back(int(row - plan.offsets.back()));
    plan.offsets.push_back((row + s.align - 1) / s.align * s.align);
  }
  plan.rows = plan.offsets.back() + 3;  // a plan has room for more rows than it uses
  return plan;
}

void check_plan(const Shape& s, const Plan& plan) {
  const int64_t choices = int64_t(s.tokens) * s.top_k;
  auto row_map = unwritten<int>(choices), counts = unwritten<int>(s.experts);
  auto before = unwritten<int>(slices_of(choices).count * s.experts);
  auto offsets = unwritten<int64_t>(s.experts + 1);
  dispatch_plan(plan.experts.data(), row_map.data(), counts.data(), offsets.data(), before.data(), choices, s.experts,
                s.align, nullptr);
  for (int64_t i = 0; i < choices; ++i) expect(row_map[i] == plan.row_map[i], "dispatch_plan", "row_map", i);
  for (int e = 0; e < s.experts; ++e) expect(counts[e] == plan.counts[e], "dispatch_plan", "counts", e);
  for (int e = 0; e <= s.experts; ++e) expect(offsets[e] == plan.offsets[e], "dispatch_plan", "offsets", e);
}

template <class T>
void check_permute(const Shape& s, const Plan& plan) {
  const auto x = random_rows<T>(int64_t(s.tokens) * s.columns);
  auto out = unwritten<T>(plan.rows * s.columns);
  std::vector<uint8_t> mapped(plan.rows, 0);
  permute(x.data(), plan.row_map.data(), out.data(), mapped.data(), s.tokens, plan.rows, s.top_k,
          s.columns * int64_t(sizeof(T)), nullptr);
  std::vector<T> wanted(plan.rows * s.columns, narrow<T>(0));
  for (int i = 0; i < s.tokens * s.top_k; ++i)
    for (int c = 0; c < s.columns && plan.row_map[i] >= 0; ++c)
      wanted[int64_t(plan.row_map[i]) * s.columns + c] = x[int64_t(i / s.top_k) * s.columns + c];
  for (size_t i = 0; i < out.size(); ++i) expect(widen(out[i]) == widen(wanted[i]), "permute", "out", i);
}

float from_fp8(uint8_t bits) { return __half2float(__half(__nv_cvt_fp8_to_halfraw(bits, __NV_E4M3))); }

template <class T>
void check_permute_to_fp8(const Shape& s, const Plan& plan) {
  auto x = random_rows<T>(int64_t(s.tokens) * s.columns);
  for (int c = 0; c < std::min(s.columns, 128) && s.tokens != 0; ++c) x[c] = narrow<T>(0);  // a group of zeros
  const int groups = (s.columns + 127) / 128;
  auto values = unwritten<uint8_t>(plan.rows * s.columns);
  auto scales = unwritten<float>(plan.rows * groups);
  std::vector<uint8_t> mapped(plan.rows, 0);
  permute_to_fp8(x.data(), plan.row_map.data(), values.data(), scales.data(), mapped.data(), s.tokens, plan.rows,
                 s.top_k, s.columns, nullptr);
  std::vector<int> token_of(plan.rows, -1);
  for (int i = 0; i < s.tokens * s.top_k; ++i)
    if (plan.row_map[i] >= 0) token_of[plan.row_map[i]] = i / s.top_k;
  for (int64_t row = 0; row < plan.rows; ++row)
    for (int g = 0; g < groups; ++g) {
      auto value = [&](int c) { return token_of[row] < 0 ? 0.0f : widen(x[int64_t(token_of[row]) * s.columns + c]); };
      float largest = 0;
      const int end = std::min(s.columns, g * 128 + 128);
      for (int c = g * 128; c < end; ++c) largest = std::max(largest, std::abs(value(c)));
      const float scale = largest == 0 ? 1.0f : largest / 448.0f;
      expect(scales[row * groups + g] == scale, "permute_to_fp8", "scales", row * groups + g);
      for (int c = g * 128; c < end; ++c) {
        const float got = from_fp8(values[row * s.columns + c]) * scale;
        // e4m3 has three bits behind the leading one, and steps of 2^-9 below 2^-6.
        const float allowed = std::max(std::abs(value(c)) / 16, scale / 1024) * 1.0001f;
        expect(std::abs(got - value(c)) <= allowed, "permute_to_fp8", "values", row * s.columns + c);
      }
    }
}

template <class T>
void check_combine(const Shape& s, const Plan& plan, bool weighted) {
  const auto y = random_rows<T>(plan.rows * s.columns);
  const auto weights = random_rows<Wide<T>>(int64_t(s.tokens) * s.top_k);
  auto out = unwritten<T>(int64_t(s.tokens) * s.columns);
  combine(y.data(), plan.row_map.data(), weighted ? weights.data() : nullptr, out.data(), s.tokens, plan.rows, s.top_k,
          s.columns, nullptr);
  for (int t = 0; t < s.tokens; ++t)
    for (int c = 0; c < s.columns; ++c) {
      double sum = 0;
      for (int i = t * s.top_k; i < (t + 1) * s.top_k; ++i)
        if (plan.row_map[i] >= 0)
          sum += (weighted ? weights[i] : 1) * widen(y[int64_t(plan.row_map[i]) * s.columns + c]);
      expect(close(out[int64_t(t) * s.columns + c], sum, s.top_k), "combine", "out", int64_t(t) * s.columns + c);
    }
}

template <class T>
void check_combine_backward(const Shape& s, const Plan& plan) {
  const auto y = random_rows<T>(plan.rows * s.columns), grad = random_rows<T>(int64_t(s.tokens) * s.columns);
  const auto weights = random_rows<Wide<T>>(int64_t(s.tokens) * s.top_k);
  auto grad_y = unwritten<T>(plan.rows * s.columns);
  auto grad_weights = unwritten<Wide<T>>(int64_t(s.tokens) * s.top_k);
  std::vector<uint8_t> mapped(plan.rows, 0);
  combine_backward(grad.data(), y.data(), plan.row_map.data(), weights.data(), grad_y.data(), grad_weights.data(),
                   mapped.data(), s.tokens, plan.rows, s.top_k, s.columns, nullptr);
  std::vector<double> wanted(plan.rows * s.columns, 0);
  for (int i = 0; i < s.tokens * s.top_k; ++i) {
    double dot = 0;
    for (int c = 0; c < s.columns && plan.row_map[i] >= 0; ++c) {
      const int64_t from = int64_t(i / s.top_k) * s.columns + c, to = int64_t(plan.row_map[i]) * s.columns + c;
      wanted[to] = double(weights[i]) * widen(grad[from]);
      dot += double(widen(grad[from])) * widen(y[to]);
    }
    expect(std::abs(grad_weights[i] - dot) < 1e-4 * s.columns, "combine_backward", "grad_probabilities", i);
  }
  for (size_t i = 0; i < grad_y.size(); ++i) expect(close(grad_y[i], wanted[i], 1), "combine_backward", "grad_y", i);
}

template <class T>
std::vector<double> scores_by_loops(const T* logits, int experts, bool softmax) {
  std::vector<double> scores(experts);
  double sum = 0;
  for (int e = 0; e < experts; ++e) sum += std::exp(double(widen(logits[e])));
  for (int e = 0; e < experts; ++e) {
    const double power = std::exp(double(widen(logits[e])));
    scores[e] = softmax ? power / sum : power / (1 + power);
  }
  return scores;
}

template <class T>
void check_route(const Shape& s, bool softmax, bool normalise, bool biased) {
  auto logits = random_rows<T>(int64_t(s.tokens) * s.experts);
  for (int e = 0; e < s.experts; ++e) logits[e] = narrow<T>(e % 2);  // equals: the lower number comes first
  std::vector<float> bias(s.experts);
  for (int e = 0; e < s.experts; ++e) bias[e] = biased ? float((e * 7) % s.experts) : 0.0f;
  auto probabilities = unwritten<Wide<T>>(int64_t(s.tokens) * s.top_k), grad = probabilities;
  auto chosen = unwritten<int>(int64_t(s.tokens) * s.top_k);
  auto out = unwritten<T>(int64_t(s.tokens) * s.experts);
  for (auto& value : grad) value = random_value();
  std::vector<int> counts(s.experts, 0), counted(s.experts, 0);
  route(RouteArguments<T>{logits.data(), biased ? bias.data() : nullptr, probabilities.data(), chosen.data(),
                          counts.data(), s.tokens, s.experts, s.top_k, softmax, normalise}, nullptr);
  route_backward(RouteBackwardArguments<T>{grad.data(), logits.data(), chosen.data(), out.data(), s.tokens, s.experts,
                                           s.top_k, softmax, normalise}, nullptr);
  for (int t = 0; t < s.tokens; ++t) {
    const T* row = logits.data() + int64_t(t) * s.experts;
    const auto scores = scores_by_loops(row, s.experts, softmax);
    std::vector<int> order(s.experts);
    std::iota(order.begin(), order.end(), 0);
    auto rank = [&](int e) { return biased ? scores[e] + bias[e] : double(widen(row[e])); };
    std::stable_sort(order.begin(), order.end(), [&](int a, int b) { return rank(a) > rank(b); });
    double total = 0, mean = 0, dot = 0;
    for (int k = 0; k < s.top_k; ++k) total += scores[order[k]];
    const double divisor = normalise ? total : 1;
    for (int k = 0; k < s.top_k; ++k) mean += normalise ? grad[t * s.top_k + k] * scores[order[k]] / total : 0;
    std::vector<double> slope(s.experts, 0);
    for (int k = 0; k < s.top_k; ++k) {
      const int64_t place = int64_t(t) * s.top_k + k;
      ++counted[order[k]];
      expect(chosen[place] == order[k], "route", "experts", place);
      expect(std::abs(probabilities[place] - scores[order[k]] / divisor) < 1e-5, "route", "probabilities", place);
      slope[order[k]] = (grad[place] - mean) / divisor;
      dot += slope[order[k]] * scores[order[k]];
    }
    for (int e = 0; e < s.experts; ++e) {
      const double wanted = scores[e] * (softmax ? slope[e] - dot : slope[e] * (1 - scores[e]));
      expect(close(out[int64_t(t) * s.experts + e], wanted, 10), "route_backward", "out", int64_t(t) * s.experts + e);
    }
  }
  for (int e = 0; e < s.experts; ++e) expect(counts[e] == counted[e], "route", "counts", e);
}

template <class T>
void check_modality(const Shape& s) {
  const int rows_a = s.tokens / 3, rows_b = s.tokens - rows_a, count = std::max(0, s.tokens - 2);
  std::vector<int64_t> home(s.tokens);
  std::iota(home.begin(), home.end(), 0);
  std::shuffle(home.begin(), home.end(), random_bits);
  home.resize(count);  // two rows take no part
  const auto a = random_rows<T>(int64_t(rows_a) * s.columns), b = random_rows<T>(int64_t(rows_b) * s.columns);
  auto out = unwritten<T>(int64_t(count) * s.columns);
  auto back_a = unwritten<T>(a.size()), back_b = unwritten<T>(b.size());
  std::vector<uint8_t> mapped(s.tokens, 0);
  const int64_t bytes = s.columns * int64_t(sizeof(T));
  gather_rows(a.data(), b.data(), home.data(), out.data(), rows_a, rows_b, count, bytes, nullptr);
  spread_rows(out.data(), home.data(), back_a.data(), back_b.data(), mapped.data(), rows_a, rows_b, count, bytes,
              nullptr);
  std::vector<bool> used(s.tokens, false);
  auto both = [&](const auto& left, const auto& right, int64_t row, int c) {
    return widen(row < rows_a ? left[row * s.columns + c] : right[(row - rows_a) * s.columns + c]);
  };
  for (int t = 0; t < count; ++t)
    for (int c = 0; c < s.columns; ++c) {
      used[home[t]] = true;
      expect(widen(out[int64_t(t) * s.columns + c]) == both(a, b, home[t], c), "gather_rows", "out", t);
    }
  for (int t = 0; t < s.tokens; ++t)
    for (int c = 0; c < s.columns; ++c)
      expect(both(back_a, back_b, t, c) == (used[t] ? both(a, b, t, c) : 0), "spread_rows", "rows", t);
}

template <class T>
void check_rows(const Shape& s, const Plan& plan) {
  check_permute<T>(s, plan);
  check_combine<T>(s, plan, false);
  check_combine<T>(s, plan, true);
  check_combine_backward<T>(s, plan);
  check_modality<T>(s);
  if constexpr (!std::is_same_v<T, double>) check_permute_to_fp8<T>(s, plan);
}

// K beyond a warp, K not a power of two, H a multiple of a vector, of one element, of a tile; one expert; no token.
const std::vector<Shape> SHAPES = {
    {21, 2, 64, 4, 16},  {9, 3, 37, 5, 1},     {5, 33, 24, 40, 8},
    {40, 1, 1100, 8, 1}, {12, 8, 130, 1, 128}, {0, 2, 16, 4, 8},
};
// Few threads a launch, and still several blocks, several tiles and several batches of choices.
const std::vector<Shape> WATCHED_SHAPES = {{9, 3, 37, 5, 1}, {2, 33, 24, 40, 8}, {10, 2, 300, 3, 16}};
// Enough choices for the slices of two blocks.
const Shape LONG_PLAN = {1100, 2, 1, 7, 16};

void check_routes(const Shape& s) {
  if (s.top_k > s.experts || s.tokens == 0) return;
  check_route<__nv_bfloat16>(s, true, true, false);
  check_route<float>(s, false, false, true);
  if (RACES_ARE_WATCHED) return;
  for (int choice = 0; choice < 8; ++choice) {
    check_route<float>(s, choice & 1, choice & 2, choice & 4);
    check_route<double>(s, choice & 1, choice & 2, choice & 4);
  }
}

void check_all() {
  check_plan(LONG_PLAN, plan_of(LONG_PLAN));
  for (const Shape& s : RACES_ARE_WATCHED ? WATCHED_SHAPES : SHAPES) {
    const Plan plan = plan_of(s);
    check_plan(s, plan);
    check_routes(s);
    check_rows<__nv_bfloat16>(s, plan);
    if (RACES_ARE_WATCHED) continue;
    check_rows<float>(s, plan);
    check_rows<__half>(s, plan);
    check_rows<double>(s, plan);
  }
}

}  // namespace

int main(int count, char** words) {
  for (int order = 0; order < 3; ++order) {
    if (count > 1 && std::atoi(words[1]) != order) continue;
    emulator_set_order(order, 1);
    check_all();
  }
  std::printf("%d differences\n", differences);
  return differences == 0 ? 0 : 1;
}
