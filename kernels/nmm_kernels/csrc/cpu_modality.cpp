// Two-way routing by modality on CPU: row copies by a permutation, in both directions.
//
// Shapes: T rows in sequence order, N of one modality, M of the other, H width. Traffic: each row read and written
// once; nothing is concatenated on the way, and no gradient is added to another.
#include <vector>

#include "cpu_ops.h"

namespace nmm {
namespace {

void check_reach(const char* name, const Tensor& index, int64_t rows) {
  const auto* places = static_cast<const int64_t*>(index.const_data_ptr());
  for (int64_t i = 0; i < index.numel(); ++i)
    STD_TORCH_CHECK(
        places[i] >= 0 && places[i] < rows, name, " holds ", places[i], ", but there are ", rows,
        " rows; give places from 0 to ", rows - 1);
}

// Two matrices of one width, one after the other: where row i of cat(first, second) stands.
struct Pair {
  char* first;
  char* second;
  int64_t split;
  int64_t bytes;

  char* row(int64_t i) const { return i < split ? first + i * bytes : second + (i - split) * bytes; }
};

// grad [T, H] -> the rows of `to` that `home` names; the others become zero.
void scatter_rows(const Tensor& grad, const Tensor& home, const Pair& to, int64_t rows) {
  const RowTable& table = nmm::rows();
  const auto* places = static_cast<const int64_t*>(home.const_data_ptr());
  const char* from = bytes_of(grad);
  std::vector<uint8_t> taken(rows, 0);
  for (int64_t i = 0; i < home.size(0); ++i) taken[places[i]] = 1;
  const bool stream = streams(rows * to.bytes);
  parallel(home.size(0), 2 * to.bytes, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) table.copy(to.row(places[i]), from + i * to.bytes, to.bytes, stream);
    table.fence();
  });
  parallel(rows, to.bytes, [&](int64_t begin, int64_t end) {
    for (int64_t row = begin; row < end; ++row)
      if (!taken[row]) clear(to.row(row), to.bytes);
  });
}

// The rows of `from` that `index` names -> out.
void gather_rows(const Pair& from, const Tensor& index, Tensor& out) {
  const RowTable& table = nmm::rows();
  const auto* places = static_cast<const int64_t*>(index.const_data_ptr());
  char* to = mutable_bytes_of(out);
  const bool stream = streams(index.size(0) * from.bytes);
  parallel(index.size(0), 2 * from.bytes, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) table.copy(to + i * from.bytes, from.row(places[i]), from.bytes, stream);
    table.fence();
  });
}

char* writable(const Tensor& x) { return const_cast<char*>(bytes_of(x)); }  // for Pair, which also only reads

}  // namespace

Tensor modality_gather(Tensor x, Tensor index) {
  check_matrix("x", x);
  check_index("index", index);
  x = torch::stable::contiguous(x);
  index = torch::stable::contiguous(index);
  check_reach("index", index, x.size(0));
  Tensor out = new_matrix(x, index.size(0), x.size(1));
  gather_rows({writable(x), nullptr, x.size(0), row_bytes(x)}, index, out);
  return out;
}

Tensor modality_gather_backward(Tensor grad, Tensor index, int64_t rows) {
  check_gather_backward(grad, index, "index");
  check_rows(rows);
  grad = torch::stable::contiguous(grad);
  index = torch::stable::contiguous(index);
  check_reach("index", index, rows);
  Tensor out = new_matrix(grad, rows, grad.size(1));
  scatter_rows(grad, index, {mutable_bytes_of(out), nullptr, rows, row_bytes(grad)}, rows);
  return out;
}

Tensor modality_scatter(Tensor a, Tensor b, Tensor home) {
  check_scatter(a, b, home);
  a = torch::stable::contiguous(a);
  b = torch::stable::contiguous(b);
  home = torch::stable::contiguous(home);
  check_reach("home", home, a.size(0) + b.size(0));
  Tensor out = new_matrix(a, home.size(0), a.size(1));
  gather_rows({writable(a), writable(b), a.size(0), row_bytes(a)}, home, out);
  return out;
}

std::tuple<Tensor, Tensor> modality_scatter_backward(Tensor grad, Tensor home, int64_t rows_a, int64_t rows_b) {
  check_gather_backward(grad, home, "home");
  check_rows(rows_a);
  check_rows(rows_b);
  grad = torch::stable::contiguous(grad);
  home = torch::stable::contiguous(home);
  check_reach("home", home, rows_a + rows_b);
  Tensor a = new_matrix(grad, rows_a, grad.size(1));
  Tensor b = new_matrix(grad, rows_b, grad.size(1));
  scatter_rows(grad, home, {mutable_bytes_of(a), mutable_bytes_of(b), rows_a, row_bytes(grad)}, rows_a + rows_b);
  return {a, b};
}

}  // namespace nmm
