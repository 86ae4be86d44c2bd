// How kernels read and write numbers: narrow in memory, wide in arithmetic, 16 bytes an access where rows allow it.
//
// bf16, fp16 and fp32 are summed in fp32; fp64 in fp64, so that gradients can be checked numerically.
#pragma once

#include "target.cuh"

namespace nmm::cuda {

template <class T>
struct WideOf {
  using type = float;
};
template <>
struct WideOf<double> {
  using type = double;
};
template <class T>
using Wide = typename WideOf<T>::type;

__device__ __forceinline__ float widen(float value) { return value; }
__device__ __forceinline__ double widen(double value) { return value; }
__device__ __forceinline__ float widen(__half value) { return __half2float(value); }
__device__ __forceinline__ float widen(__nv_bfloat16 value) { return __bfloat162float(value); }

template <class T>
__device__ __forceinline__ T narrow(Wide<T> value) {
  return value;
}
template <>
__device__ __forceinline__ __half narrow<__half>(float value) {
  return __float2half_rn(value);
}
template <>
__device__ __forceinline__ __nv_bfloat16 narrow<__nv_bfloat16>(float value) {
  return __float2bfloat16_rn(value);
}

constexpr int VECTOR_BYTES = 16;
// Elements of T in one 128-bit access.
template <class T>
constexpr int VECTOR = VECTOR_BYTES / int(sizeof(T));

// N neighbours that move in one access.
template <class T, int N>
struct alignas(sizeof(T) * N) Elements {
  T value[N];
};

template <int N, class T>
__device__ __forceinline__ Elements<T, N> load(const T* place) {
  return *reinterpret_cast<const Elements<T, N>*>(place);
}
template <int N, class T>
__device__ __forceinline__ void store(T* place, const Elements<T, N>& elements) {
  *reinterpret_cast<Elements<T, N>*>(place) = elements;
}

// The widest word, 1 to 16 bytes, that divides a row and is aligned at every place: rows then move without a tail.
template <class... Place>
int widest_word(int64_t row_bytes, const Place*... places) {
  uint64_t bits = (uint64_t(row_bytes) | VECTOR_BYTES) | (reinterpret_cast<uintptr_t>(places) | ... | 0);
  return static_cast<int>(bits & -bits);
}

// Call `run` with a word of that many bytes: kernels that only copy know no other type.
template <class Run>
void with_word(int bytes, Run run) {
  switch (bytes) {
    case 16: return run(uint4{});
    case 8: return run(uint2{});
    case 4: return run(uint32_t{});
    case 2: return run(uint16_t{});
    default: return run(uint8_t{});
  }
}

}  // namespace nmm::cuda
