// The arithmetic on rows that the CPU library is made of, as a table of functions for each instruction set.
//
// cpu_rows.cpp is compiled once for each x86-64 level (or once, where the machine is none), and the library takes the
// table that the processor can run: one file serves an old laptop and AVX-512 alike, and no instruction is illegal.
#pragma once

#include <cstdint>

namespace nmm {

enum Dtype : int { kFloat, kBFloat16, kHalf, kDouble, kDtypes };

// "Wide" is float, or double where the rows are double; weights, dots and scores are wide. H is the width in elements.
struct RowTable {
  const char* name;

  // Copies `bytes`. Here and below, `stream` writes past the caches, for results larger than they are, and wants a
  // fence afterwards, before another thread may read them.
  void (*copy)(void* to, const void* from, int64_t bytes, bool stream);
  void (*fence)();

  // n values to wide and back.
  void (*widen[kDtypes])(const void* from, void* to, int64_t n);
  void (*narrow[kDtypes])(const void* from, void* to, int64_t n);

  // out[H] = sum over j < n of weights[j] * rows[j][H], in order of j; weights of 1 where `weights` is null.
  void (*sum[kDtypes])(void* out, const void* const* rows, const void* weights, int64_t n, int64_t width, bool stream);

  // For j < n: out_rows[j][H] = weights[j] * grad[H] and dots[j] = <grad, rows[j]>.
  void (*spread[kDtypes])(
      const void* grad, const void* const* rows, void* const* out_rows, const void* weights, void* dots, int64_t n,
      int64_t width, bool stream);

  // One row to e4m3 with a scale for every 128 values. Double has none.
  void (*quantise[kDtypes])(const void* row, uint8_t* values, float* scales, int64_t width);

  // scores[tokens][E] = softmax over E, or sigmoid, of logits[tokens][E].
  void (*scores[kDtypes])(const void* logits, void* scores, int64_t tokens, int64_t experts, bool sigmoid);
};

// The best table that this processor can run.
const RowTable& rows();

}  // namespace nmm
