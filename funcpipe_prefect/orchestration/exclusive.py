"""One writer for each place: runs that publish to one folder wait for each other.

A deployment's own concurrency limit knows its own runs only. Here runs of any deployment, or of
none, share a global concurrency limit of the Prefect server, named after what they write to.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.actions import GlobalConcurrencyLimitCreate
from prefect.concurrency.sync import concurrency
from prefect.exceptions import ObjectAlreadyExists, ObjectNotFound
from prefect.logging import get_run_logger

from funcpipe_prefect.fingerprint import key_of
from funcpipe_prefect.ir import Pipeline
from funcpipe_prefect.storage import canonical

__all__ = ["one_writer"]

_LEASE_S = 120.0
"""A holder that was killed keeps its slot for so long; a living one renews it."""


@contextmanager
def one_writer(pipeline: Pipeline) -> Iterator[None]:
    """Keep every other exclusive run that writes output or dead letters to the same place waiting.

    A pipeline without a sink that has a location excludes runs of the same name.
    """
    locations = [sink.target.location for sink in pipeline.sinks if sink.target.location]
    written = [_limit_name(location) for location in locations] or [f"funcpipe-{_slug(pipeline.name)}"]
    names = sorted({*written, _limit_name(pipeline.errors.path)})
    with get_client(sync_client=True) as client:
        is_busy = [_is_busy(client, name) for name in names]
    if any(is_busy):
        get_run_logger().info("waiting for another run that writes %s", locations or pipeline.errors.path)
    with concurrency(names, lease_duration=_LEASE_S, strict=True, raise_on_lease_renewal_failure=False):
        yield


def _limit_name(url: str) -> str:
    """Name a place: equal for all ways to write its URL."""
    place = canonical(url)
    return f"funcpipe-{_slug(place.rpartition('/')[2])}-{key_of(place)[:12]}"


def _slug(text: str) -> str:
    return re.sub(r"[^\w.-]+", "-", text)[:60]


def _is_busy(client: SyncPrefectClient, name: str) -> bool:
    """Tell whether a run holds the limit, which is made when it is not there yet."""
    try:
        return client.read_global_concurrency_limit_by_name(name).active_slots > 0
    except ObjectNotFound:
        with suppress(ObjectAlreadyExists):
            client.create_global_concurrency_limit(GlobalConcurrencyLimitCreate(name=name, limit=1))
        return False
