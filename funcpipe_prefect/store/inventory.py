"""What a partition store holds, and what of it may go."""

from __future__ import annotations

import datetime
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from funcpipe_prefect.errors import SinkError, SourceError
from funcpipe_prefect.plan import StageReceipt
from funcpipe_prefect.storage import filesystem
from funcpipe_prefect.store.locks import PartitionLock, can_lock
from funcpipe_prefect.store.partitions import unsealed

__all__ = ["Inventory", "Removal", "StoredFiles"]

_ORPHAN_S = 86_400.0  # nobody writes to one file for a day without a sign of life


@dataclass
class StoredFiles:
    """The files of one stage key.

    Attributes:
        files: Size in bytes and time of the last change, in seconds since 1970, by path.
        receipt: None when the stage never ended, or its receipt is damaged.
    """

    key: str
    files: dict[str, tuple[int, float]] = field(default_factory=dict)
    receipt: StageReceipt | None = None

    @property
    def size(self) -> int:
        """Bytes of all its files."""
        return sum(size for size, _ in self.files.values())

    def row(self, now: float, used: Collection[str] | None, expires_s: float | None) -> dict[str, Any]:
        """Describe it for a person or a program."""
        receipt = self.receipt
        stored = receipt.stored if receipt else None
        return {
            "key": self.key,
            "stage": receipt.stage if receipt else "",
            "kind": receipt.kind if receipt else "unfinished",
            "split": receipt.entry.split if receipt else "",
            "pipeline": receipt.pipeline if receipt else "",
            "records": _records(receipt) if receipt else 0,
            "bytes": self.size,
            "age_s": round(now - receipt.made, 3) if receipt else None,
            "codec": stored.codec if stored else None,
            "used": None if used is None else self.key in used,
            "expired": bool(receipt and expires_s is not None and receipt.made + expires_s <= now),
        }


def _records(receipt: StageReceipt) -> int:
    if receipt.stored is not None:
        return receipt.stored.records
    return receipt.entry.counts[-1].records_out if receipt.entry.counts else 0


@dataclass(frozen=True)
class Removal:
    """Something that may go, and why."""

    key: str
    why: str
    files: Mapping[str, int]

    @property
    def size(self) -> int:
        """Bytes."""
        return sum(self.files.values())


