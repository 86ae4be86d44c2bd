#!/usr/bin/env bash
# The environment variables that matter to a job, each with its reason; sourced by torchrun.sh. What is set already stays.

# torchrun would set it too, with a warning; each run gives its processes their share of the cores (--set threads=N).
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-1}

# The last lines before a process is killed reach the log.
export PYTHONUNBUFFERED=${PYTHONUNBUFFERED:-1}

# Packs hold different numbers of images, so tensors change their sizes every step: without it memory falls to pieces.
export PYTORCH_ALLOC_CONF=${PYTORCH_ALLOC_CONF:-expandable_segments:True}

# NCCL says which interface, library or GPU failed. Without it the error is "unhandled system error".
export NCCL_DEBUG=${NCCL_DEBUG:-WARN}

# Compiled kernels belong on each node's own disk: on a shared one, all ranks lock the same files.
cache=${SLURM_TMPDIR:-${TMPDIR:-/tmp}}/nmm-cache-${USER:-$(id -u)}
export TORCHINDUCTOR_CACHE_DIR=${TORCHINDUCTOR_CACHE_DIR:-$cache/inductor} TRITON_CACHE_DIR=${TRITON_CACHE_DIR:-$cache/triton}

# NMM_INTERFACE=ib0: the network between nodes, where a host's name leads to its slow interface or to 127.0.1.1.
if [[ -n "${NMM_INTERFACE:-}" ]]; then
    export NCCL_SOCKET_IFNAME=$NMM_INTERFACE GLOO_SOCKET_IFNAME=$NMM_INTERFACE
fi
