"""What the laws need that is not always installed."""

from __future__ import annotations

from importlib.util import find_spec

from funcpipe_prefect.errors import BackendError

__all__ = ["needs_hypothesis"]


def needs_hypothesis() -> None:
    """Say so, before anything starts, when Hypothesis is missing.

    Raises:
        BackendError: FP501.
    """
    if find_spec("hypothesis") is None:
        raise BackendError('the laws need the extra laws: pip install "funcpipe-prefect[laws]"')
