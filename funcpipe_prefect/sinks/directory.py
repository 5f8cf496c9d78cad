"""A folder with a manifest: parts are staged out of sight, then published at once.

    out/chunks/_manifest.json           what readers see: the parts, in order
    out/chunks/part-….jsonl             published parts
    out/chunks/_staging/part-….jsonl    written, not yet published

A part's name holds a hash of its bytes, so a part never changes: a reader with the old manifest
finds the old parts until the commit has replaced it. The commit moves the staged parts into
place, renames the new manifest over the old one, then removes what the new one does not name.
Nothing in a manifest depends on the clock, so equal input gives equal bytes.
"""

from __future__ import annotations

import hashlib
import io
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import IO, Any, cast

import msgspec
from fsspec.implementations.local import LocalFileSystem

from funcpipe_prefect.errors import SinkError
from funcpipe_prefect.fingerprint import key_of
from funcpipe_prefect.ir import Commit, Part, Split
from funcpipe_prefect.monoid import Digest, digest_text, digest_total, fold
from funcpipe_prefect.running import temporary_name
from funcpipe_prefect.storage import filesystem

__all__ = ["Directory", "Manifest", "slug"]

MANIFEST = "_manifest.json"
STAGING = "_staging"
_BLOCK_BYTES = 1 << 20
FORMAT = "funcpipe/1"
_PART = re.compile(r"part-.*-[0-9a-f]{8}-[0-9a-f]{16}\.[a-z]+")
"""Our own parts, the only files that a commit may remove: others write `part-…` files too."""


class Manifest(msgspec.Struct, frozen=True):
    """The published state of an output folder."""

    format: str = FORMAT
    records: int = 0
    digest: str = digest_text((0, 0))
    parts: list[Commit] = []  # noqa: RUF012  (a Struct copies mutable defaults)


