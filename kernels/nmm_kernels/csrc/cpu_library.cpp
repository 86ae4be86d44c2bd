// Registers the CPU operators under torch.ops.nmm and chooses the row arithmetic for the processor it runs on.
#include <cstdlib>
#include <cstring>

#include "cpu_ops.h"

namespace nmm {

#if defined(__x86_64__)
namespace baseline { extern const RowTable table; }
namespace v3 { extern const RowTable table; }
namespace v4 { extern const RowTable table; }
namespace v4_bf16 { extern const RowTable table; }

namespace {

#define NMM_HAS __builtin_cpu_supports

bool has_v3() {
  return NMM_HAS("avx") && NMM_HAS("avx2") && NMM_HAS("bmi") && NMM_HAS("bmi2") && NMM_HAS("f16c") && NMM_HAS("fma") &&
         NMM_HAS("lzcnt") && NMM_HAS("movbe");
}

bool has_v4() {
  return has_v3() && NMM_HAS("avx512f") && NMM_HAS("avx512bw") && NMM_HAS("avx512cd") && NMM_HAS("avx512dq") &&
         NMM_HAS("avx512vl");
}

// The best table that runs here, at most the one that NMM_CPU_LEVEL names: so one machine can test and time them all.
const RowTable& best() {
  __builtin_cpu_init();
  const struct {
    const RowTable& table;
    bool runs;
  } levels[] = {
      {v4_bf16::table, has_v4() && NMM_HAS("avx512bf16")},
      {v4::table, has_v4()},
      {v3::table, has_v3()},
      {baseline::table, true},
  };
  const char* most = std::getenv("NMM_CPU_LEVEL");
  bool allowed = most == nullptr;
  for (const auto& level : levels) {
    allowed = allowed || std::strcmp(most, level.table.name) == 0;
    if (allowed && level.runs) return level.table;
  }
  STD_TORCH_CHECK(false, "NMM_CPU_LEVEL is \"", most, "\"; give baseline, v3, v4 or v4_bf16, or unset it");
}

}  // namespace
#else
namespace baseline { extern const RowTable table; }

namespace {

const RowTable& best() { return baseline::table; }

}  // namespace
#endif

const RowTable& rows() {
  static const RowTable& chosen = best();
  return chosen;
}

}  // namespace nmm

STABLE_TORCH_LIBRARY_IMPL(nmm, CPU, library) {
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
