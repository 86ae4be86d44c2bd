// Rows as vectors of 64 bytes of fp32: loads that widen any dtype, stores that round to it, and the exponential.
//
// The vectors are the compiler's own (vector_size), so one text serves SSE, AVX2, AVX-512 and other processors; the few
// conversions that have an instruction of their own name it. Everything stands in an unnamed namespace: cpu_rows.cpp is
// compiled for several instruction sets, and a function that the linker could share between them would carry AVX to a
// processor without it.
#pragma once

#include <cstdint>
#include <cstring>
#if defined(__SSE2__)
#include <immintrin.h>
#endif

namespace {

#define NMM_INLINE [[gnu::always_inline]] inline

template <class To, class From>
NMM_INLINE To bits_as(From from) {
  static_assert(sizeof(To) == sizeof(From));
  To to;
  __builtin_memcpy(&to, &from, sizeof to);
  return to;
}

struct BFloat16 {
  uint16_t bits;
};
struct Half {
  uint16_t bits;
};

using Floats = float __attribute__((vector_size(64)));
using Doubles = double __attribute__((vector_size(64)));
using Words = uint32_t __attribute__((vector_size(64)));
using Shorts = uint16_t __attribute__((vector_size(32)));
using Bytes = uint8_t __attribute__((vector_size(16)));

// What values of T are worked on as: a scalar, a vector of them, and how many that holds.
template <class T>
struct Wide {
  using scalar = float;
  using vector = Floats;
  static constexpr int64_t lanes = 16;
};
template <>
struct Wide<double> {
  using scalar = double;
  using vector = Doubles;
  static constexpr int64_t lanes = 8;
};

template <class V, class T>
NMM_INLINE V raw(const T* from) {
  V values;
  __builtin_memcpy(&values, from, sizeof values);
  return values;
}

// --- load and widen -------------------------------------------------------------------------------------------------

NMM_INLINE Floats load(const float* from) { return raw<Floats>(from); }
NMM_INLINE Doubles load(const double* from) { return raw<Doubles>(from); }

NMM_INLINE Floats load(const BFloat16* from) {
  return bits_as<Floats>(__builtin_convertvector(raw<Shorts>(from), Words) << 16);
}

NMM_INLINE Floats load(const Half* from) {
#if defined(__F16C__)
  const __m256 parts[2] = {_mm256_cvtph_ps(raw<__m128i>(from)), _mm256_cvtph_ps(raw<__m128i>(from + 8))};
  return raw<Floats>(parts);
#else
  Floats values;
  for (int i = 0; i < 16; ++i) values[i] = static_cast<float>(bits_as<_Float16>(from[i].bits));
  return values;
#endif
}

// The first n values, zeros behind them.
template <class T>
NMM_INLINE typename Wide<T>::vector load(const T* from, int64_t n) {
  constexpr int64_t lanes = Wide<T>::lanes;
  if (n >= lanes) return load(from);
  T padded[lanes] = {};
  std::memcpy(padded, from, n * sizeof(T));
  return load(padded);
}

// --- round to nearest even and store --------------------------------------------------------------------------------

NMM_INLINE void store(float* to, Floats values) { __builtin_memcpy(to, &values, sizeof values); }
NMM_INLINE void store(double* to, Doubles values) { __builtin_memcpy(to, &values, sizeof values); }

NMM_INLINE void store(BFloat16* to, Floats values) {
#if defined(__AVX512BF16__)
  const __m256bh rounded = _mm512_cvtneps_pbh(bits_as<__m512>(values));  // takes subnormals for zero
#else
  const Words bits = bits_as<Words>(values);
  const Words even = (bits + 0x7fff + ((bits >> 16) & 1)) >> 16;
  const Shorts rounded = __builtin_convertvector(values != values ? Words{} + 0x7fc0 : even, Shorts);
#endif
  __builtin_memcpy(to, &rounded, sizeof rounded);
}

NMM_INLINE void store(Half* to, Floats values) {
#if defined(__F16C__)
  __m256 parts[2];
  __builtin_memcpy(parts, &values, sizeof parts);
  for (int i = 0; i < 2; ++i) {
    const __m128i rounded = _mm256_cvtps_ph(parts[i], _MM_FROUND_TO_NEAREST_INT);
    __builtin_memcpy(to + 8 * i, &rounded, sizeof rounded);
  }
#else
  for (int i = 0; i < 16; ++i) to[i].bits = bits_as<uint16_t>(static_cast<_Float16>(values[i]));
#endif
}

// The first n values only.
template <class T>
NMM_INLINE void store(T* to, typename Wide<T>::vector values, int64_t n) {
  constexpr int64_t lanes = Wide<T>::lanes;
  if (n >= lanes) return store(to, values);
  T padded[lanes];
  store(padded, values);
  std::memcpy(to, padded, n * sizeof(T));
}

// e4m3: 4 bits of exponent (bias 7), 3 of mantissa, no infinity, NaN 0x7f. Magnitudes above 448 come here only by the
// rounding of a product that should be 448, so they saturate.
NMM_INLINE Bytes to_e4m3(Floats values) {
  const Words all = bits_as<Words>(values);
  const Words bits = all & 0x7fffffff;
  // Below 2^-6 the result is subnormal, a multiple of 2^-9: adding 2^14 leaves just those bits, rounded.
  const Words subnormal = bits_as<Words>(bits_as<Floats>(bits) + 0x1p14f) - bits_as<uint32_t>(0x1p14f);
  const Words normal = (bits - (120u << 23) + 0x7ffff + ((bits >> 20) & 1)) >> 20;
  const Words rounded = bits < (121u << 23) ? subnormal : normal;
  const Words saturated = rounded > 0x7e ? Words{} + 0x7e : rounded;
  const Words result = (bits > 0x7f800000 ? Words{} + 0x7f : saturated) | ((all >> 24) & 0x80);
  return __builtin_convertvector(__builtin_convertvector(result, Shorts), Bytes);
}

// --- over a whole vector --------------------------------------------------------------------------------------------

template <class V>
NMM_INLINE auto total(V values) {
  auto sum = values[0];
  for (int i = 1; i < static_cast<int>(sizeof(V) / sizeof sum); ++i) sum += values[i];
  return sum;
}

NMM_INLINE uint32_t largest(Words values) {
  uint32_t most = values[0];
  for (int i = 1; i < 16; ++i) most = values[i] > most ? values[i] : most;
  return most;
}

// --- exponential ----------------------------------------------------------------------------------------------------

// e^x for x in [-87, 88] within about 2 units in the last place; 0 below, the value at 88 above, NaN for NaN.
NMM_INLINE Floats exponential(Floats x) {
  const Floats above = x > 88.0f ? Floats{} + 88.0f : x;
  const Floats bounded = above < -87.0f ? Floats{} - 87.0f : above;
  // Adding 1.5 * 2^23 rounds to an integer, which then stands in the lowest bits.
  const Floats shifted = bounded * 1.44269504f + 12582912.0f;
  const Floats power = shifted - 12582912.0f;
  // ln 2 in two parts, the first short enough for an exact product; then a series on +-(ln 2) / 2.
  const Floats rest = (bounded - power * 0.693359375f) + power * 2.12194440e-4f;
  Floats series = rest * (1.0f / 5040.0f) + 1.0f / 720.0f;
  series = series * rest + 1.0f / 120.0f;
  series = series * rest + 1.0f / 24.0f;
  series = series * rest + 1.0f / 6.0f;
  series = series * rest + 0.5f;
  series = series * rest + 1.0f;
  series = series * rest + 1.0f;
  const Floats result = series * bits_as<Floats>((bits_as<Words>(shifted) + 127u) << 23);
  return x < -87.0f ? Floats{} : result;
}

NMM_INLINE Doubles exponential(Doubles x) {
  for (int i = 0; i < 8; ++i) x[i] = __builtin_exp(x[i]);
  return x;
}

}  // namespace
