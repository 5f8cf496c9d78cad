"""File systems behind URLs: one kind of error, and no remembered listings."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import fsspec
import pytest
from fsspec.spec import AbstractBufferedFile, AbstractFileSystem

from funcpipe_prefect.storage import filesystem, open_file


class ClientError(Exception):
    """What a driver's library raises."""


class Broken(AbstractFileSystem):  # type: ignore[misc]
    """A remote storage that goes away when `is_away` is set."""

    protocol = "broken"
    is_away = False

    def info(self, path: str, **_: Any) -> dict[str, Any]:
        self._ask()
        return {"name": path, "size": 60_000_000, "type": "file"}

    def _open(self, path: str, mode: str = "rb", block_size: int = 100_000, **_: Any) -> Any:
        return File(self, path, mode, block_size=block_size, size=60_000_000)

    def _ask(self) -> None:
        if Broken.is_away:
            raise ClientError("nobody answers")


class File(AbstractBufferedFile):  # type: ignore[misc]
    """One of its files."""

    def _fetch_range(self, start: int, end: int) -> bytes:
        self.fs._ask()
        return b"x" * (end - start)

    def _initiate_upload(self) -> None:
        self.fs._ask()

    def _upload_chunk(self, final: bool = False) -> bool:
        self.fs._ask()
        return True


@pytest.fixture
def broken(monkeypatch: pytest.MonkeyPatch) -> type[Broken]:
    fsspec.register_implementation("broken", Broken, clobber=True)
    monkeypatch.setattr(Broken, "is_away", False)
    return Broken


def test_errors_of_a_driver_are_those_of_files(broken: type[Broken]) -> None:
    fs, path = filesystem("broken://place/file")
    assert fs.size(path) == 60_000_000
    broken.is_away = True
    with pytest.raises(OSError, match="ClientError: nobody answers"):
        fs.size(path)


def test_a_file_that_goes_away_while_it_is_read_or_written_is_one_too(broken: type[Broken]) -> None:
    with open_file("broken://place/file") as file:
        assert len(file.readline(7)) == 7
        broken.is_away = True
        with pytest.raises(OSError, match="ClientError: nobody answers"):
            file.read()
    broken.is_away = False
    fs, path = filesystem("broken://place/file")
    file = fs.open(path, "wb")
    file.write(b"x" * 10)
    broken.is_away = True
    with pytest.raises(OSError, match="ClientError: nobody answers"):
        file.close()


def test_a_remote_file_reads_lines_up_to_a_length(broken: type[Broken]) -> None:
    with open_file("broken://place/file") as file:
        assert isinstance(file, io.BufferedReader)


@pytest.mark.parametrize("url", ["{}/a.txt", "file://{}/a.txt", "simplecache::file://{}/a.txt"])
def test_local_files_are_read_by_any_name(tmp_path: Path, url: str) -> None:
    (tmp_path / "a.txt").write_text("x")
    with open_file(url.format(tmp_path)) as file:
        assert file.read() == b"x"


def test_an_unknown_protocol_is_told() -> None:
    with pytest.raises(ValueError, match="nowhere"):
        filesystem("nowhere://x")
