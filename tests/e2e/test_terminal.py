"""What a person sees at a terminal: bars while a run works, and a clean end by Ctrl-C. A pseudo-terminal stands for it."""

from __future__ import annotations

import json
import os
import pty
import re
import select
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

from tests.conftest import ROOT
from tests.contract.test_backends import spec


@pytest.fixture
def project(tmp_path: Path) -> Path:
    rows = ({"id": number, "text": f"some words of {number}"} for number in range(600))
    (tmp_path / "in.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    mapping = spec(tmp_path, materialization_points=["tidy"])
    mapping["source"]["splits"] = 6
    mapping["operators"].insert(
        1, {"type": "Map", "name": "slow", "func": "slowly", "params": {"seconds": 0.004}}
    )
    (tmp_path / "p.yaml").write_text(yaml.safe_dump(mapping))
    return tmp_path


def at_a_terminal(folder: Path, *words: str, interrupt_at: str = "") -> tuple[int, str]:
    """Run the command with a terminal; press Ctrl-C when a text is seen. Gives exit code and all that was shown."""
    own, its = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-c", "from funcpipe_prefect.cli import main; main()", *words],
        cwd=folder, stdin=its, stdout=its, stderr=its, start_new_session=True,
        env={**os.environ, "PYTHONPATH": str(ROOT), "TERM": "xterm-256color", "COLUMNS": "160", "NO_COLOR": "1"},
    )  # fmt: skip
    os.close(its)
    seen, end = b"", time.monotonic() + 120
    try:
        while time.monotonic() < end:
            if select.select([own], [], [], 0.2)[0]:
                try:
                    data = os.read(own, 65536)
                except OSError:
                    break
                if not data:
                    break
                seen += data
            elif process.poll() is not None:
                break
            if interrupt_at and re.search(interrupt_at.encode(), seen):
                process.send_signal(signal.SIGINT)
                interrupt_at = ""
        return process.wait(30), seen.decode(errors="replace")
    finally:
        process.kill()
        os.close(own)


def test_a_bar_tells_rate_cached_splits_and_the_time_left(project: Path) -> None:
    code, seen = at_a_terminal(project, "run", "p.yaml")
    assert code == 0, seen
    assert re.search(r"slow\+words\+score\+write .* 6/6", seen)
    assert re.search(r"600 records \([\d,]+/s\)", seen)
    assert re.search(r"0:00:\d\d 0:00:\d\d", seen), "time spent, and time left"
    mapping = yaml.safe_load((project / "p.yaml").read_text())
    mapping["operators"][3]["max_batch_size"] = 9
    (project / "p.yaml").write_text(yaml.safe_dump(mapping))
    code, seen = at_a_terminal(project, "run", "p.yaml")
    assert code == 0
    assert "6 cached" in seen


def test_ctrl_c_ends_a_run_and_publishes_nothing(project: Path) -> None:
    begun = time.monotonic()
    code, seen = at_a_terminal(project, "run", "p.yaml", interrupt_at=r"[1-4]/6")
    assert code == 130
    assert "interrupted; nothing was published" in seen
    assert time.monotonic() - begun < 60
    assert not (project / "out" / "_manifest.json").exists()
    code, seen = at_a_terminal(project, "run", "p.yaml")
    assert code == 0
    assert (project / "out" / "_manifest.json").exists()


def test_without_a_terminal_nothing_but_the_summary_is_shown(project: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", "from funcpipe_prefect.cli import main; main()", "run", "p.yaml"],
        cwd=project, env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True, stdin=subprocess.DEVNULL,
    )  # fmt: skip
    assert done.returncode == 0
    assert done.stdout == ""
    assert "records (" not in done.stderr
    assert done.stderr.startswith("operator")
