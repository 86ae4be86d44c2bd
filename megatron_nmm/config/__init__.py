"""Run configuration: the tree, its presets, its changes and its checks. Standard library only."""

from megatron_nmm.config.schema import (
    DataConfig,
    EvaluateConfig,
    JournalConfig,
    ModelConfig,
    OptimConfig,
    ParallelConfig,
    PrecisionConfig,
    RunConfig,
    SaveConfig,
    ScheduleConfig,
    SourceConfig,
    VisionConfig,
)

__all__ = [
    "DataConfig",
    "EvaluateConfig",
    "JournalConfig",
    "ModelConfig",
    "OptimConfig",
    "ParallelConfig",
    "PrecisionConfig",
    "RunConfig",
    "SaveConfig",
    "ScheduleConfig",
    "SourceConfig",
    "VisionConfig",
]
