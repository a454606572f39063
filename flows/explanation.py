"""What a build made anew and why, as the Markdown artifact of its flow run."""

from __future__ import annotations

from collections import Counter

from flows.report import Report
from tasks.plan import Change

_LISTED = 40


def explanation(report: Report, changes: list[Change], url: str | None = None) -> str:
    """The artifact's text: figures, reasons, and the first of the changes by name; with a link to `url`."""
    slots, pages = report.slots, report.pages
    target = report.published["target"] if report.published else "nowhere"
    where = f"[{url}]({url}), in `{_code(target)}`" if url else f"`{_code(target)}`"
    lines = [
        f"**{report.symbols:,} symbols**, {pages['total']:,} pages, {pages['written']:,} written, "
        f"{pages['removed']:,} removed → {where}",
        "",
        "| texts | human | derived | model | empty | too unsure to show | sentences dropped |",
        "|---|---|---|---|---|---|---|",
        f"| | {slots['human']:,} | {slots['derived']:,} | {slots['model']:,} "
        f"| {slots['empty']:,} | {slots['unsure']:,} | {slots['dropped']:,} |",
        "",
        *_drift(report),
        f"{report.generated:,} symbols written by the model, {report.reused:,} answered from the cache.",
        "",
        *_judged(report),
        *_reasons(changes),
        *_skipped(report),
    ]
    return "\n".join(lines)


def failure(report: Report) -> str:
    """The artifact's text where nothing was published: why, and what was found by then."""
    lines = [
        f"**Nothing was published**: `{_code(report.error or '')}`",
        "",
        *_judged(report),
        *_skipped(report),
    ]
    return "\n".join(lines)


def _skipped(report: Report) -> list[str]:
    return [
        f"- skipped `{_code(f.path)}`: {f.reason}, {_code(f.detail)}" for f in report.skipped_files[:_LISTED]
    ]


def _drift(report: Report) -> list[str]:
    if not report.drift:
        return []
    changes = ", ".join(f"{name} {by:+,}" for name, by in report.drift.items())
    worse = " **It got worse**: a smaller share has a text, or a human's." if report.got_worse else ""
    return [f"Since the last site: {changes}.{worse}", ""]


def _judged(report: Report) -> list[str]:
    """What the gate found, and the first findings by name."""
    if report.gate is None:
        return []
    gate = report.gate
    lines = [
        f"{gate['pages']:,} pages held against the code: {gate['blocking']:,} findings that block, "
        f"{gate['warnings']:,} warnings, {gate['waived']:,} waived.",
        "",
    ]
    found = [f for f in report.findings if f["outcome"] != "waived"]
    lines += [f"- {f['rule']}: `{_code(f['where'])}` `{_code(f['message'])}`" for f in found[:_LISTED]]
    return [*lines, ""] if found else lines


def _reasons(changes: list[Change]) -> list[str]:
    if not changes:
        return ["Nothing changed: every stage was answered from the cache, or led to the same pages.", ""]
    counts = Counter((change.what, change.reason) for change in changes)
    lines = ["| made anew | because of | how many |", "|---|---|---|"]
    lines += [f"| {what} | {reason} | {count:,} |" for (what, reason), count in sorted(counts.items())]
    lines += ["", *(f"- {c.what}, {c.reason}: `{_code(c.id)}`" for c in changes[:_LISTED])]
    if len(changes) > _LISTED:
        lines.append(f"- and {len(changes) - _LISTED:,} more")
    return [*lines, ""]


def _code(text: str) -> str:
    """Text of a repository inside backticks: it cannot close them."""
    return text.replace("`", "'").replace("\n", " ").replace("|", "\\|")
