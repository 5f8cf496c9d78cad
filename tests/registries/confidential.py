"""A registry whose functions and sink take secrets, and may blurt them out when they fail."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from prefect.exceptions import MissingContextError
from prefect.logging import get_run_logger

from funcpipe_prefect import Registry
from funcpipe_prefect.ir import Located, Part, Reject, Split
from funcpipe_prefect.sinks import JsonlSink

registry = Registry()


@dataclass(frozen=True)
class Item:
    id: int
    text: str


def _logger() -> Any:
    """Give the logger of the task run, where there is one."""
    try:
        return get_run_logger()
    except MissingContextError:
        return logging.getLogger(__name__)


@registry.func
def signed(item: Item, *, token: str, fails: str = "") -> Item:
    """Use a token without showing it; fail as it is asked to, with the token in the message."""
    _logger().info("signing with %s", token)
    if fails == "record" and item.id == 3:
        raise ValueError(f"the service refused {token}")
    if fails == "task":
        raise ConnectionError(f"no answer for {token}")
    return Item(item.id, f"{item.text} {len(token)} {token[:2]}")


@registry.sink(idempotent=True)
@dataclass(frozen=True)
class GuardedSink(JsonlSink):
    """JSON Lines behind a password."""

    password: str = ""
    fails: bool = False

    def write(self, split: Split, records: Iterator[Located], record_type: Any, reject: Reject) -> Part:
        """Write, or fail with the password in the message."""
        if self.fails or not self.password.startswith("canary"):
            raise PermissionError(f"wrong password {self.password}")
        return super().write(split, records, record_type, reject)
