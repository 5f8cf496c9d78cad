"""Backfill: one flow run of a deployment for each part of the input."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import httpx
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterIdempotencyKey
from prefect.client.schemas.objects import ConcurrencyLimitStrategy, FlowRun
from prefect.client.schemas.responses import DeploymentResponse
from prefect.exceptions import ObjectNotFound, PrefectHTTPStatusError
from prefect.settings import PREFECT_API_URL
from prefect.states import AwaitingRetry

from funcpipe_prefect.errors import DeploymentError, near_misses
from funcpipe_prefect.fingerprint import key_of

__all__ = ["BACKFILL_TAG", "PartRun", "backfill"]

BACKFILL_TAG = "backfill"
_FLOW = "funcpipe"
_PAGE = 100

Action = Literal["scheduled", "retried", "skipped"]


@dataclass(frozen=True)
class PartRun:
    """What a backfill did, or would do, for one part.

    Attributes:
        part: A date or a name.
        action: `scheduled` anew, `retried` after a failure, or `skipped`.
        state: The flow run's state before; None when there was no run.
        flow_run: Its name.
        id: Its id; None when it was not created.
    """

    part: str
    action: Action
    state: str | None
    flow_run: str
    id: str | None = None


def backfill(
    deployment: str,
    parts: Mapping[str, Mapping[str, Any]],
    *,
    retry_failed: bool = False,
    dry_run: bool = False,
) -> list[PartRun]:
    """Schedule one flow run for each part, unless the same run is done, scheduled or running.

    A run is known by its deployment, part and parameters. A run that failed, crashed or was
    cancelled is scheduled again under its own name and id, on demand only.

    Args:
        deployment: Name, as `flow/deployment`, or of a deployment of `run_pipeline` alone.
        parts: Flow parameters by part; `overrides` are merged into the deployment's.
        retry_failed: Schedule again what failed.
        dry_run: Tell, but change nothing.

    Raises:
        DeploymentError: FP603, no server answers, there is no such deployment, its collision
            strategy would cancel the runs, or it refuses the parameters.
    """
    if not PREFECT_API_URL.value():
        raise DeploymentError(
            "no Prefect server is configured: prefect config set PREFECT_API_URL=http://127.0.0.1:4200/api"
        )
    with get_client(sync_client=True) as client, _clear_errors():
        found = _deployment(client, deployment)
        keys = {part: _key(found, part, parameters) for part, parameters in parts.items()}
        runs = _runs(client, list(keys.values()))
        return [
            _one(client, found, part, parameters, keys[part], runs.get(keys[part]), retry_failed, dry_run)
            for part, parameters in parts.items()
        ]


@contextmanager
def _clear_errors() -> Iterator[None]:
    try:
        yield
    except PrefectHTTPStatusError as error:
        raise DeploymentError(f"the Prefect server refused: {_detail(error)}") from error
    except httpx.TransportError as error:
        raise DeploymentError(f"no Prefect server answers at {PREFECT_API_URL.value()}: {error}") from error


def _detail(error: PrefectHTTPStatusError) -> str:
    try:
        detail = error.response.json()["detail"]
    except (ValueError, KeyError, TypeError):
        detail = f"status {error.response.status_code}"
    return " ".join(str(detail).split())


def _deployment(client: SyncPrefectClient, name: str) -> DeploymentResponse:
    full = name if "/" in name else f"{_FLOW}/{name}"
    try:
        found = client.read_deployment_by_name(full)
    except ObjectNotFound:
        names = [one.name for one in client.read_deployments()]
        there = ", ".join(sorted(names)) or "none; see prefect deploy"
        mend = near_misses(full.rpartition("/")[2], names) if names else "deploy it first"
        raise DeploymentError(f"no deployment {full!r}; deployments there: {there}; {mend}") from None
    options = found.concurrency_options
    if options and options.collision_strategy == ConcurrencyLimitStrategy.CANCEL_NEW:
        raise DeploymentError(
            f"{full} cancels runs beyond its concurrency limit (collision strategy CANCEL_NEW), so a "
            "backfill would be cancelled: take a deployment with ENQUEUE"
        )
    return found


def _key(deployment: DeploymentResponse, part: str, parameters: Mapping[str, Any]) -> str:
    identity = key_of(str(deployment.id), part, json.dumps(parameters, sort_keys=True))
    return f"{_FLOW}-{BACKFILL_TAG}-{identity[:32]}"


def _runs(client: SyncPrefectClient, keys: Sequence[str]) -> dict[str, FlowRun]:
    found: dict[str, FlowRun] = {}
    for start in range(0, len(keys), _PAGE):
        chosen = FlowRunFilterIdempotencyKey(any_=list(keys[start : start + _PAGE]))
        for run in client.read_flow_runs(flow_run_filter=FlowRunFilter(idempotency_key=chosen), limit=_PAGE):
            found[str(run.idempotency_key)] = run
    return found


def _one(
    client: SyncPrefectClient,
    deployment: DeploymentResponse,
    part: str,
    parameters: Mapping[str, Any],
    key: str,
    run: FlowRun | None,
    retry_failed: bool,
    dry_run: bool,
) -> PartRun:
    if run is None:
        name = f"{deployment.name}-{part}"
        if dry_run:
            return PartRun(part, "scheduled", None, name)
        run = client.create_flow_run_from_deployment(
            deployment.id, parameters=_merged(deployment, parameters), name=name,
            tags=[BACKFILL_TAG], idempotency_key=key,
        )  # fmt: skip
        return PartRun(part, "scheduled", None, run.name, str(run.id))
    state = run.state_name
    is_failed = run.state is not None and run.state.is_final() and not run.state.is_completed()
    if not is_failed or not retry_failed:
        return PartRun(part, "skipped", state, run.name, str(run.id))
    if not dry_run:
        client.set_flow_run_state(run.id, AwaitingRetry(message="Retried by funcpipe backfill"), force=True)
    return PartRun(part, "retried", state, run.name, str(run.id))


def _merged(deployment: DeploymentResponse, parameters: Mapping[str, Any]) -> dict[str, Any]:
    """Add to the deployment's overrides; Prefect itself would replace them as a whole."""
    merged = dict(parameters)
    if "overrides" in merged:
        merged["overrides"] = {**(deployment.parameters.get("overrides") or {}), **merged["overrides"]}
    return merged
