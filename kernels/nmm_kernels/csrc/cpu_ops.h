// The CPU operators, one declaration for each schema of the op.py files.
#pragma once

#include <optional>
#include <string>
#include <tuple>

#include "cpu_common.h"

namespace nmm {

// cpu_route.cpp
std::tuple<Tensor, Tensor, Tensor> route(
    Tensor logits, int64_t top_k, std::string score, bool normalise, std::optional<Tensor> bias);
Tensor route_backward(Tensor grad, Tensor logits, Tensor experts, std::string score, bool normalise);

// cpu_plan.cpp
std::tuple<Tensor, Tensor, Tensor> dispatch_plan(Tensor experts, int64_t num_experts, int64_t align);

// cpu_permute.cpp
Tensor permute(Tensor x, Tensor row_map, int64_t rows);
std::tuple<Tensor, Tensor> permute_to_fp8(Tensor x, Tensor row_map, int64_t rows);

// cpu_combine.cpp
Tensor combine(Tensor y, Tensor row_map, std::optional<Tensor> probabilities);
Tensor permute_backward(Tensor grad, Tensor row_map);
std::tuple<Tensor, Tensor> combine_backward(Tensor grad, Tensor y, Tensor row_map, Tensor probabilities);

// cpu_modality.cpp
Tensor modality_gather(Tensor x, Tensor index);
Tensor modality_gather_backward(Tensor grad, Tensor index, int64_t rows);
Tensor modality_scatter(Tensor a, Tensor b, Tensor home);
std::tuple<Tensor, Tensor> modality_scatter_backward(Tensor grad, Tensor home, int64_t rows_a, int64_t rows_b);

}  // namespace nmm