class Inventory:
    """A listing of a partition store.

    Args:
        url: The store's root folder or fsspec URL.
        now: The present, in seconds since 1970.
        pipeline: Take stages that were run for the pipeline of this name alone; None for all.
        used: Stage keys of the pipeline as it is now; None when that is not known.

    Raises:
        SourceError: FP409, the storage cannot be listed.
    """

    def __init__(
        self, url: str, now: float, pipeline: str | None = None, used: Collection[str] | None = None
    ) -> None:
        self.now, self.used = now, used
        self._can_lock = can_lock(url)
        try:
            self._fs, root = filesystem(url)
            found = _gathered(self._fs, f"{root.rstrip('/')}/partitions")
            self._launches = _by_launch(self._fs, f"{root.rstrip('/')}/launches")
        except (OSError, ValueError, ImportError) as error:
            raise SourceError(f"{url} cannot be listed: {error}") from error
        self.stages = [one for one in found if pipeline is None or self._belongs(one, pipeline)]

    def _belongs(self, one: StoredFiles, pipeline: str) -> bool:
        """Count what nobody finished as everybody's."""
        return one.receipt is None or one.receipt.pipeline == pipeline or one.key in (self.used or ())

    def rows(self, expires_s: float | None) -> list[dict[str, Any]]:
        """Describe each stage run that left a receipt, newest last."""
        ended = [one for one in self.stages if one.receipt is not None]
        ended.sort(key=lambda one: (one.receipt.made if one.receipt else 0.0, one.key))
        return [one.row(self.now, self.used, expires_s) for one in ended]

    def removals(self, older_than_s: float | None, *, unused: bool) -> Iterator[Removal]:
        """Say what may go; nothing that the holder of a lock is writing.

        Args:
            older_than_s: Age in seconds from which a finished stage goes; None keeps all ages.
            unused: Let those go, too, that the pipeline as it is now does not use; all of them
                when there is no pipeline.
        """
        for one in self.stages:
            lock = self._lock_of(one)
            if lock is not None and lock.is_live(self.now):
                continue
            whole = self._why_whole(one, older_than_s, unused=unused)
            if whole:
                yield Removal(one.key, whole, {path: size for path, (size, _) in one.files.items()})
                continue
            left = {
                path: size for path, (size, changed) in one.files.items() if self._is_left(path, changed, one)
            }
            if left:
                yield Removal(one.key, "left by a run that ended early", left)
            if lock is not None:
                yield Removal(
                    one.key, "lock of a run that ended early", {str(lock.path): one.files[str(lock.path)][0]}
                )
        for key, files in self._launches.items():
            if all(self.now - changed > _ORPHAN_S for _, changed in files.values()):
                sizes = {path: size for path, (size, _) in files.items()}
                yield Removal(key, "handed over by a launch that ended early", sizes)

    def _why_whole(self, one: StoredFiles, older_than_s: float | None, *, unused: bool) -> str:
        if one.receipt is None:
            return ""
        if older_than_s is not None and one.receipt.made + older_than_s <= self.now:
            return "expired"
        if unused and one.key not in (self.used or ()):
            return "not used by the pipeline" if self.used is not None else "all"
        return ""

    def _is_left(self, path: str, changed: float, one: StoredFiles) -> bool:
        is_part = path.endswith(".tmp") or (one.receipt is None and not path.endswith(".lock"))
        return is_part and self.now - changed > _ORPHAN_S

    def _lock_of(self, one: StoredFiles) -> PartitionLock | None:
        path = next((path for path in one.files if path.endswith(".lock")), None)
        return PartitionLock(Path(path)) if path is not None and self._can_lock else None

    def remove(self, removal: Removal) -> bool:
        """Remove files, the receipt first, so that nothing is found that is half gone.

        Returns:
            Whether they were removed; not when somebody has begun to write there meanwhile.

        Raises:
            SourceError: FP409, a file cannot be removed.
        """
        paths = sorted(removal.files, key=lambda path: not path.endswith(".json"))
        try:
            with self._alone(PartitionLock(Path(paths[0]).with_name(f"{removal.key}.lock"))) as is_alone:
                for path in paths if is_alone else ():
                    if not path.endswith(".lock"):
                        with suppress(FileNotFoundError):
                            self._fs.rm_file(path)
        except (OSError, SinkError) as error:
            raise SourceError(f"{removal.key} cannot be removed: {error}") from error
        return is_alone

    @contextmanager
    def _alone(self, lock: PartitionLock) -> Iterator[bool]:
        if not self._can_lock:
            yield True
            return
        lock.break_stale(self.now)
        with lock.held(waits=False) as is_held:
            yield is_held


def _gathered(fs: Any, root: str) -> list[StoredFiles]:
    stages: dict[str, StoredFiles] = {}
    fs.invalidate_cache()
    for path, info in fs.find(root, detail=True).items():
        key = path.rpartition("/")[2].partition(".")[0]
        one = stages.setdefault(key, StoredFiles(key))
        one.files[path] = (int(info["size"] or 0), _changed(info))
        if path.endswith(f"/{key}.json"):
            with suppress(OSError, ValueError):
                one.receipt = unsealed(fs.cat_file(path))
    return list(stages.values())


def _by_launch(fs: Any, root: str) -> dict[str, dict[str, tuple[int, float]]]:
    """Sizes and times of what launched stages have handed over, by launch."""
    launches: dict[str, dict[str, tuple[int, float]]] = {}
    for path, info in fs.find(root, detail=True).items():
        key = path.rpartition("/")[0].rpartition("/")[2]
        launches.setdefault(key, {})[path] = (int(info["size"] or 0), _changed(info))
    return launches


def _changed(info: Mapping[str, Any]) -> float:
    """When a file was changed; the far future, which is never old, when the storage does not say."""
    for name in ("mtime", "LastModified", "last_modified", "updated", "created"):
        value = info.get(name)
        if isinstance(value, datetime.datetime):
            return (value if value.tzinfo else value.replace(tzinfo=datetime.timezone.utc)).timestamp()
        if isinstance(value, (int, float)):
            return float(value)
    return float("inf")
