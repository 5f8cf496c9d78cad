"""Laws: whether functions, monoids and sinks keep the promises that distribution needs.

Each check looks for a counter-example with Hypothesis (extra `laws`) and raises `LawBroken` with
the smallest one. `funcpipe laws` runs all of them on a pipeline; the pytest plugin makes a test of
each.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from funcpipe_prefect.laws.needs import needs_hypothesis

if TYPE_CHECKING:
    from funcpipe_prefect.laws.api import (
        check_backends_agree,
        check_batch_invariant,
        check_monoid,
        check_partition_invariant,
        check_pipeline,
        check_pure,
        check_round_trip,
        check_sink,
        check_sink_idempotent,
        check_source,
    )
    from funcpipe_prefect.laws.verdicts import LawBroken, LawReport, Verdict

_HOMES = {
    "LawBroken": "verdicts",
    "LawReport": "verdicts",
    "Verdict": "verdicts",
    "check_backends_agree": "api",
    "check_batch_invariant": "api",
    "check_monoid": "api",
    "check_partition_invariant": "api",
    "check_pipeline": "api",
    "check_pure": "api",
    "check_round_trip": "api",
    "check_sink": "api",
    "check_sink_idempotent": "api",
    "check_source": "api",
}

__all__ = [
    "LawBroken",
    "LawReport",
    "Verdict",
    "check_backends_agree",
    "check_batch_invariant",
    "check_monoid",
    "check_partition_invariant",
    "check_pipeline",
    "check_pure",
    "check_round_trip",
    "check_sink",
    "check_sink_idempotent",
    "check_source",
]


def __getattr__(name: str) -> Any:
    """Import a public name when it is first asked for: Hypothesis is an extra."""
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    if home == "api":
        needs_hypothesis()
    value = getattr(importlib.import_module(f"{__name__}.{home}"), name)
    globals()[name] = value
    return value
