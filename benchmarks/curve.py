"""Rows per batch against speed and delay, as `docmill model tune` measured them: a figure for the docs.

    python benchmarks/curve.py [--model M] [--seconds N] [--rounds N]

Tunes the model on this machine, some times in a cache of its own, draws docs/images/rows.svg, and keeps its
points in benchmarks/results.
"""

from __future__ import annotations

import argparse
import os
import shutil
import statistics
import tempfile
from dataclasses import replace
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

from engine import keep, machine

if TYPE_CHECKING:
    from models.tuning import Speed

FIGURE = Path(__file__).resolve().parents[1] / "docs" / "images" / "rows.svg"
WIDTH, HEIGHT, MARGIN = 640, 320, 56
INK, RATE, DELAY = "#57606a", "#0969da", "#bc4c00"


def measured(model: str, seconds: float, rounds: int) -> list[tuple[int, float, float]]:
    """Rows, texts a second and milliseconds a token, by rows: medians of trials that differ in rows alone."""
    found: dict[int, list[Speed]] = {}
    with tempfile.TemporaryDirectory() as cache:
        os.environ["XDG_CACHE_HOME"] = cache
        from flows.settings import cache_home
        from flows.tune_model import tune_model
        from models.batching import BucketPolicy

        for _ in range(rounds):
            shutil.rmtree(cache_home() / "tuned", ignore_errors=True)  # or else it would decide what is tried
            tuning = tune_model(model, "auto", "auto", None, seconds, print)
            default = BucketPolicy.for_packing() if tuning.compiled else BucketPolicy()
            for trial in tuning.trials:
                rows = trial.policy.decode_rows
                alike = trial.compiled == tuning.compiled and trial.policy == replace(
                    default, decode_rows=rows
                )
                if alike and trial.speed:
                    found.setdefault(rows, []).append(trial.speed)
    return [(rows, *medians(found[rows])) for rows in sorted(found)]


def medians(speeds: list[Speed]) -> tuple[float, float]:
    """Texts a second and milliseconds a token."""
    rate = statistics.median(speed.requests_per_second for speed in speeds)
    return rate, 1000 * statistics.median(speed.step_seconds for speed in speeds)


def drawn(points: list[tuple[int, float, float]], caption: str) -> str:
    """The figure: rows on equal steps, texts a second on the left, milliseconds a token on the right."""
    most, longest = max(p[1] for p in points) * 1.1, max(p[2] for p in points) * 1.5
    bottom, inner = HEIGHT - MARGIN, WIDTH - 2 * MARGIN
    across = [MARGIN + inner * i / (len(points) - 1) for i in range(len(points))]

    def height(value: float, top: float) -> float:
        return bottom - (bottom - MARGIN) * value / top

    def text(x: float, y: float, said: str, colour: str = INK, anchor: str = "middle") -> str:
        return f'<text x="{x:.0f}" y="{y:.0f}" fill="{colour}" text-anchor="{anchor}">{escape(said)}</text>'

    def line(values: list[float], top: float, colour: str) -> str:
        places = [(x, height(value, top)) for x, value in zip(across, values, strict=True)]
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in places)
        dots = "".join(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3.5" fill="{colour}"/>' for x, y in places)
        return f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="2"/>{dots}'

    def labels(x: float, rate: float, delay: float) -> list[str]:
        """The figures of two points, that of the upper one above it, that of the lower one below."""
        at = height(rate, most), height(delay, longest)
        away = (-10, 20) if at[0] <= at[1] else (20, -10)
        return [
            text(x, at[0] + away[0], f"{rate:.0f}", RATE),
            text(x, at[1] + away[1], f"{delay:.1f}", DELAY),
        ]

    rates, delays = [p[1] for p in points], [p[2] for p in points]
    parts = [
        f'<path d="M{MARGIN} {bottom}H{WIDTH - MARGIN}" stroke="{INK}"/>',
        line(rates, most, RATE),
        line(delays, longest, DELAY),
        *(text(x, bottom + 20, str(p[0])) for x, p in zip(across, points, strict=True)),
        *(label for x, point in zip(across, points, strict=True) for label in labels(x, *point[1:])),
        text(MARGIN, 24, "texts a second", RATE, "start"),
        text(WIDTH - MARGIN, 24, "milliseconds a token", DELAY, "end"),
        text(WIDTH / 2, HEIGHT - 12, caption),
    ]
    style = 'font-family="system-ui, sans-serif" font-size="13"'
    head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" {style}>'
    background = f'<rect width="{WIDTH}" height="{HEIGHT}" fill="#ffffff"/>'
    return "\n".join([head, f"<title>{escape(caption)}</title>", background, *parts, "</svg>", ""])


def main() -> None:
    """Parse, measure, draw."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="bundled")
    parser.add_argument("--seconds", type=float, default=600)
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    points = measured(arguments.model, arguments.seconds, arguments.rounds)
    FIGURE.write_text(drawn(points, f"rows decoded at once, {arguments.model} model, {machine('cpu')}"))
    figures: dict[str, Any] = {
        str(rows): {"texts_per_s": round(rate, 1), "ms_a_token": round(ms, 3)} for rows, rate, ms in points
    }
    found = {"machine": machine("cpu"), arguments.model: {"rounds": arguments.rounds} | figures}
    keep("rows", found)
    print(points)


if __name__ == "__main__":
    main()
