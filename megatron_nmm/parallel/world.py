"""One process's place in the job: ranks, groups and the few agreements all ranks make."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist

from megatron_nmm.config import ParallelConfig
from megatron_nmm.device import seed as random_states
from megatron_nmm.device.protocol import Device
from megatron_nmm.errors import ConfigError, NMMError
from megatron_nmm.parallel import meeting

ENVIRONMENT = "env://"
"""Where torchrun's processes meet, as torch.distributed spells it."""


class RankTimeout(NMMError):
    """A collective did not finish in time or lost a peer; names the rank and what it waited for."""

    def __init__(self, message: str, *, speaks: bool | None = None) -> None:
        """``speaks``: whether this rank is the one that tells of it; None = not settled among the ranks."""
        super().__init__(message)
        self.speaks = speaks
        self.told = False
        """Whether the message is out already."""


@dataclass(frozen=True)
class World:
    """The job as one rank sees it. Ranks lie tensor fastest, then context, data, pipeline (megatron-core's)."""

    device: Device
    parallel: ParallelConfig
    rank: int
    size: int
    groups: Any
    """megatron-core's ProcessGroupCollection; every module takes its groups from here."""

    @staticmethod
    def start(parallel: ParallelConfig, device: Device, seed: int, threads: int = 0) -> "World":
        """Join the job described by torchrun's environment (alone when there is none) and build every group.

        ``seed`` starts the model-parallel random states; ``threads`` is CPU threads per process, 0 = a fair share.
        Raises ConfigError when the environment speaks of other processes and not of where to meet them.
        """
        rank, size = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
        local_rank, local_size = int(os.environ.get("LOCAL_RANK", 0)), int(os.environ.get("LOCAL_WORLD_SIZE", size))
        init_method = ENVIRONMENT if "MASTER_ADDR" in os.environ else None
        if size > 1 and init_method is None:
            raise ConfigError(
                f"WORLD_SIZE is {size} but MASTER_ADDR is not set, so this process cannot find the others; start the "
                "job with torchrun, or unset WORLD_SIZE"
            )
        device.start(local_rank, local_size, threads)
        return World.join(parallel, device, seed, rank=rank, size=size, init_method=init_method)

    @staticmethod
    def join(
        parallel: ParallelConfig, device: Device, seed: int, *, rank: int, size: int, init_method: str | None
    ) -> "World":
        """``start`` for a process whose device is already started and whose place is given, not read.

        ``init_method`` is where ranks meet, as torch.distributed spells it; None = there is nobody to meet.
        """
        from megatron.core import parallel_state
        from megatron.core.process_groups_config import ProcessGroupCollection

        limit = device.collective_limit(parallel.time_limit_s)
        store = dist.HashStore() if init_method is None else None  # type: ignore[attr-defined]
        with _waiting("all ranks to join", rank, size, parallel):
            if init_method == ENVIRONMENT:
                store, init_method = meeting.by_environment(rank, size, limit), None
            dist.init_process_group(
                device.backend, init_method=init_method, store=store, rank=rank, world_size=size, timeout=limit
            )
            parallel_state.initialize_model_parallel(
                tensor_model_parallel_size=parallel.tensor,
                pipeline_model_parallel_size=parallel.pipeline,
                virtual_pipeline_model_parallel_size=parallel.virtual_stages if parallel.virtual_stages > 1 else None,
                context_parallel_size=parallel.context,
                expert_model_parallel_size=parallel.expert,
                expert_tensor_parallel_size=1,
                distributed_timeout_minutes=limit.total_seconds() / 60,
                **device.group_options,
            )
        random_states.start(seed)
        return World(device, parallel, rank, size, ProcessGroupCollection.use_mpu_process_groups())

    def close(self) -> None:
        """Leave the job; call it on every rank, also after an error, so that no process lingers."""
        from megatron.core import parallel_state

        parallel_state.destroy_model_parallel()
        parallel_state.destroy_global_memory_buffer()
        if dist.is_initialized():
            dist.destroy_process_group()

    @property
    def is_main(self) -> bool:
        """Whether this rank speaks for the job: rank 0 prints and writes."""
        return self.rank == 0

    @property
    def tensor_rank(self) -> int:
        """Place in the tensor group."""
        return self._place(self.groups.tp)

    @property
    def context_rank(self) -> int:
        """Place in the context group: which positions of my rows are mine (context.py)."""
        return self._place(self.groups.cp)

    @property
    def data_rank(self) -> int:
        """Place in the data-parallel group: which rows of the global batch are mine."""
        return self._place(self.groups.dp)

    @property
    def data_size(self) -> int:
        """Replicas of the model."""
        return dist.get_world_size(self.groups.dp)

    @property
    def pipeline_rank(self) -> int:
        """Place in the pipeline: the stage of this rank, or its first one."""
        return self._place(self.groups.pp)

    @property
    def is_first_stage(self) -> bool:
        """Whether this rank embeds tokens and patches."""
        return self.pipeline_rank == 0

    @property
    def is_last_stage(self) -> bool:
        """Whether this rank computes the loss."""
        return self.pipeline_rank == self.parallel.pipeline - 1

    def sequence_share(self, tokens: int) -> slice:
        """Which of the ``tokens`` positions of its context rank this rank holds: a part under sequence parallelism."""
        share = tokens // self.parallel.tensor if self.parallel.sequence else tokens
        first = self.tensor_rank * share if self.parallel.sequence else 0
        return slice(first, first + share)

    @staticmethod
    def _place(group: Any) -> int:
        return dist.get_rank(group)

    def barrier(self, what: str) -> None:
        """Wait for every rank; ``what`` names the moment in the error of a rank that never came."""
        with self.waiting(what):
            dist.barrier()

    def any(self, flag: bool) -> bool:
        """Whether ``flag`` is true on at least one rank; the same answer everywhere."""
        answer = torch.tensor([int(flag)], device=self.device.torch_device)
        with self.waiting("an agreement of all ranks"):
            dist.all_reduce(answer, op=dist.ReduceOp.MAX)
        return bool(answer.item())

    def from_main(self, value: Any, what: str) -> Any:
        """Rank 0's ``value`` on every rank, small plain Python values only; ``what`` names it in an error."""
        box = [value]
        with self.waiting(what):
            dist.broadcast_object_list(box, src=0, device=self.device.torch_device)
        return box[0]

    @contextmanager
    def waiting(self, what: str) -> Iterator[None]:
        """Turn a collective's failure inside the block into a message that names this rank and ``what``."""
        with _waiting(what, self.rank, self.size, self.parallel):
            yield


@contextmanager
def _waiting(what: str, rank: int, size: int, parallel: ParallelConfig) -> Iterator[None]:
    """``World.waiting`` before there is a World."""
    try:
        yield
    except RuntimeError as error:
        cause, _, _ = str(error).partition("\n")
        raise RankTimeout(
            f"rank {rank} of {size} lost the job while waiting for {what} (limit {parallel.time_limit_s:g} s, set by "
            f"parallel.time_limit_s); another rank failed or hangs: look for the first error above. Cause: {cause}"
        ) from error
