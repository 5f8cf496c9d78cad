"""Pipeline files: YAML with the place of every key, and the specs that its values must fit."""

from funcpipe_prefect.config.load import Config, load_config
from funcpipe_prefect.config.overrides import with_overrides
from funcpipe_prefect.config.specs import (
    BatchMapSpec,
    CombineByKeySpec,
    CombineSpec,
    DistinctSpec,
    ExpectSpec,
    FilterSpec,
    FlatMapSpec,
    MapSpec,
    OperatorSpec,
    PipelineSpec,
    SinkSpec,
    WindowSpec,
    duration_s,
    pipeline_schema,
)

__all__ = [
    "BatchMapSpec",
    "CombineByKeySpec",
    "CombineSpec",
    "Config",
    "DistinctSpec",
    "ExpectSpec",
    "FilterSpec",
    "FlatMapSpec",
    "MapSpec",
    "OperatorSpec",
    "PipelineSpec",
    "SinkSpec",
    "WindowSpec",
    "duration_s",
    "load_config",
    "pipeline_schema",
    "with_overrides",
]
