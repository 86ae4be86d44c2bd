// Registers the CUDA operators under torch.ops.nmm: checks, results, scratch memory, the launch on PyTorch's stream.
//
// What is asked of the arguments is checks.h's, as for the CPU; what runs is in the .cuh files, one for each operator.
// Compiled by g++ with -DNMM_EMULATED, the same file registers the kernels as CPU operators of the tests' library.
#include <torch/csrc/inductor/aoti_torch/c/shim.h>
#include <torch/csrc/stable/accelerator.h>

#include <cstring>
#include <tuple>

#include "checks.h"
#include "combine.cuh"
#include "combine_backward.cuh"
#include "dispatch_plan.cuh"
#include "modality.cuh"
#include "permute.cuh"
#include "permute_to_fp8.cuh"
#include "route.cuh"
#include "route_backward.cuh"

namespace nmm {
namespace {

constexpr int64_t kMostColumns = int64_t{65535} * cuda::WARP;  // the grid's second direction ends there

#if defined(NMM_EMULATED)
struct OnDevice {
  explicit OnDevice(const Tensor&) {}
  cudaStream_t stream = nullptr;
  void finish() const {}
};

// Memory that nobody wrote holds what nobody writes by chance: a result left out shows.
Tensor unwritten(Tensor result) {
  if (result.numel() != 0) std::memset(result.mutable_data_ptr(), 0xA5, result.numel() * result.element_size());
  return result;
}
#else
// While it lives the tensor's GPU is the current one; `stream` is PyTorch's current stream there.
struct OnDevice {
  explicit OnDevice(const Tensor& x) : guard(x.get_device_index()) {
    void* current = nullptr;
    STABLE_TORCH_ERROR_CODE_CHECK(aoti_torch_get_current_cuda_stream(x.get_device_index(), &current));
    stream = static_cast<cudaStream_t>(current);
  }
  torch::stable::accelerator::DeviceGuard guard;
  cudaStream_t stream = nullptr;
  // Raises what the launches reported; it does not wait for them.
  void finish() const { STD_CUDA_KERNEL_LAUNCH_CHECK(); }
};

Tensor unwritten(Tensor result) { return result; }
#endif

// The dispatcher looks at one tensor for the device; a kernel that got another one's pointer would end in a fault.
Tensor beside(const Tensor& x, const char* name, const Tensor& other) {
  STD_TORCH_CHECK(other.device() == x.device(), name, " is on another device than the rows; move it there");
  return torch::stable::contiguous(other);
}

void check_width(const Tensor& x) {
  STD_TORCH_CHECK(
      x.size(1) <= kMostColumns, "rows are ", x.size(1), " wide; the CUDA kernels take up to ", kMostColumns);
}

template <class T>
const T* in(const Tensor& x) {
  return static_cast<const T*>(x.const_data_ptr());
}
template <class T>
T* out(const Tensor& x) {
  return static_cast<T*>(x.mutable_data_ptr());
}

int64_t row_bytes(const Tensor& x) { return x.size(1) * static_cast<int64_t>(x.element_size()); }

Tensor matrix(const Tensor& like, int64_t rows, int64_t width) {
  return unwritten(torch::stable::new_empty(like, {rows, width}));
}
Tensor matrix(const Tensor& like, int64_t rows, int64_t width, ScalarType dtype) {
  return unwritten(torch::stable::new_empty(like, {rows, width}, dtype));
}
Tensor vector(const Tensor& like, int64_t count, ScalarType dtype) {
  return unwritten(torch::stable::new_empty(like, {count}, dtype));
}
// A byte for each row, 0 until a kernel fills it.
Tensor new_marks(const Tensor& like, int64_t rows) { return torch::stable::new_zeros(like, {rows}, ScalarType::Byte); }

// Calls `run` with a value of the element type; the checks let no other dtype pass.
template <class Run>
void with_narrow(ScalarType dtype, const Run& run) {
  switch (dtype) {
    case ScalarType::BFloat16: return run(__nv_bfloat16{});
    case ScalarType::Half: return run(__half{});
    default: return run(float{});
  }
}
template <class Run>
void with_float(ScalarType dtype, const Run& run) {
  if (dtype == ScalarType::Double) return run(double{});
  with_narrow(dtype, run);
}

void check_experts(int64_t experts, int64_t most) {
  STD_TORCH_CHECK(
      experts <= most, experts, " experts do not fit in a block's shared memory; the CUDA kernels take up to ", most);
}

std::tuple<Tensor, Tensor, Tensor> route(
    Tensor logits, int64_t top_k, std::string score, bool normalise, std::optional<Tensor> bias) {
  check_route(logits, top_k, score, bias);
  check_rows(logits.size(0));
  const OnDevice device(logits);
  logits = torch::stable::contiguous(logits);
  if (bias.has_value()) bias = beside(logits, "bias", *bias);
  const int64_t tokens = logits.size(0), num_experts = logits.size(1);
  Tensor probabilities = matrix(logits, tokens, top_k, wide(logits.scalar_type()));
  Tensor experts = matrix(logits, tokens, top_k, ScalarType::Int);
  Tensor counts = torch::stable::new_zeros(logits, {num_experts}, ScalarType::Int);
  with_float(logits.scalar_type(), [&](auto element) {
    using T = decltype(element);
    check_experts(num_experts, cuda::MOST_ROUTED_EXPERTS<T>);
    cuda::route(
        cuda::RouteArguments<T>{
            in<T>(logits), bias.has_value() ? in<float>(*bias) : nullptr, out<cuda::Wide<T>>(probabilities),
            out<int>(experts), out<int>(counts), tokens, int(num_experts), int(top_k), score == "softmax", normalise},
        device.stream);
  });
  device.finish();
  return {probabilities, experts, counts};
}

Tensor route_backward(Tensor grad, Tensor logits, Tensor experts, std::string score, bool normalise) {
  check_route_backward(grad, logits, experts, score);
  check_rows(logits.size(0));
  const OnDevice device(logits);
  logits = torch::stable::contiguous(logits);
  grad = beside(logits, "grad", grad);
  experts = beside(logits, "experts", experts);
  Tensor result = matrix(logits, logits.size(0), logits.size(1));
  with_float(logits.scalar_type(), [&](auto element) {
    using T = decltype(element);
    cuda::route_backward(
        cuda::RouteBackwardArguments<T>{
            in<cuda::Wide<T>>(grad), in<T>(logits), in<int>(experts), out<T>(result), logits.size(0),
            int(logits.size(1)), int(experts.size(1)), score == "softmax", normalise},
        device.stream);
  });
  device.finish();
  return result;
}

std::tuple<Tensor, Tensor, Tensor> dispatch_plan(Tensor experts, int64_t num_experts, int64_t align) {
  check_plan(experts, num_experts, align);
  check_experts(num_experts, cuda::MOST_PLANNED_EXPERTS);
  const OnDevice device(experts);
  experts = torch::stable::contiguous(experts);
  const int64_t choices = experts.numel();
  Tensor row_map = matrix(experts, experts.size(0), experts.size(1));
  Tensor counts = vector(experts, num_experts, ScalarType::Int);
  Tensor offsets = vector(experts, num_experts + 1, ScalarType::Long);
  Tensor before = matrix(experts, cuda::slices_of(choices).count, num_experts);
  cuda::dispatch_plan(
      in<int>(experts), out<int>(row_map), out<int>(counts), out<int64_t>(offsets), out<int>(before), choices,
      int(num_experts), align, device.stream);
  device.finish();
  return {row_map, counts, offsets};
}

Tensor permute(Tensor x, Tensor row_map, int64_t rows) {
  check_matrix("x", x);
  check_row_map(row_map, x.size(0));
  check_rows(rows);
  check_rows(x.size(0));
  check_width(x);
  const OnDevice device(x);
  x = torch::stable::contiguous(x);
  row_map = beside(x, "row_map", row_map);
  Tensor result = matrix(x, rows, x.size(1)), marks = new_marks(x, rows);
  cuda::permute(
      x.const_data_ptr(), in<int>(row_map), result.mutable_data_ptr(), out<uint8_t>(marks), x.size(0), int(rows),
      int(row_map.size(1)), row_bytes(x), device.stream);
  device.finish();
  return result;
}

std::tuple<Tensor, Tensor> permute_to_fp8(Tensor x, Tensor row_map, int64_t rows) {
  check_matrix("x", x);
  check_narrow(x);
  check_row_map(row_map, x.size(0));
  check_rows(rows);
  check_rows(x.size(0));
  check_width(x);
  const OnDevice device(x);
  x = torch::stable::contiguous(x);
  row_map = beside(x, "row_map", row_map);
  const int64_t width = x.size(1);
  Tensor values = matrix(x, rows, width, ScalarType::Float8_e4m3fn);
  Tensor scales = matrix(x, rows, cuda::divide_up(width, cuda::FP8_GROUP), ScalarType::Float);
  Tensor marks = new_marks(x, rows);
  with_narrow(x.scalar_type(), [&](auto element) {
    using T = decltype(element);
    cuda::permute_to_fp8(
        in<T>(x), in<int>(row_map), out<uint8_t>(values), out<float>(scales), out<uint8_t>(marks), x.size(0), rows,
        int(row_map.size(1)), int(width), device.stream);
  });
  device.finish();
  return {values, scales};
}

Tensor combine(Tensor y, Tensor row_map, std::optional<Tensor> probabilities) {
  check_matrix("y", y);
  check_float("y", y);
  check_row_map(row_map);
  check_rows(row_map.size(0));
  check_rows(y.size(0));
  check_width(y);
  const OnDevice device(y);
  y = torch::stable::contiguous(y);
  row_map = beside(y, "row_map", row_map);
  if (probabilities.has_value()) {
    check_probabilities(*probabilities, row_map, y);
    probabilities = beside(y, "probabilities", *probabilities);
  }
  Tensor result = matrix(y, row_map.size(0), y.size(1));
  with_float(y.scalar_type(), [&](auto element) {
    using T = decltype(element);
    const auto* weights = probabilities.has_value() ? in<cuda::Wide<T>>(*probabilities) : nullptr;
    cuda::combine(
        in<T>(y), in<int>(row_map), weights, out<T>(result), row_map.size(0), y.size(0), int(row_map.size(1)),
        int(y.size(1)), device.stream);
  });
  device.finish();
  return result;
}

Tensor permute_backward(Tensor grad, Tensor row_map) { return combine(grad, row_map, std::nullopt); }

std::tuple<Tensor, Tensor> combine_backward(Tensor grad, Tensor y, Tensor row_map, Tensor probabilities) {
  check_combine_backward(grad, y, row_map, probabilities);
  check_width(y);
  check_rows(grad.size(0));
  check_rows(y.size(0));
  const OnDevice device(y);
  y = torch::stable::contiguous(y);
  grad = beside(y, "grad", grad);
  row_map = beside(y, "row_map", row_map);
  probabilities = beside(y, "probabilities", probabilities);
  Tensor grad_y = matrix(y, y.size(0), y.size(1)), marks = new_marks(y, y.size(0));
  Tensor grad_probabilities = matrix(probabilities, row_map.size(0), row_map.size(1));
  with_float(y.scalar_type(), [&](auto element) {
    using T = decltype(element);
    cuda::combine_backward(
        in<T>(grad), in<T>(y), in<int>(row_map), in<cuda::Wide<T>>(probabilities), out<T>(grad_y),
        out<cuda::Wide<T>>(grad_probabilities), out<uint8_t>(marks), grad.size(0), y.size(0), int(row_map.size(1)),
        int(y.size(1)), device.stream);
  });
  device.finish();
  return {grad_y, grad_probabilities};
}

// Rows `index` of a followed by b.
Tensor gather(Tensor a, Tensor b, Tensor index, const char* name) {
  check_width(a);
  check_rows(index.size(0));
  const OnDevice device(a);
  a = torch::stable::contiguous(a);
  b = beside(a, "b", b);
  index = beside(a, name, index);
  Tensor result = matrix(a, index.size(0), a.size(1));
  cuda::gather_rows(
      a.const_data_ptr(), b.const_data_ptr(), in<int64_t>(index), result.mutable_data_ptr(), a.size(0), b.size(0),
      index.size(0), row_bytes(a), device.stream);
  device.finish();
  return result;
}

// The gradient of `gather`: rows of grad to rows `index` of a followed by b, zeros where no index points.
std::tuple<Tensor, Tensor> spread(Tensor grad, Tensor index, int64_t rows_a, int64_t rows_b, const char* name) {
  check_gather_backward(grad, index, name);
  check_rows(rows_a);
  check_rows(rows_b);
  check_width(grad);
  check_rows(grad.size(0));
  const OnDevice device(grad);
  grad = torch::stable::contiguous(grad);
  index = beside(grad, name, index);
  Tensor a = matrix(grad, rows_a, grad.size(1)), b = matrix(grad, rows_b, grad.size(1));
  Tensor marks = new_marks(grad, rows_a + rows_b);
  cuda::spread_rows(
      grad.const_data_ptr(), in<int64_t>(index), a.mutable_data_ptr(), b.mutable_data_ptr(), out<uint8_t>(marks),
      rows_a, rows_b, grad.size(0), row_bytes(grad), device.stream);
  device.finish();
  return {a, b};
}

Tensor modality_gather(Tensor x, Tensor index) {
  check_matrix("x", x);
  check_index("index", index);
  return gather(x, torch::stable::narrow(x, 0, 0, 0), index, "index");
}

Tensor modality_gather_backward(Tensor grad, Tensor index, int64_t rows) {
  return std::get<0>(spread(grad, index, rows, 0, "index"));
}

Tensor modality_scatter(Tensor a, Tensor b, Tensor home) {
  check_scatter(a, b, home);
  return gather(a, b, home, "home");
}

std::tuple<Tensor, Tensor> modality_scatter_backward(Tensor grad, Tensor home, int64_t rows_a, int64_t rows_b) {
  return spread(grad, home, rows_a, rows_b, "home");
}

}  // namespace
}  // namespace nmm

#if defined(NMM_EMULATED)
STABLE_TORCH_LIBRARY_IMPL(nmm_emulated, CPU, library) {
#else
STABLE_TORCH_LIBRARY_IMPL(nmm, CUDA, library) {
#endif
  library.impl("route", TORCH_BOX(&nmm::route));
  library.impl("route_backward", TORCH_BOX(&nmm::route_backward));
  library.impl("dispatch_plan", TORCH_BOX(&nmm::dispatch_plan));
  library.impl("permute", TORCH_BOX(&nmm::permute));
  library.impl("permute_backward", TORCH_BOX(&nmm::permute_backward));
  library.impl("permute_to_fp8", TORCH_BOX(&nmm::permute_to_fp8));
  library.impl("combine", TORCH_BOX(&nmm::combine));
  library.impl("combine_backward", TORCH_BOX(&nmm::combine_backward));
  library.impl("modality_gather", TORCH_BOX(&nmm::modality_gather));
  library.impl("modality_gather_backward", TORCH_BOX(&nmm::modality_gather_backward));
  library.impl("modality_scatter", TORCH_BOX(&nmm::modality_scatter));
  library.impl("modality_scatter_backward", TORCH_BOX(&nmm::modality_scatter_backward));
}
