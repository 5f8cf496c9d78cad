"""Sources and sinks with secrets among their parameters: made anew, with the values, where they are used."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from funcpipe_prefect.ir import Commit, Located, Part, RecordSink, Reject, Split
from funcpipe_prefect.secrets import has_secret, redacting, revealed, scrubbed

__all__ = ["LateSink", "LateSource", "late"]


def late(found: Any) -> Any:
    """Wrap a source or sink that has a secret among its fields; give others as they are.

    Raises:
        TypeError: It has one, and is no dataclass.
    """
    values = vars(found) if hasattr(found, "__dict__") else {}
    if not any(map(has_secret, values.values())):
        return found
    if not dataclasses.is_dataclass(found):
        raise TypeError(
            f"{type(found).__name__} is no dataclass, so that a secret cannot be put in where it is used"
        )
    return LateSink(found) if isinstance(found, RecordSink) else LateSource(found)


@functools.lru_cache(maxsize=32)
def _made(late: LateSink | LateSource) -> Any:
    found: Any = late.stands_for
    values = {field.name: getattr(found, field.name) for field in dataclasses.fields(found) if field.init}
    return dataclasses.replace(
        found, **{name: revealed(value) for name, value in values.items() if has_secret(value)}
    )


@dataclass(frozen=True, eq=False)
class LateSink:
    """A sink whose secrets are put in where it is used.

    Attributes:
        stands_for: The sink with the names of secrets.
    """

    stands_for: Any

    @property
    def location(self) -> str | None:
        """The output's URL, with the names of secrets."""
        found: str | None = self.stands_for.location
        return found

    @redacting
    def write(self, split: Split, records: Iterator[Located], record_type: Any, reject: Reject) -> Part:
        """Write one partition."""
        part: Part = _made(self).write(split, records, record_type, reject)
        return part

    @redacting
    def has(self, part: Part) -> bool:
        """Tell whether a part is there still."""
        return bool(_made(self).has(part))

    @redacting
    def sweep(self, token: str) -> None:
        """Remove the temporary files of a run."""
        _made(self).sweep(token)

    @redacting
    def published(self) -> Mapping[str, Commit]:
        """The entries that readers see."""
        found: Mapping[str, Commit] = _made(self).published()
        return found

    @redacting
    def commit(self, entries: Sequence[Commit]) -> None:
        """Make exactly these parts visible."""
        _made(self).commit(entries)

    def rows(self) -> Iterator[Mapping[str, Any]]:
        """Give the rows that readers see, where the sink has them."""
        yield from _made(self).rows()

    @redacting
    def version(self) -> str | None:
        """Name what is published now, where the sink can."""
        tell = getattr(_made(self), "version", None)
        return None if tell is None else str(tell())


@dataclass(frozen=True, eq=False)
class LateSource:
    """A source whose secrets are put in where it is used.

    Attributes:
        stands_for: The source with the names of secrets.
    """

    stands_for: Any

    @redacting
    def list_splits(self) -> Sequence[Split]:
        """List the slices of the input."""
        found: Sequence[Split] = _made(self).list_splits()
        return found

    def read(self, split: Split, record_type: Any) -> Iterator[Located]:
        """Stream one split."""
        try:
            yield from _made(self).read(split, record_type)
        except Exception as error:
            safe = scrubbed(error)
            if safe is error:
                raise
            raise safe from None

    @redacting
    def locate(self, split: Split, position: int) -> str:
        """Say where a record is."""
        found: str = _made(self).locate(split, position)
        return found
