"""Real servers for tests, each a process of its own that ends with the session."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.conftest import ending, free_port

_UNPRIVILEGED = 65534


def postgres_program(name: str) -> str | None:
    """Find a program of PostgreSQL: on the path, or where Debian puts it."""
    found = sorted(Path("/usr/lib/postgresql").glob(f"*/bin/{name}"), key=lambda path: int(path.parts[-3]))
    return str(found[-1]) if found else shutil.which(name)


@contextmanager
def postgres() -> Iterator[str]:
    """Start a PostgreSQL server on a free port of this machine; gives the URL of an empty database."""
    initdb, server = postgres_program("initdb"), postgres_program("postgres")
    if initdb is None or server is None:
        pytest.skip("no PostgreSQL server is installed (apt-get install postgresql)")
    user = _UNPRIVILEGED if os.getuid() == 0 else None  # it refuses to run as root
    with tempfile.TemporaryDirectory(prefix="funcpipe-pg-") as root:
        folder = Path(root)
        if user is not None:
            folder.chmod(0o711)
            (folder / "data").mkdir()
            os.chown(folder / "data", user, user)
        env = {**os.environ, "LC_ALL": "C.UTF-8", "HOME": root}
        subprocess.run(
            [initdb, "-D", f"{root}/data", "-U", "postgres", "--auth=trust", "--no-sync", "-E", "UTF8"],
            check=True, user=user, group=user, extra_groups=[] if user else None, env=env,
            capture_output=True, cwd=root,
        )  # fmt: skip
        port = free_port()
        command = [server, "-D", f"{root}/data", "-p", str(port), "-c", "fsync=off", "-c", "unix_socket_directories=",
                   "-c", "listen_addresses=127.0.0.1", "-c", "shared_buffers=32MB"]  # fmt: skip
        with (folder / "log").open("wb") as log:
            process = subprocess.Popen(
                command, user=user, group=user, extra_groups=[] if user else None, env=env,
                stdout=log, stderr=log, cwd=root,
            )  # fmt: skip
        with ending(process):
            url = f"postgresql+psycopg://postgres@127.0.0.1:{port}/postgres"
            _until("PostgreSQL answers", lambda: _answers(url), process, folder / "log")
            yield url


def _answers(url: str) -> bool:
    import sqlalchemy as sa

    try:
        with sa.create_engine(url).connect():
            return True
    except sa.exc.OperationalError:
        return False


@contextmanager
def s3() -> Iterator[str]:
    """Start a server of the S3 protocol on a free port; gives its endpoint."""
    import urllib.request

    port = free_port()
    with tempfile.TemporaryDirectory(prefix="funcpipe-s3-") as root:
        log = Path(root, "log")
        with log.open("wb") as file:
            command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
            process = subprocess.Popen(command, stdout=file, stderr=file, cwd=root)

        def answers() -> bool:
            try:
                with urllib.request.urlopen(f"http://127.0.0.1:{port}/moto-api/"):
                    return True
            except OSError:
                return False

        with ending(process):
            _until("the S3 server answers", answers, process, log)
            yield f"http://127.0.0.1:{port}"


def _until(what: str, holds: Callable[[], bool], process: subprocess.Popen[bytes], log: Path) -> None:
    end = time.monotonic() + 60
    while not holds():
        if process.poll() is not None or time.monotonic() > end:
            raise AssertionError(f"{what}: not within a minute\n{log.read_text(errors='replace')[-2000:]}")
        time.sleep(0.1)
