"""What a run tells others in Prefect: assets with what they stem from, and events that automations can wait for.

Events, each with the resource `funcpipe.pipeline.<name>` and the flow run as related:

    funcpipe.stage.completed     a stage has ended on all splits; payload: stage, splits, cached
    funcpipe.sink.committed      an output was published; payload: sink, output, records, digest
    funcpipe.errors.threshold    more records failed than errors.max_error_rate allows; payload: message
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from prefect.assets import Asset, AssetProperties, add_asset_metadata
from prefect.events import emit_event
from prefect.runtime import flow_run

from funcpipe_prefect.backends.work import Entries, Job
from funcpipe_prefect.ir import Pipeline, Sink
from funcpipe_prefect.monoid import Digest, digest_text, digest_total, fold
from funcpipe_prefect.plan import Plan

__all__ = ["asset_key", "describe_assets", "made_assets", "source_assets", "tell"]

_RESTRICTED = re.compile(r"[^A-Za-z0-9:/@+.,_=~!$*()-]+")
_MOST_CHARACTERS = 512


def asset_key(location: str) -> str:
    """Name a place as an asset: a URI, without the characters that Prefect does not take there."""
    url = location if "://" in location else f"file://{Path(location).absolute()}"
    scheme, _, rest = url.partition("://")
    kind = re.sub(r"[^a-z0-9]+", "", scheme.lower().partition("+")[0]) or "file"  # all that Prefect takes
    return f"{kind}://{_RESTRICTED.sub('_', rest)}"[:_MOST_CHARACTERS]


def source_assets(pipeline: Pipeline) -> list[Asset | str]:
    """Give what a pipeline reads, where it has a name."""
    path = getattr(pipeline.source, "path", None) or getattr(pipeline.source, "location", None)
    return [Asset(key=asset_key(path))] if isinstance(path, str) and path else []


def made_assets(job: Job) -> list[Asset]:
    """Give what a run makes: the outputs of its sinks, and the partitions that it stores."""
    pipeline = job.pipeline
    outputs = [
        Asset(
            key=asset_key(sink.target.location),
            properties=AssetProperties(name=f"{pipeline.name}: {sink.name}"),
        )
        for sink in pipeline.sinks
        if sink.target.location
    ]
    return [*outputs, *_stored(job).values()]


def _stored(job: Job) -> dict[int, Asset]:
    root = job.pipeline.storage.rstrip("/")
    return {
        stage.index: Asset(
            key=asset_key(f"{root}/{job.pipeline.name}/{stage.name}"),
            properties=AssetProperties(name=f"{job.pipeline.name}: {stage.name}, stored partitions"),
        )
        for stage in job.stages
        if stage.kind == "store"
    }


def describe_assets(job: Job, plan: Plan, entries: Entries) -> None:
    """Add to the assets of the task at hand what is in them."""
    for stage, tasks in plan.ends():
        sink = stage.terminal
        if not isinstance(sink, Sink) or not sink.target.location:
            continue
        found = [entry for task in tasks for entry in entries[stage.index, task]]
        add_asset_metadata(
            asset_key(sink.target.location),
            {
                "records": sum(entry.part.records for entry in found),
                "bytes": sum(entry.part.size for entry in found),
                "digest": digest_text(
                    fold(Digest(), (digest_total(one.digest) for one in found if one.digest))
                ),
                "pipeline": job.pipeline.name,
            },
        )
    for index, asset in _stored(job).items():
        found = [entry for (stage, _), of_task in entries.items() if stage == index for entry in of_task]
        if found:
            add_asset_metadata(asset.key, {"partitions": len(found), "pipeline": job.pipeline.name})


def tell(pipeline: Pipeline, event: str, payload: Mapping[str, Any]) -> None:
    """Emit an event of a pipeline's run."""
    related = []
    if flow_run.get_id():
        related.append(
            {
                "prefect.resource.id": f"prefect.flow-run.{flow_run.get_id()}",
                "prefect.resource.role": "flow-run",
            }
        )
    emit_event(
        f"funcpipe.{event}",
        resource={
            "prefect.resource.id": f"funcpipe.pipeline.{pipeline.name}",
            "prefect.resource.name": pipeline.name,
        },
        related=related,
        payload=dict(payload),
    )
