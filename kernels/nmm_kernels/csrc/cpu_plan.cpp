// Row numbers for every choice on CPU: a counting sort in two passes over the experts, each thread its own part.
//
// Shapes: experts [T, K], row_map [T, K], counts [E], offsets [E + 1]. A part counts its choices by expert; the parts'
// counts, summed in order, tell each part where its first choice of every expert goes. That order is the stable one.
#include <vector>

#include "cpu_ops.h"

namespace nmm {
namespace {

constexpr int64_t kChoicesPerPart = 8192;  // fewer are not worth a thread

}  // namespace

std::tuple<Tensor, Tensor, Tensor> dispatch_plan(Tensor experts, int64_t num_experts, int64_t align) {
  check_plan(experts, num_experts, align);
  experts = torch::stable::contiguous(experts);
  Tensor row_map = new_matrix(experts, experts.size(0), experts.size(1));
  Tensor counts = torch::stable::new_empty(experts, {num_experts});
  Tensor offsets = torch::stable::new_empty(experts, {num_experts + 1}, ScalarType::Long);

  const auto* expert = static_cast<const int32_t*>(experts.const_data_ptr());
  auto* row = static_cast<int32_t*>(row_map.mutable_data_ptr());
  auto* count = static_cast<int32_t*>(counts.mutable_data_ptr());
  auto* offset = static_cast<int64_t*>(offsets.mutable_data_ptr());
  const int64_t choices = experts.numel();
  const int64_t threads = torch::stable::get_num_threads();
  const int64_t wanted = (choices + kChoicesPerPart - 1) / kChoicesPerPart;
  const int64_t parts = wanted < 1 ? 1 : (wanted < threads ? wanted : threads);
  const auto kept = [&](int64_t i) { return expert[i] >= 0 && expert[i] < num_experts; };

  std::vector<int64_t> next(parts * num_experts, 0);  // first how many, then the next row, of each part and expert
  torch::stable::parallel_for(0, parts, 1, [&](int64_t first, int64_t last) {
    for (int64_t part = first; part < last; ++part)
      for (int64_t i = choices * part / parts; i < choices * (part + 1) / parts; ++i)
        if (kept(i)) ++next[part * num_experts + expert[i]];
  });
  offset[0] = 0;
  for (int64_t e = 0; e < num_experts; ++e) {
    int64_t place = offset[e];
    for (int64_t part = 0; part < parts; ++part) {
      const int64_t here = next[part * num_experts + e];
      next[part * num_experts + e] = place;
      place += here;
    }
    count[e] = static_cast<int32_t>(place - offset[e]);
    offset[e + 1] = offset[e] + (count[e] + align - 1) / align * align;
  }
  torch::stable::parallel_for(0, parts, 1, [&](int64_t first, int64_t last) {
    for (int64_t part = first; part < last; ++part)
      for (int64_t i = choices * part / parts; i < choices * (part + 1) / parts; ++i)
        row[i] = kept(i) ? static_cast<int32_t>(next[part * num_experts + expert[i]]++) : -1;
  });
  return {row_map, counts, offsets};
}

}  // namespace nmm
