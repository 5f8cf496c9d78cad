"""Secrets: a pipeline knows their names; their values are looked up where they are used, and go nowhere else.

In a pipeline file `{secret: warehouse}` stands for the value of the Prefect Secret block `warehouse`. The
pipeline holds the text `<secret warehouse>` in its place, in stage keys, task parameters and files too.
What uses it asks for the value in its own process. From then on the value is left out of the texts of
errors and log records of this process.
"""

from __future__ import annotations

import functools
import importlib
import logging
import os
import re
import threading
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from funcpipe_prefect.errors import SecretError, TransientError

__all__ = ["has_secret", "placeholder", "redacted", "redacting", "revealed", "scrubbed"]

F = TypeVar("F", bound=Callable[..., Any])

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]*")
_PLACE = re.compile(r"<secret ([A-Za-z0-9][A-Za-z0-9_-]*)>")
_BLOCKS = "funcpipe_prefect.orchestration.blocks"
_SHORTEST = 4
_MASK = "***"

_values: dict[str, str] = {}
_lock = threading.Lock()


def placeholder(name: str) -> str:
    """Give the text that stands for a secret."""
    return f"<secret {name}>"


def has_secret(value: Any) -> bool:
    """Tell whether a value holds the name of a secret, however deep."""
    if isinstance(value, str):
        return _PLACE.search(value) is not None
    if isinstance(value, Mapping):
        return any(map(has_secret, value.values()))
    return isinstance(value, (list, tuple)) and any(map(has_secret, value))


def revealed(value: Any) -> Any:
    """Give a value with secrets in place of their names.

    Raises:
        SecretError: FP505, there is no such secret.
    """
    if isinstance(value, str):
        return _PLACE.sub(lambda match: _value(match[1]), value)
    if isinstance(value, Mapping):
        return {name: revealed(part) for name, part in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(map(revealed, value))
    return value


def _value(name: str) -> str:
    with _lock:
        if name not in _values:
            _values[name] = _looked_up(name)
            _guard_logs()
        return _values[name]


def _looked_up(name: str) -> str:
    variable = "FUNCPIPE_SECRET_" + re.sub(r"\W", "_", name).upper()
    found = os.environ.get(variable)
    if found is not None:
        return found
    try:
        found = importlib.import_module(_BLOCKS).secret(name)
    except SecretError:
        raise
    except Exception as error:
        raise TransientError(f"the secret {name!r} cannot be looked up: {type(error).__name__}") from None
    if found is None:
        raise SecretError(
            f"there is no Prefect Secret block {name!r}; make one in the UI, or set {variable} in the environment"
        )
    return str(found)


def redacted(text: str) -> str:
    """Leave the secrets that this process knows out of a text."""
    for value in list(_values.values()):
        if len(value) >= _SHORTEST and value in text:
            text = text.replace(value, _MASK)
    return text


def scrubbed(error: BaseException) -> BaseException:
    """Leave the secrets out of an error and those behind it; give another where that cannot be done."""
    if not _values:
        return error
    seen: set[int] = set()
    chain: list[BaseException] = [error]
    while chain:
        one = chain.pop()
        if id(one) in seen:
            continue
        seen.add(id(one))
        one.args = tuple(redacted(part) if isinstance(part, str) else part for part in one.args)
        text = f"{one} {one!r}"
        if redacted(text) != text:
            return RuntimeError(f"{type(one).__name__}: {redacted(str(one))}")
        chain += [other for other in (one.__cause__, one.__context__) if other is not None]
    return error


def redacting(call: F) -> F:
    """Let no error leave a function with a secret in it."""

    @functools.wraps(call)
    def guarded(*args: Any, **kwargs: Any) -> Any:
        try:
            return call(*args, **kwargs)
        except Exception as error:
            safe = scrubbed(error)
            if safe is error:
                raise
            raise safe from None

    return guarded  # type: ignore[return-value]


def _guard_logs() -> None:
    """Leave the secrets out of the log records that this process makes from now on."""
    make = logging.getLogRecordFactory()
    if getattr(make, "leaves_secrets_out", False):
        return

    def factory(*args: Any, **kwargs: Any) -> logging.LogRecord:
        record = make(*args, **kwargs)
        try:
            text = record.getMessage()
        except Exception:  # which the handler will tell
            return record
        if redacted(text) != text:
            record.msg, record.args = redacted(text), ()
        if record.exc_info and record.exc_info[1] is not None:
            shown = logging.Formatter().formatException(record.exc_info)
            if redacted(shown) != shown:
                record.exc_text, record.exc_info = redacted(shown), None
        return record

    factory.leaves_secrets_out = True  # type: ignore[attr-defined]
    logging.setLogRecordFactory(factory)
