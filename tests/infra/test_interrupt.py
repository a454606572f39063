"""Ctrl-C: one line, the standing site as it was, and nothing left running."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import threading
from pathlib import Path

import networkx
import pytest


def group_members(group: int) -> list[str]:
    """What still runs of a process group."""
    listed = subprocess.run(["ps", "-eo", "pgid=,stat=,args="], capture_output=True, text=True, check=True)
    fields = [line.split(None, 2) for line in listed.stdout.splitlines()]
    return [args for pgid, stat, args in fields if int(pgid) == group and not stat.startswith("Z")]


def heed_interrupts() -> None:
    """Whoever runs the tests in the background of a shell hands on that interrupts are ignored."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


@pytest.mark.skipif(not shutil.which("ps"), reason="ps is not installed")
@pytest.mark.parametrize(
    ("flags", "begun", "seconds"),
    [
        ((), "Stage chunk begins", 0.1),  # workers are being started
        ((), "Stage chunk begins", 1.0),  # workers are at work
        (("--prefect",), "Beginning flow run", 1.0),
    ],
)
def test_an_interrupt_ends_a_build_at_once(tmp_path, flags, begun, seconds):
    out = tmp_path / "site"
    program = (
        "import sys, flows.build, infra.cli\n"
        "class Told:\n"
        "    def stage(self, name, seconds):\n"
        "        if seconds is None: print(f'Stage {name} begins', file=sys.stderr, flush=True)\n"
        "    def written(self, done, total): ...\n"
        "infra.cli._Terminal = Told\n"
        "sys.exit(infra.cli.main(sys.argv[1:]))"
    )
    source = Path(networkx.__file__).parent
    command = [sys.executable, "-c", program, "build", str(source), "--out", str(out), *flags]
    environment = os.environ | {"PREFECT_HOME": str(tmp_path / "prefect")}
    process = subprocess.Popen(
        command,
        env=environment,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        preexec_fn=heed_interrupts,
    )
    assert process.stderr is not None
    printed = ""
    for line in process.stderr:
        printed += line
        if begun in line:
            break
    # A terminal's interrupt reaches the whole group.
    threading.Timer(seconds, os.killpg, (process.pid, signal.SIGINT)).start()
    _, rest = process.communicate(timeout=60)
    assert process.returncode == 130, printed + rest
    assert "docmill: interrupted; the standing site is as it was" in rest
    assert "Traceback" not in rest, rest
    assert not out.exists()
    for _ in range(50):
        if not group_members(process.pid):
            break
        threading.Event().wait(0.2)
    assert not group_members(process.pid)
