"""Functions that would not mean the same in another process."""

import threading
from collections.abc import Callable

from funcpipe_prefect import Registry

registry = Registry()


def remembering() -> Callable[[str], str]:
    seen: list[str] = []

    def remember(text: str) -> str:
        seen.append(text)
        return text

    return remember


def numbering() -> Callable[[str], str]:
    count = 0

    def number(text: str) -> str:
        nonlocal count
        count += 1
        return f"{count} {text}"

    return number


def guarded() -> Callable[[str], str]:
    lock = threading.Lock()

    def guard(text: str) -> str:
        with lock:
            return text

    return guard


def joined_by(separator: str) -> Callable[[str], str]:
    return lambda text: separator.join(text.split())


TABLE = {"a": "b"}

registry.func(remembering(), name="remember")
registry.func(numbering(), name="number")
registry.func(guarded(), name="guard")
registry.func(joined_by("-"), name="join")
registry.func((lambda table: lambda text: table.get(text, text))(dict(TABLE)), name="translate")
