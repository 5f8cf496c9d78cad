"""Blocks: pipelines and settings that a Prefect server keeps, and Secret blocks, looked up where they are used.

`prefect block register -m funcpipe_prefect` makes their types known to a server. A pipeline file names a
block by `resources: {block: NAME}`, `beam: {block: NAME}` or `cache: {block: NAME}`; what stands beside
`block:` there comes before what the block says. `run_pipeline("func-pipeline/NAME")` runs a stored pipeline.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar, Literal

from prefect.blocks.core import Block
from prefect.blocks.system import Secret
from prefect.exceptions import ObjectNotFound
from pydantic import Field, HttpUrl, PositiveInt

from funcpipe_prefect.builder import load_pipeline
from funcpipe_prefect.config.marks import read_yaml
from funcpipe_prefect.ir import Pipeline

__all__ = [
    "BeamRunnerConfig",
    "DaskClusterConfig",
    "FuncPipeline",
    "PartitionStorage",
    "block_settings",
    "secret",
    "stored_pipeline",
]

_DOCUMENTATION = HttpUrl("https://pypi.org/project/funcpipe-prefect/")
_PREFIX = "func-pipeline/"


class FuncPipeline(Block):
    """A stored pipeline: what a pipeline file holds.

    Example:
        Keep a file, and run what was kept:

            FuncPipeline.from_file("pipelines/rag.yaml").save("rag")
            run_pipeline("func-pipeline/rag")
    """

    _block_type_name = "Func Pipeline"
    _block_type_slug = "func-pipeline"
    _documentation_url = _DOCUMENTATION
    _description = "A funcpipe pipeline, as in a pipeline file; run it by run_pipeline('func-pipeline/NAME')."

    pipeline: dict[str, Any] = Field(description="The pipeline, with the keys of a pipeline file.")

    @classmethod
    def from_file(cls, path: str | Path) -> FuncPipeline:
        """Read a pipeline file and check it.

        Raises:
            PipelineError: It is wrong; every problem is told.
        """
        load_pipeline(path)
        return cls(pipeline=read_yaml(path).data)

    def load_pipeline(self, **changes: Any) -> Pipeline:
        """Build the pipeline.

        Args:
            changes: `overrides`, `input` and `output`, as `load_pipeline` takes them.

        Raises:
            PipelineError: It is wrong; every problem is told.
        """
        return load_pipeline(self.pipeline, **changes)


class _Settings(Block):
    """A section of pipeline files."""

    section: ClassVar[str]


class DaskClusterConfig(_Settings):
    """What `resources:` of a pipeline file says of a Dask cluster."""

    _block_type_name = "Dask Cluster Config"
    _block_type_slug = "dask-cluster-config"
    _documentation_url = _DOCUMENTATION
    _description = "A Dask cluster for funcpipe pipelines: resources: {block: NAME}."
    section = "resources"

    workers: PositiveInt | None = Field(None, description="How many worker processes.")
    threads_per_worker: PositiveInt | None = Field(None, description="Threads in each.")
    memory_limit: str | None = Field(None, description="For each worker, such as 2GiB.")
    address: str | None = Field(None, description="A running scheduler, such as tcp://host:8786.")
    cluster_class: str | None = Field(
        None, description="Import path, such as dask_kubernetes.operator.KubeCluster."
    )
    cluster_kwargs: dict[str, Any] | None = Field(None, description="Its keyword arguments.")


class BeamRunnerConfig(_Settings):
    """What `beam:` of a pipeline file says of a Beam runner."""

    _block_type_name = "Beam Runner Config"
    _block_type_slug = "beam-runner-config"
    _documentation_url = _DOCUMENTATION
    _description = "A Beam runner for funcpipe pipelines: beam: {block: NAME}."
    section = "beam"

    runner: str | None = Field(None, description="DirectRunner, FlinkRunner, DataflowRunner, …")
    options: dict[str, Any] | None = Field(None, description="Beam pipeline options.")


class PartitionStorage(_Settings):
    """What `cache:` of a pipeline file says of where partitions are kept."""

    _block_type_name = "Partition Storage"
    _block_type_slug = "partition-storage"
    _documentation_url = _DOCUMENTATION
    _description = "Where funcpipe pipelines keep partitions: cache: {block: NAME}."
    section = "cache"

    storage: str | None = Field(None, description="Folder or fsspec URL that all workers reach.")
    expires: str | None = Field(None, description="Age such as 7d, from which a partition is computed again.")
    isolation: Literal["none", "serializable"] | None = Field(
        None, description="serializable: two runs that need one partition at once compute it once."
    )


_OF_SECTIONS: dict[str, type[_Settings]] = {
    one.section: one for one in (DaskClusterConfig, BeamRunnerConfig, PartitionStorage)
}


def block_settings(section: str, name: str) -> dict[str, Any] | None:
    """Give what a block says of a section of pipeline files; None where there is no such block.

    Args:
        section: `resources`, `beam` or `cache`.
        name: The block document's name.
    """
    block = _loaded(_OF_SECTIONS[section], name)
    if block is None:
        return None
    return {key: value for key in type(block).model_fields if (value := getattr(block, key)) is not None}


def stored_pipeline(name: str) -> dict[str, Any] | None:
    """Give the pipeline that `func-pipeline/NAME` names; None where it names nothing of the kind."""
    block = _loaded(FuncPipeline, name.removeprefix(_PREFIX)) if name.startswith(_PREFIX) else None
    return block.pipeline if block is not None else None


def _loaded(kind: type[Block], name: str) -> Any:
    load: Any = kind.load
    try:
        return load(name, _sync=True)
    except (ObjectNotFound, ValueError):
        return None


def secret(name: str) -> str | None:
    """Give the value of a Secret block; None where there is no such block."""
    block = _loaded(Secret, name)
    if block is None:
        return None
    value = block.get()
    return value if isinstance(value, str) else str(value)
