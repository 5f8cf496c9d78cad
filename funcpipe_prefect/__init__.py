"""Typed, law-checked data pipelines for Prefect: the same output on one core, on Dask and on Beam."""

from __future__ import annotations

import importlib
import importlib.util
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from funcpipe_prefect.backends.beam.transform import to_ptransform
    from funcpipe_prefect.backends.dask.collections import to_bag, to_dataframe, to_delayed
    from funcpipe_prefect.backends.local import run_local
    from funcpipe_prefect.backends.protocol import RunReport
    from funcpipe_prefect.builder import load_pipeline
    from funcpipe_prefect.errors import (
        BackendError,
        ContractError,
        ErrorRateExceeded,
        FuncPipeError,
        PipelineError,
        Problem,
        RecordError,
        SinkError,
        SourceError,
        TransientError,
    )
    from funcpipe_prefect.ir import Pipeline, Split
    from funcpipe_prefect.keyed import KeyValue, WindowedValue
    from funcpipe_prefect.monoid import Monoid
    from funcpipe_prefect.orchestration.blocks import (
        BeamRunnerConfig,
        DaskClusterConfig,
        FuncPipeline,
        PartitionStorage,
    )
    from funcpipe_prefect.orchestration.flow import run_pipeline
    from funcpipe_prefect.registry import Registry
    from funcpipe_prefect.result import Err, ErrorInfo, FPResult, Ok, Result
    from funcpipe_prefect.schema import Approximate

__version__ = "0.1.0"

_HOMES = {
    "Approximate": "schema",
    "BackendError": "errors",
    "BeamRunnerConfig": "orchestration.blocks",
    "ContractError": "errors",
    "DaskClusterConfig": "orchestration.blocks",
    "Err": "result",
    "ErrorInfo": "result",
    "ErrorRateExceeded": "errors",
    "FPResult": "result",
    "FuncPipeError": "errors",
    "FuncPipeline": "orchestration.blocks",
    "KeyValue": "keyed",
    "Monoid": "monoid",
    "Ok": "result",
    "PartitionStorage": "orchestration.blocks",
    "Pipeline": "ir",
    "PipelineError": "errors",
    "Problem": "errors",
    "RecordError": "errors",
    "Registry": "registry",
    "Result": "result",
    "RunReport": "backends.protocol",
    "SinkError": "errors",
    "SourceError": "errors",
    "Split": "ir",
    "TransientError": "errors",
    "WindowedValue": "keyed",
    "load_pipeline": "builder",
    "run_local": "backends.local",
    "run_pipeline": "orchestration.flow",
    "to_bag": "backends.dask.collections",
    "to_dataframe": "backends.dask.collections",
    "to_delayed": "backends.dask.collections",
    "to_ptransform": "backends.beam.transform",
}

__all__ = [
    "Approximate",
    "BackendError",
    "BeamRunnerConfig",
    "ContractError",
    "DaskClusterConfig",
    "Err",
    "ErrorInfo",
    "ErrorRateExceeded",
    "FPResult",
    "FuncPipeError",
    "FuncPipeline",
    "KeyValue",
    "Monoid",
    "Ok",
    "PartitionStorage",
    "Pipeline",
    "PipelineError",
    "Problem",
    "RecordError",
    "Registry",
    "Result",
    "RunReport",
    "SinkError",
    "SourceError",
    "Split",
    "TransientError",
    "WindowedValue",
    "load_pipeline",
    "run_local",
    "run_pipeline",
    "to_bag",
    "to_dataframe",
    "to_delayed",
    "to_ptransform",
    "__version__",
]


def __getattr__(name: str) -> Any:
    """Import a public name when it is first asked for, so that no engine is loaded before."""
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f"{__name__}.{home}"), name)
    globals()[name] = value
    return value


_ENGINES = {"backends.beam.transform": "apache_beam", "backends.dask.collections": "dask"}


def __dir__() -> list[str]:
    """Leave out what needs an engine that is not installed, for those who look at every name."""
    missing = {home for home, engine in _ENGINES.items() if importlib.util.find_spec(engine) is None}
    return sorted(name for name in __all__ if _HOMES.get(name) not in missing)
