"""What is staged appears whole; what a killed process staged is removed, and no other."""

import subprocess
import sys

import pytest

from models.staging import appearing, discard

_WRITES = """
import sys
from pathlib import Path
from models.staging import appearing

with appearing(Path(sys.argv[1])) as staged:
    staged.mkdir()
    (staged / "half").write_text("written")
    print("staged", flush=True)
    sys.stdin.readline()
"""


@pytest.fixture
def writer(tmp_path):
    """A process that is in the middle of writing."""
    command = [sys.executable, "-c", _WRITES, str(tmp_path / "a[1]")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "staged\n"
        yield process
        process.kill()


@pytest.mark.parametrize("begin", ["write", "discard"])
def test_what_a_killed_process_left_is_removed(tmp_path, writer, begin):
    writer.kill()
    writer.wait()
    assert len(list(tmp_path.iterdir())) == 1
    mine = tmp_path / ".a[1]-backup"
    mine.mkdir()
    if begin == "write":
        with appearing(tmp_path / "a[1]") as staged:
            staged.write_text("whole")
        assert (tmp_path / "a[1]").read_text() == "whole"
    else:
        discard(tmp_path / "a[1]")
    assert {path.name for path in tmp_path.iterdir()} == {mine.name} | (
        {"a[1]"} if begin == "write" else set()
    )


def test_what_another_process_is_writing_is_left_to_it(tmp_path, writer):
    discard(tmp_path / "a[1]")
    writer.communicate("go on\n")
    assert writer.returncode == 0
    assert [path.name for path in tmp_path.iterdir()] == ["a[1]"]
    assert (tmp_path / "a[1]" / "half").read_text() == "written"


def test_a_failure_leaves_nothing(tmp_path):
    with pytest.raises(ValueError, match="halfway"), appearing(tmp_path / "a") as staged:
        staged.write_text("half")
        raise ValueError("halfway")
    assert list(tmp_path.iterdir()) == []
