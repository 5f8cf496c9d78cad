"""Fetches the engines that the tests of Beam's runners can use: `make engines`.

Prism is built by Go, Flink's job server comes from Maven; both go where Beam itself looks for them.
What cannot be had is said, here and by the test that is skipped.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path

CACHE = Path.home() / ".apache_beam" / "cache"
BEAM = version("apache-beam")


@dataclass(frozen=True)
class Engine:
    """Something that a package client fetches.

    Attributes:
        name: For people.
        path: Where it is, once it is fetched.
        command: Fetches it.
        environment: Of the command.
    """

    name: str
    path: Path
    command: tuple[str, ...]
    environment: Mapping[str, str] = field(default_factory=dict)

    @property
    def reason(self) -> Path:
        """Says why the engine could not be had."""
        return self.path.with_name(f"{self.path.name}.not")

    def why_not(self) -> str:
        """Say why the engine is not there; empty when it is."""
        if self.path.exists():
            return ""
        said = self.reason.read_text() if self.reason.exists() else "`make engines` was not run"
        return f"{self.name} is not at {self.path}: {said}"

    def fetch(self, timeout_s: float = 900) -> None:
        """Fetch it, or keep the reason why not."""
        if self.path.exists():
            return
        self.path.parent.mkdir(parents=True, exist_ok=True)
        said = f"{self.command[0]} is not installed"
        if shutil.which(self.command[0]):
            try:
                done = subprocess.run(
                    self.command, capture_output=True, text=True, timeout=timeout_s,
                    env={**os.environ, **self.environment},
                )  # fmt: skip
                lines = (done.stdout + done.stderr).splitlines()
                said = next((line for line in lines if "ERROR" in line), " ".join(lines[-3:]))
            except subprocess.TimeoutExpired:
                said = f"{self.command[0]} took longer than {timeout_s:.0f} s"
        if not self.path.exists():
            self.reason.write_text(said.strip()[:500])


_BIN = CACHE / "prism" / "bin"
_JOB_SERVER = "beam-runners-flink-1.20-job-server"

PRISM = Engine(
    f"Prism {BEAM}",
    _BIN / "prism",
    ("go", "install", f"github.com/apache/beam/sdks/v2/go/cmd/prism@v{BEAM}"),
    {"GOBIN": str(_BIN)},
)
FLINK = Engine(
    f"the job server of Beam's Flink runner {BEAM}",
    CACHE / "jars" / f"{_JOB_SERVER}-{BEAM}.jar",
    (
        "mvn", "-q", "-B", "-Dstyle.color=never", "org.apache.maven.plugins:maven-dependency-plugin:3.6.1:copy",
        f"-Dartifact=org.apache.beam:{_JOB_SERVER}:{BEAM}", f"-DoutputDirectory={CACHE / 'jars'}",
    ),
)  # fmt: skip

if __name__ == "__main__":
    for engine in (PRISM, FLINK):
        engine.fetch()
        print(engine.why_not() or f"{engine.name} is at {engine.path}")
