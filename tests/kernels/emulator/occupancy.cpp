// Occupancy of kernels by NVIDIA's own calculator, which is plain host code: no GPU is asked.
//
// Reads lines "architecture registers shared_bytes threads", writes the share of a multiprocessor's threads in percent.
#include <cuda_runtime_api.h>

#include <initializer_list>

#include <cuda_occupancy.h>

#include <cstdio>

// What the calculator wants to know of a GPU; per-architecture figures from the CUDA C++ programming guide.
cudaOccDeviceProp properties_of(int architecture) {
  cudaOccDeviceProp gpu{};
  const bool small = architecture == 120;  // the multiprocessors of workstation cards
  gpu.computeMajor = architecture / 10;
  gpu.computeMinor = architecture % 10;
  gpu.maxThreadsPerBlock = 1024;
  gpu.maxThreadsPerMultiprocessor = small ? 1536 : 2048;
  gpu.regsPerBlock = gpu.regsPerMultiprocessor = 65536;
  gpu.warpSize = 32;
  gpu.sharedMemPerBlock = 48 * 1024;
  gpu.sharedMemPerMultiprocessor = (small ? 100 : architecture == 80 ? 164 : 228) * 1024;
  gpu.sharedMemPerBlockOptin = gpu.sharedMemPerMultiprocessor - 1024;
  gpu.reservedSharedMemPerBlock = 1024;
  gpu.numSms = 100;
  return gpu;
}

int main() {
  int architecture, registers, threads;
  size_t shared_bytes;
  while (std::scanf("%d %d %zu %d", &architecture, &registers, &shared_bytes, &threads) == 4) {
    const cudaOccDeviceProp gpu = properties_of(architecture);
    cudaOccFuncAttributes kernel{};
    kernel.maxThreadsPerBlock = 1024;
    kernel.numRegs = registers;
    kernel.sharedSizeBytes = shared_bytes;
    kernel.partitionedGCConfig = PARTITIONED_GC_OFF;
    kernel.shmemLimitConfig = FUNC_SHMEM_LIMIT_DEFAULT;
    kernel.maxDynamicSharedSizeBytes = 48 * 1024;
    kernel.numBlockBarriers = 1;
    const cudaOccDeviceState state{};
    cudaOccResult result{};
    if (cudaOccMaxActiveBlocksPerMultiprocessor(&result, &gpu, &kernel, &state, threads, 0) != CUDA_OCC_SUCCESS)
      return 1;
    std::printf("%d\n", result.activeBlocksPerMultiprocessor * threads * 100 / gpu.maxThreadsPerMultiprocessor);
  }
  return 0;
}
