"""Run configuration: the tree, its presets, its changes and its checks. Standard library only."""

from megatron_nmm.config.schema import (
    DataConfig,
    EvaluateConfig,
    InitConfig,
    JournalConfig,
    OptimConfig,
    ParallelConfig,
    PrecisionConfig,
    RatesConfig,
    RunConfig,
    SaveConfig,
    ScheduleConfig,
    SourceConfig,
)
from megatron_nmm.config.schema_model import ModelConfig, SparseConfig, VisionConfig

__all__ = [
    "DataConfig",
    "EvaluateConfig",
    "InitConfig",
    "JournalConfig",
    "ModelConfig",
    "OptimConfig",
    "ParallelConfig",
    "PrecisionConfig",
    "RatesConfig",
    "RunConfig",
    "SaveConfig",
    "ScheduleConfig",
    "SourceConfig",
    "SparseConfig",
    "VisionConfig",
]