@dataclass(frozen=True)
class Directory:
    """The write-then-commit protocol over a folder at any fsspec URL.

    Attributes:
        url: The folder.
        suffix: Ending of part names.
    """

    url: str
    suffix: str

    @cached_property
    def _place(self) -> tuple[Any, str]:
        try:
            fs, root = filesystem(self.url)
        except (ValueError, ImportError) as error:
            raise SinkError(f"{self.url} is no place to write to: {error}") from error
        return fs, root.rstrip("/")

    @contextmanager
    def staged(self, split: Split) -> Iterator[StagedFile]:
        """Open a part of a split for writing; it is staged when the block ends without error.

        Yields:
            The file; its `part` is set after the block, by the caller's `records`.
        """
        fs, root = self._place
        temporary = f"{root}/{STAGING}/{temporary_name()}"
        self._refuse_link(f"{root}/{STAGING}")
        try:
            fs.makedirs(f"{root}/{STAGING}", exist_ok=True)
            with fs.open(temporary, "wb") as raw:
                hashed = _Hashed(raw)
                staged = StagedFile(cast(IO[bytes], hashed))
                yield staged
            staged.part = self._settle(temporary, split, staged.records, hashed)
        except OSError as error:
            raise SinkError(f"cannot write to {self.url}: {error}") from error
        finally:
            with suppress(OSError):
                if fs.exists(temporary):
                    fs.rm_file(temporary)

    def _refuse_link(self, path: str) -> None:
        """Write to no place that a link leads to: what is staged there would be removed there, too."""
        fs, _ = self._place
        if isinstance(fs, LocalFileSystem) and Path(path).is_symlink():
            raise SinkError(f"{path} is a symbolic link, and would lead out of {self.url}: remove it")

    def _settle(self, temporary: str, split: Split, records: int, written: _Hashed) -> Part:
        fs, root = self._place
        if records == 0:
            return Part()
        sha256, size = written.sha256.hexdigest(), written.size
        name = f"part-{slug(split.name)}-{key_of(split.location, split.name)[:8]}-{sha256[:16]}{self.suffix}"
        fs.mv(temporary, f"{root}/{STAGING}/{name}")
        return Part(name, records, size, sha256)

    def manifest(self) -> Manifest:
        """Read what is published; an empty manifest when nothing is.

        Raises:
            SinkError: FP408, the manifest is damaged.
        """
        fs, root = self._place
        try:
            manifest = msgspec.json.decode(fs.cat_file(f"{root}/{MANIFEST}"), type=Manifest)
            if manifest != _manifest_of(manifest.parts):
                raise ValueError("its totals are not those of its parts")
        except FileNotFoundError:
            return Manifest()
        except OSError as error:
            raise SinkError(f"{self.url}/{MANIFEST} cannot be read: {error}") from error
        except ValueError as error:  # msgspec's errors are ValueErrors
            raise SinkError(
                f"{self.url}/{MANIFEST} is damaged ({error}); remove it to publish anew"
            ) from error
        return manifest

    def version(self) -> str:
        """Name what is published: the beginning of the manifest's hash."""
        fs, root = self._place
        digest = hashlib.sha256()
        try:
            with fs.open(f"{root}/{MANIFEST}", "rb") as file:
                while block := file.read(_BLOCK_BYTES):
                    digest.update(block)
        except FileNotFoundError:
            return ""
        return digest.hexdigest()[:12]

    def published(self) -> Mapping[str, Commit]:
        """The entries whose parts are there with their full size, by stage key."""
        fs, root = self._place
        entries = self.manifest().parts
        if not entries:
            return {}
        sizes = {
            info["name"].rpartition("/")[2]: info["size"] for info in fs.ls(root, detail=True, refresh=True)
        }
        return {
            entry.key: entry
            for entry in entries
            if not entry.part.file or sizes.get(entry.part.file) == entry.part.size
        }

    def lines(self, entries: Sequence[Commit] | None = None) -> Iterator[bytes]:
        """Read the lines of parts that are published, or staged, in order.

        Args:
            entries: Of the parts; all that are published when absent.

        Raises:
            SinkError: FP408, the manifest is damaged, or a part is missing.
        """
        fs, root = self._place
        for entry in self.manifest().parts if entries is None else entries:
            if entry.part.file:
                if "/" in entry.part.file:
                    raise SinkError(
                        f"{self.url}/{MANIFEST} names a part outside of its folder: {entry.part.file}"
                    )
                path = f"{root}/{entry.part.file}"
                try:
                    if entries is not None and not fs.exists(path):
                        path = f"{root}/{STAGING}/{entry.part.file}"
                    with fs.open(path, "rb") as file:
                        yield from file
                except OSError as error:
                    raise SinkError(f"{self.url}/{entry.part.file} cannot be read: {error}") from error

    def has(self, part: Part) -> bool:
        """Tell whether a part is staged or published, with its full size; an empty part has no file."""
        if not part.file:
            return True
        fs, root = self._place
        for path in (f"{root}/{STAGING}/{part.file}", f"{root}/{part.file}"):
            if fs.exists(path) and fs.size(path) == part.size:
                return True
        return False

    def tidy(self) -> None:
        """Remove what is staged and waits for no commit.

        Raises:
            SinkError: FP408, it cannot be removed.
        """
        fs, root = self._place
        try:
            if fs.exists(f"{root}/{STAGING}"):
                fs.rm(f"{root}/{STAGING}", recursive=True)
        except OSError as error:
            raise SinkError(f"cannot write to {self.url}: {error}") from error

    def sweep(self, token: str) -> None:
        """Remove the temporary files of a run whose processes have ended."""
        fs, root = self._place
        with suppress(OSError):
            for path in fs.glob(f"{root}/{STAGING}/{token}-*.tmp"):
                fs.rm_file(path)

    def commit(self, entries: Sequence[Commit]) -> None:
        """Publish exactly these parts; nothing is written when that is the published state.

        Raises:
            SinkError: FP408, a part is neither staged nor published.
        """
        fs, root = self._place
        data = msgspec.json.format(msgspec.json.encode(_manifest_of(entries)), indent=1) + b"\n"
        try:
            fs.makedirs(root, exist_ok=True)
            self._publish(fs, root, entries, data)
        except OSError as error:
            raise SinkError(f"cannot publish {self.url}: {error}") from error

    def _publish(self, fs: Any, root: str, entries: Sequence[Commit], data: bytes) -> None:
        self._refuse_link(f"{root}/{STAGING}")
        wrong = [entry.part.file for entry in entries if "/" in entry.part.file or "\\" in entry.part.file]
        if wrong:
            raise SinkError(f"a part of {self.url} is named {wrong[0]}, which leads out of it")
        present = {
            info["name"].rpartition("/")[2]: info["size"] for info in fs.ls(root, detail=True, refresh=True)
        }
        named = {entry.part.file: entry.part for entry in entries if entry.part.file}
        for name, part in named.items():
            if present.get(name) != part.size:
                self._promote(fs, root, part)
        if not self._has_manifest(data):
            temporary = f"{root}/{STAGING}/{temporary_name()}"
            fs.makedirs(f"{root}/{STAGING}", exist_ok=True)
            fs.pipe_file(temporary, data)
            fs.mv(temporary, f"{root}/{MANIFEST}")
        for name in present:
            if _PART.fullmatch(name) and name not in named:
                fs.rm_file(f"{root}/{name}")
        if fs.exists(f"{root}/{STAGING}"):
            fs.rm(f"{root}/{STAGING}", recursive=True)

    def _has_manifest(self, data: bytes) -> bool:
        fs, root = self._place
        try:
            return bool(fs.cat_file(f"{root}/{MANIFEST}") == data)
        except FileNotFoundError:
            return False

    def _promote(self, fs: Any, root: str, part: Part) -> None:
        staged = f"{root}/{STAGING}/{part.file}"
        if not fs.exists(staged):
            raise SinkError(
                f"{part.file} is neither staged nor published below {self.url}: was another run here?"
            )
        fs.mv(staged, f"{root}/{part.file}")


class _Hashed(io.RawIOBase):
    """A file that is written from its beginning to its end, and hashed on the way."""

    def __init__(self, raw: IO[bytes]) -> None:
        self._raw, self.sha256, self.size = raw, hashlib.sha256(), 0

    def writable(self) -> bool:
        """Tell that it is for writing."""
        return True

    def write(self, data: Any) -> int:
        """Write and hash bytes."""
        self.sha256.update(data)
        self._raw.write(data)
        size = len(memoryview(data).cast("B")) if not isinstance(data, bytes) else len(data)
        self.size += size
        return size

    def tell(self) -> int:
        """Give how many bytes are written."""
        return self.size


@dataclass
class StagedFile:
    """A part while it is written: write to `raw`, count in `records`."""

    raw: IO[bytes]
    records: int = 0
    part: Part = Part()


def _manifest_of(entries: Sequence[Commit]) -> Manifest:
    digests = (digest_total(entry.digest) for entry in entries if entry.digest)
    return Manifest(
        records=sum(entry.part.records for entry in entries),
        digest=digest_text(fold(Digest(), digests)),
        parts=list(entries),
    )


def slug(name: str) -> str:
    """Give the part of a file name that tells people what it is of."""
    return re.sub(r"[^A-Za-z0-9.]+", "-", name).strip("-.")[:80]
