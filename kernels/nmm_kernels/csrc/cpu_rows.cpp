// One table of row arithmetic, for the instruction set that this file is compiled for (see cpu_rows.h and build.py).
//
// Sums stay in registers while the K rows of a token pass by, so memory sees each input once and each output once. What
// was tried before: passes over blocks of 512 values in the first-level cache, left to the compiler to vectorise; they
// ran at a fifth of the speed of a copy that stays in the caches.
#include "cpu_rows.h"

#include <cstring>

#include "cpu_vector.h"

#ifndef NMM_LEVEL
#error "compile with -DNMM_LEVEL=baseline, v3, v4 or v4_bf16"
#endif
#define NMM_TEXT(name) #name
#define NMM_NAME(name) NMM_TEXT(name)

namespace {

constexpr int64_t kGroup = 128;
constexpr float kLargest = 448.0f;
constexpr float kSmallestScale = 0x1p-126f;
constexpr int kStrip = 4;  // vectors worked on together, so that additions overlap

NMM_INLINE int64_t smaller(int64_t a, int64_t b) { return a < b ? a : b; }

// --- copies ---------------------------------------------------------------------------------------------------------

void copy(void* to, const void* from, int64_t bytes, bool stream) {
#if defined(__AVX__)
  // Streaming stores need their own alignment; rows of torch have it unless their width is odd.
  if (stream && (reinterpret_cast<uintptr_t>(to) | static_cast<uintptr_t>(bytes)) % 32 == 0) {
    auto* out = static_cast<__m256i*>(to);
    auto* in = static_cast<const __m256i*>(from);
    for (int64_t i = 0; i < bytes / 32; ++i) _mm256_stream_si256(out + i, _mm256_loadu_si256(in + i));
    return;
  }
#endif
  (void)stream;
  if (bytes > 0) std::memcpy(to, from, bytes);  // matrices without width have no address either
}

// Streamed writes are ordered by nothing else.
void fence() {
#if defined(__SSE2__)
  _mm_sfence();
#endif
}

// Stores a strip of vectors; a streamed one goes by way of the first-level cache.
template <class T, class V>
NMM_INLINE void store_strip(T* to, const V (&values)[kStrip], bool stream) {
  constexpr int64_t lanes = Wide<T>::lanes;
  if (!stream) {
    for (int v = 0; v < kStrip; ++v) store(to + v * lanes, values[v]);
    return;
  }
  alignas(64) T strip[kStrip * lanes];
  for (int v = 0; v < kStrip; ++v) store(strip + v * lanes, values[v]);
  copy(to, strip, sizeof strip, true);
}

template <class T>
void widen(const void* from, void* to, int64_t n) {
  constexpr int64_t lanes = Wide<T>::lanes;
  auto* out = static_cast<typename Wide<T>::scalar*>(to);
  for (int64_t i = 0; i < n; i += lanes) {
    const int64_t count = smaller(lanes, n - i);
    store(out + i, load(static_cast<const T*>(from) + i, count), count);
  }
}

template <class T>
void narrow(const void* from, void* to, int64_t n) {
  constexpr int64_t lanes = Wide<T>::lanes;
  auto* in = static_cast<const typename Wide<T>::scalar*>(from);
  for (int64_t i = 0; i < n; i += lanes) {
    const int64_t count = smaller(lanes, n - i);
    store(static_cast<T*>(to) + i, load(in + i, count), count);
  }
}

// --- weighted sums and their gradient -------------------------------------------------------------------------------

template <class T>
void sum(void* result, const void* const* rows, const void* weights, int64_t n, int64_t width, bool stream) {
  using V = typename Wide<T>::vector;
  using W = typename Wide<T>::scalar;
  constexpr int64_t lanes = Wide<T>::lanes;
  const W* weight = static_cast<const W*>(weights);
  T* out = static_cast<T*>(result);
  int64_t i = 0;
  for (; i + kStrip * lanes <= width; i += kStrip * lanes) {
    V sums[kStrip] = {};
    for (int64_t j = 0; j < n; ++j) {
      const T* row = static_cast<const T*>(rows[j]) + i;
      const W scale = weight ? weight[j] : W{1};
      for (int v = 0; v < kStrip; ++v) sums[v] += scale * load(row + v * lanes);
    }
    store_strip(out + i, sums, stream);
  }
  for (; i < width; i += lanes) {
    const int64_t count = smaller(lanes, width - i);
    V sums = {};
    for (int64_t j = 0; j < n; ++j)
      sums += (weight ? weight[j] : W{1}) * load(static_cast<const T*>(rows[j]) + i, count);
    store(out + i, sums, count);
  }
}

// One row after the other: the gradient of the token is small enough to be read again from the first-level cache.
template <class T>
typename Wide<T>::scalar spread_row(
    const T* grad, const T* row, T* out, typename Wide<T>::scalar weight, int64_t width, bool stream) {
  using V = typename Wide<T>::vector;
  constexpr int64_t lanes = Wide<T>::lanes;
  V dots[kStrip] = {};
  int64_t i = 0;
  for (; i + kStrip * lanes <= width; i += kStrip * lanes) {
    V slopes[kStrip];
    for (int v = 0; v < kStrip; ++v) {
      slopes[v] = load(grad + i + v * lanes);
      dots[v] += slopes[v] * load(row + i + v * lanes);
      slopes[v] *= weight;
    }
    store_strip(out + i, slopes, stream);
  }
  for (; i < width; i += lanes) {
    const int64_t count = smaller(lanes, width - i);
    const V slope = load(grad + i, count);
    dots[0] += slope * load(row + i, count);
    store(out + i, weight * slope, count);
  }
  for (int v = 1; v < kStrip; ++v) dots[0] += dots[v];
  return total(dots[0]);
}

template <class T>
void spread(
    const void* grad, const void* const* rows, void* const* out_rows, const void* weights, void* dots, int64_t n,
    int64_t width, bool stream) {
  using W = typename Wide<T>::scalar;
  for (int64_t j = 0; j < n; ++j)
    static_cast<W*>(dots)[j] = spread_row(
        static_cast<const T*>(grad), static_cast<const T*>(rows[j]), static_cast<T*>(out_rows[j]),
        static_cast<const W*>(weights)[j], width, stream);
}

// --- e4m3 -----------------------------------------------------------------------------------------------------------

template <class T>
void quantise(const void* row, uint8_t* out, float* scales, int64_t width) {
  constexpr int64_t lanes = 16;
  Floats values[kGroup / lanes];
  for (int64_t begin = 0; begin < width; begin += kGroup) {
    const int64_t length = smaller(kGroup, width - begin);
    // Magnitudes as integers: they order alike, and NaN is larger than all, so it stays.
    Words most = {};
    for (int64_t v = 0; v * lanes < length; ++v) {
      values[v] = load(static_cast<const T*>(row) + begin + v * lanes, length - v * lanes);
      const Words magnitudes = bits_as<Words>(values[v]) & 0x7fffffff;
      most = magnitudes > most ? magnitudes : most;
    }
    const uint32_t bits = largest(most);
    const float exact = bits_as<float>(bits) / kLargest;
    const float scale = bits == 0 ? 1.0f : (exact < kSmallestScale ? kSmallestScale : exact);
    const float factor = 1.0f / scale;
    for (int64_t v = 0; v * lanes < length; ++v) {
      const Bytes eighth = to_e4m3(values[v] * factor);
      std::memcpy(out + begin + v * lanes, &eighth, smaller(lanes, length - v * lanes));
    }
    scales[begin / kGroup] = scale;
  }
}

// --- router scores --------------------------------------------------------------------------------------------------

// Takes the largest logit off each token's, so that no exponential overflows.
template <class W>
void take_largest_off(W* row, int64_t experts) {
  W most = row[0];
  for (int64_t e = 1; e < experts; ++e) most = row[e] > most ? row[e] : most;
  for (int64_t e = 0; e < experts; ++e) row[e] -= most;
}

template <class W>
void divide_by_sum(W* row, int64_t experts) {
  W sum = 0;
  for (int64_t e = 0; e < experts; ++e) sum += row[e];
  for (int64_t e = 0; e < experts; ++e) row[e] /= sum;
}

// Several tokens at once, so that the exponentials run over full vectors however few the experts are.
template <class T>
void scores(const void* logits, void* result, int64_t tokens, int64_t experts, bool sigmoid) {
  using V = typename Wide<T>::vector;
  constexpr int64_t lanes = Wide<T>::lanes;
  auto* out = static_cast<typename Wide<T>::scalar*>(result);
  const int64_t n = tokens * experts;
  widen<T>(logits, out, n);
  if (!sigmoid)
    for (int64_t t = 0; t < tokens; ++t) take_largest_off(out + t * experts, experts);
  for (int64_t i = 0; i < n; i += lanes) {
    const int64_t count = smaller(lanes, n - i);
    const V x = load(out + i, count);
    store(out + i, sigmoid ? 1 / (1 + exponential(-x)) : exponential(x), count);
  }
  if (!sigmoid)
    for (int64_t t = 0; t < tokens; ++t) divide_by_sum(out + t * experts, experts);
}

}  // namespace

namespace nmm::NMM_LEVEL {

extern const RowTable table;
const RowTable table = {
    NMM_NAME(NMM_LEVEL),
    copy,
    fence,
    {widen<float>, widen<BFloat16>, widen<Half>, widen<double>},
    {narrow<float>, narrow<BFloat16>, narrow<Half>, narrow<double>},
    {sum<float>, sum<BFloat16>, sum<Half>, sum<double>},
    {spread<float>, spread<BFloat16>, spread<Half>, spread<double>},
    {quantise<float>, quantise<BFloat16>, quantise<Half>, nullptr},
    {scores<float>, scores<BFloat16>, scores<Half>, scores<double>},
};

}  // namespace nmm::NMM_LEVEL
