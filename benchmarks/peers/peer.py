"""What the peers of benchmarks/engine.py share: prompts in, one line of figures out."""

import json
import sys
from collections.abc import Callable
from pathlib import Path

SEPARATOR = "<|summary|>"
WARM_UP = 128  # requests


def main(export: Callable[[Path], None], run: Callable[[Path, list[str], int, int], dict]) -> None:
    """Do what the command line says: export a model, or measure and print one line of JSON."""
    action, folder, *rest = sys.argv[1:]
    if action == "export":
        export(Path(folder))
        return
    file, new, share, sample = rest
    prompts = json.loads(Path(file).read_text())[:: int(share)]
    found = run(Path(folder), prompts, int(new), int(sample))
    lines = Path("/proc/self/status").read_text().splitlines()
    peak = int(next(line for line in lines if line.startswith("VmHWM")).split()[1]) * 1024
    print(json.dumps(found | {"requests": len(prompts), "peak_mb": round(peak / 1e6)}))
