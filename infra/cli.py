"""The command line: parse, build settings, call a flow. Nothing is decided here."""

from __future__ import annotations

import argparse
import contextlib
import gc
import os
import re
import signal
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

if TYPE_CHECKING:
    from flows.evaluate_model import Measured
    from flows.report import Report
    from flows.settings import Service, Settings
    from models.batching import BucketPolicy
    from models.tuning import Trial
    from tasks.generate.cost import Cost
    from tasks.ingest import OpenedSource

_LISTED = 20  # findings; a report has all
_INTERRUPTED = "docmill: interrupted; the standing site is as it was"
_METHODS = ("int8", "int4", "gptq-int8", "gptq-int4")
_PASSWORD, _HIDDEN = r"(://[^:/@]*):[^@]*@", r"\1:***@"  # in an address
_FLAGS = ("out", "model", "quantize", "device", "strict", "budget")
_EPILOG = (
    "exit status: 0 built; 1 failed; 2 unusable arguments or source, nothing touched; "
    "3 published, but the budget left texts unwritten; 130 interrupted"
)


def main(argv: list[str] | None = None) -> int:
    """Run docmill; returns the exit status."""
    gc.set_threshold(100_000, 20, 20)  # a build makes millions of small objects and few cycles
    arguments = _parser().parse_args(argv)
    if arguments.command is None:
        _parser().print_help()
        return 2
    try:
        from tasks.documents import DocmillError
    except ImportError:
        if not (lines := _foreign_imports()):
            raise
        print(*lines, sep="\n", file=sys.stderr)
        return 1

    try:
        return int(arguments.run(arguments))
    except DocmillError as error:
        if arguments.debug:
            raise
        print(f"docmill: {_line(str(error))}", file=sys.stderr)
        return error.exit_status
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # whoever read along has seen enough
        return 0
    except KeyboardInterrupt:
        print(_INTERRUPTED if arguments.run is _build else "docmill: interrupted", file=sys.stderr)
        return 130
    except Exception as error:
        if arguments.debug:
            raise
        if isinstance(error, OSError) and error.filename is not None:
            print(f"docmill: {_line(os.fsdecode(error.filename))}: {_reason(error)}", file=sys.stderr)
            return 1
        what = _line(f"{type(error).__name__}: {error}")
        print(f"docmill: internal error: {what}; run with --debug", file=sys.stderr)
        return 1


def _foreign_imports() -> list[str]:
    """A line for each of docmill's packages in whose place another is imported."""
    from infra.imports import foreign

    return [
        f"docmill: {name} is imported from {_line(str(place))}; rename that, or start docmill elsewhere"
        for name, place in foreign(sys.path)
    ]


def _reason(error: OSError) -> str:
    """Why a file cannot be used; for one of docmill's own, what can be done about it."""
    from flows.settings import cache_home

    if Path(os.fsdecode(error.filename)).is_relative_to(cache_home()):
        return f"{error.strerror}; docmill keeps its cache there, or where XDG_CACHE_HOME says"
    return str(error.strerror)


class _Parser(argparse.ArgumentParser):
    """Says what is wrong with arguments in one line."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"docmill: {_line(message)}; see {self.prog} --help\n")


class _Version(argparse.Action):
    def __call__(self, parser: argparse.ArgumentParser, *_arguments: object) -> None:
        from importlib.metadata import version

        print(f"docmill {version('docmill')}")
        parser.exit()


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="docmill", description="A repository in, a documentation site out.", epilog=_EPILOG)
    parser.add_argument("--version", action=_Version, nargs=0, help="print the version")
    parser.add_argument("--debug", action="store_true", help="show tracebacks")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND")
    build = commands.add_parser("build", help="build and publish the site of a source", epilog=_EPILOG)
    _add_source(build)
    _add_budget(build)
    build.add_argument("--prefect", action="store_true", help="run as a Prefect flow")
    build.add_argument("--report", type=Path, metavar="FILE", help="write a JSON report, also on failure")
    build.set_defaults(run=_build)
    plan = commands.add_parser("plan", help="what a build would make anew, and why")
    _add_source(plan)
    plan.add_argument("--lint", action="store_true", help="list docstrings that contradict their signature")
    plan.add_argument("--baseline", type=Path, metavar="FILE", help="with --lint: less those in this file")
    plan.add_argument(
        "--update-baseline", action="store_true", help="with --baseline: write what there is into the file"
    )
    plan.add_argument("--since", metavar="R", help="with --lint: only what is new since this revision")
    plan.set_defaults(run=_plan, budget=None)
    releases = commands.add_parser("releases", help="the releases of a site that can stand again")
    _add_target(releases)
    releases.set_defaults(run=_releases)
    rollback = commands.add_parser(
        "rollback", help="let an earlier release of a site stand again, until the next build"
    )
    rollback.add_argument(
        "release", nargs="?", type=_given, help="as docmill releases names it (default: the last)"
    )
    _add_target(rollback)
    rollback.set_defaults(run=_rollback)
    overrides = commands.add_parser(
        "overrides", help="check the texts that docmill.overrides.toml decides on; exit 1 if one is in doubt"
    )
    _add_source(overrides)
    overrides.add_argument(
        "--accept", action="store_true", help="write down that all are of the code as it is now"
    )
    overrides.set_defaults(run=_overrides, budget=None)
    model = commands.add_parser("model", help="models").add_subparsers(dest="action", required=True)
    prepare = model.add_parser("prepare", help="quantize a model for builds with --quantize METHOD")
    prepare.add_argument("model", type=_given, help="a folder or a hub id")
    prepare.add_argument("--method", choices=_METHODS, default="int8", help="default: int8")
    prepare.set_defaults(run=_prepare)
    tune = model.add_parser(
        "tune", help="find the fastest way to run a model on this machine, and keep to it"
    )
    tune.add_argument("model", nargs="?", type=_given, help="bundled, a folder or a hub id (default: as set)")
    tune.add_argument("--source", type=Path, metavar="DIR", help="measure with functions like those in here")
    tune.add_argument(
        "--seconds",
        type=_seconds,
        default=300,
        metavar="S",
        help="try nothing else later than this (default: 300); a trial takes 5 to 15, compiling 40 once",
    )
    tune.add_argument("--quantize", type=_given, metavar="METHOD", help="auto, none or a method")
    tune.add_argument("--device", choices=("auto", "cpu", "cuda"), help="where the model runs")
    tune.add_argument("--config", type=Path, metavar="FILE", help="the operator's settings")
    tune.set_defaults(run=_tune)
    evaluate = model.add_parser(
        "eval", help="have a model write what humans wrote in some code, and score the two against each other"
    )
    evaluate.add_argument(
        "model", nargs="?", type=_given, help="bundled, a folder or a hub id (default: as set)"
    )
    evaluate.add_argument("--source", type=Path, metavar="DIR", default=Path(), help="the code (default: .)")
    evaluate.add_argument(
        "--symbols", type=_count, default=500, metavar="N", help="at most so many, at random (default: 500)"
    )
    evaluate.add_argument("--json", type=Path, metavar="FILE", help="write the figures there as well")
    evaluate.add_argument("--quantize", type=_given, metavar="METHOD", help="auto, none or a method")
    evaluate.add_argument("--device", choices=("auto", "cpu", "cuda"), help="where the model runs")
    evaluate.add_argument("--config", type=Path, metavar="FILE", help="the operator's settings")
    evaluate.set_defaults(run=_evaluate)
    up = commands.add_parser(
        "up", help="run as a service on this machine: Prefect server, worker, receiver of webhooks"
    )
    _add_address(up, 4201, "--webhook-port")
    up.add_argument(
        "--port", type=_port, default=4200, metavar="P", help="of the Prefect server (default: 4200)"
    )
    up.set_defaults(run=_up)
    deploy = commands.add_parser(
        "deploy", help="tell the Prefect server that PREFECT_API_URL names of docmill"
    )
    deploy.add_argument("--config", type=Path, metavar="FILE", help="the operator's settings")
    deploy.set_defaults(run=_deploy)
    webhook = commands.add_parser("webhook", help="receive pushes, for a Prefect server that knows docmill")
    _add_address(webhook, 4201, "--port")
    webhook.set_defaults(run=_webhook)
    doctor = commands.add_parser(
        "doctor", help="look at all that docmill needs, and say what to do; exit 1 if something is wrong"
    )
    doctor.add_argument("--config", type=Path, metavar="FILE", help="the operator's settings")
    doctor.set_defaults(run=_doctor)
    config = commands.add_parser("config", help="settings").add_subparsers(dest="action", required=True)
    show = config.add_parser("show", help="print each setting with where it comes from")
    _add_source(show, optional=True)
    _add_budget(show)
    show.set_defaults(run=_show_config)
    return parser


def _add_source(parser: argparse.ArgumentParser, optional: bool = False) -> None:
    parser.add_argument(
        "source",
        nargs="?" if optional else None,
        default="." if optional else None,
        help="folder or git address",
    )
    parser.add_argument("--revision", metavar="R", help="branch, tag or full SHA")
    _add_target(parser)
    parser.add_argument("--model", type=_given, metavar="M", help="bundled, none, a folder or a hub id")
    parser.add_argument("--quantize", type=_given, metavar="METHOD", help="auto, none or a method")
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), help="where the model runs")
    parser.add_argument("--strict", action="store_true", default=None, help="a skipped file fails the build")


def _add_budget(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--budget", metavar="N", help="send the model at most N symbols, 'N tokens' or 'N minutes'"
    )


def _add_target(parser: argparse.ArgumentParser) -> None:
    where = "where the site goes: a folder or s3://bucket/prefix (default: site)"
    parser.add_argument("--out", type=_given, metavar="OUT", help=where)
    parser.add_argument("--config", type=Path, metavar="FILE", help="the operator's settings")
    parser.add_argument("--debug", action="store_true", default=argparse.SUPPRESS, help="show tracebacks")


def _add_address(parser: argparse.ArgumentParser, port: int, option: str) -> None:
    parser.add_argument(
        "--host",
        type=_given,
        default="127.0.0.1",
        metavar="H",
        help="address to listen at (default: 127.0.0.1)",
    )
    parser.add_argument(
        option, type=_port, default=port, metavar="P", help=f"of the receiver of webhooks (default: {port})"
    )
    parser.add_argument("--config", type=Path, metavar="FILE", help="the operator's settings")


def _port(value: str) -> int:
    if value.isdecimal() and 0 < int(value) < 65536:
        return int(value)
    raise argparse.ArgumentTypeError(f"{value} is no port")


def _given(value: str) -> str:
    """A value that a variable of a shell may have left empty."""
    if not value:
        raise argparse.ArgumentTypeError("is empty")
    return value


def _seconds(value: str) -> float:
    """A length of time."""
    with contextlib.suppress(ValueError):
        seconds = float(value)
        if 0 < seconds < float("inf"):
            return seconds
    raise argparse.ArgumentTypeError(f"{value} is no length of time")


def _count(value: str) -> int:
    """A number of things, one at least."""
    if value.isdecimal() and int(value) > 0:
        return int(value)
    raise argparse.ArgumentTypeError(f"{value} is no number of symbols")


def _opened(arguments: argparse.Namespace) -> tuple[OpenedSource, Settings]:
    from flows.settings import cache_home, resolve_settings
    from tasks.ingest import open_source

    source = open_source(arguments.source, arguments.revision, cache_home())
    flags = {name: getattr(arguments, name) for name in _FLAGS}
    return source, resolve_settings(source.root, flags, arguments.config).settings


def _build(arguments: argparse.Namespace) -> int:
    from flows.build import build
    from flows.report import Report
    from tasks.documents import SourceError
    from tasks.ingest.git import shown

    if arguments.report is not None and not arguments.report.parent.is_dir():
        raise SourceError(f"report {str(arguments.report)!r}: no such folder")
    if arguments.report is not None and arguments.report.is_dir():
        raise SourceError(f"report {str(arguments.report)!r}: is a folder; name a file")
    report = Report(source={"location": _line(shown(arguments.source)), "revision": None})
    try:
        if arguments.prefect:
            report = _build_in_prefect(arguments)
        else:
            source, settings = _opened(arguments)
            build(source, settings, report, _Terminal())
    except BaseException as error:
        report.fail(error)
        print(
            _findings(report, "blocking").lstrip("\n"), end="\n" if report.findings else "", file=sys.stderr
        )
        raise
    finally:
        if arguments.report is not None and not arguments.prefect:  # the flow writes its own
            report.write(arguments.report)
    print(_summary(report))
    return 3 if report.degraded else 0


def _build_in_prefect(arguments: argparse.Namespace) -> Report:
    import msgspec

    from flows.build_docs import build_docs
    from flows.report import Report
    from tasks.ingest.git import refuse_secret

    refuse_secret(arguments.source)  # the server would keep it
    given = {name: getattr(arguments, name) for name in (*_FLAGS, "revision", "config")}
    parameters = {name: str(v) if isinstance(v, Path) else v for name, v in given.items() if v is not None}
    parameters.setdefault("out", "")  # as set
    if arguments.report is not None:
        parameters["report_file"] = str(arguments.report.resolve())
    run: Callable[..., Any] = build_docs
    _end_when_interrupted()
    return msgspec.convert(run(source=arguments.source, **parameters), Report)


def _end_when_interrupted() -> None:
    """Let an interrupt end a flow at once that runs on a temporary server.

    That server ends with the same interrupt, and Prefect's client would try for minutes to
    tell it.
    """
    from prefect.server.api.server import SubprocessASGIServer
    from prefect.settings import PREFECT_API_URL

    def end(_signal: int, _frame: object) -> None:
        for server in SubprocessASGIServer._instances.values():
            if server.server_process is not None:
                server.server_process.terminate()
        print(f"\n{_INTERRUPTED}", file=sys.stderr, flush=True)
        os._exit(130)

    if not PREFECT_API_URL.value():
        signal.signal(signal.SIGINT, end)


def _line(text: str) -> str:
    """Text of a repository as one line: what would steer a terminal is shown escaped."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


class _Terminal:
    """Stages and texts on a terminal; a log stays quiet."""

    def __init__(self) -> None:
        self.shown = sys.stderr.isatty()

    def stage(self, name: str, seconds: float | None) -> None:
        self._show(f"  {name:<10}  …" if seconds is None else f"  {name:<10}{seconds:6.1f} s\n")

    def written(self, done: int, total: int) -> None:
        self._show(f"  {'generate':<10}  {done:,} of {total:,} texts")

    def _show(self, line: str) -> None:
        if self.shown:
            print(f"\r\x1b[K{line}", end="", file=sys.stderr, flush=True)


def _summary(report: Report) -> str:
    slots, pages = report.slots, report.pages
    texts = (
        f"{slots['human']} human, {slots['derived']} derived, {slots['model']} model, {slots['empty']} empty"
    )
    skipped = "".join(
        f"\n  skipped {_line(f.path)}: {f.reason}, {_line(f.detail)}" for f in report.skipped_files
    )
    given_up = (report.engine or {}).get("rows_given_up") or []
    memory = "".join(
        f"\n  out of memory with {rows} rows at a time: began again with half" for rows in given_up
    )
    are = "text is" if report.unwritten == 1 else "texts are"
    missing = f"{report.unwritten:,} {are} missing, which the next build writes"
    budget = f"\n  degraded: the budget allows no more, and {missing}" if report.degraded else ""
    site = f"{report.published['target']}/index.html" if report.published else ""
    drawn = f"pages: {pages['total']}, {pages['written']} written, {pages['removed']} removed"
    done = f"{report.symbols} symbols; texts: {texts}; {drawn}{_of_model(report)}"
    waived = sum(f["outcome"] == "waived" for f in report.findings)
    findings = _findings(report, "warnings") + (f"\n  {waived:,} waived" if waived else "")
    return f"{done}{_drift(report)}{skipped}{findings}{memory}{budget}\n{site}"


def _drift(report: Report) -> str:
    """How the texts differ from those of the site that stood before; nothing if they do not."""
    if not report.drift:
        return ""
    changes = ", ".join(f"{name} {by:+,}" for name, by in report.drift.items())
    worse = "; a smaller share than before has a text, or a human's" if report.got_worse else ""
    return f"\n  {'warning: ' if worse else ''}texts since the last site: {changes}{worse}"


def _findings(report: Report, outcome: str) -> str:
    """What the gate found, a line each, the first of them."""
    found = [f for f in report.findings if f["outcome"] == outcome]
    what = "wrong" if outcome == "blocking" else "warning"
    lines = [f"\n  {what}: {_line(f['where'])}: {f['rule']}: {_line(f['message'])}" for f in found]
    more = f"\n  and {len(lines) - _LISTED:,} more; --report FILE lists all" if len(lines) > _LISTED else ""
    return "".join(lines[:_LISTED]) + more


def _of_model(report: Report) -> str:
    """What a model did in a build, as a line of its summary; nothing if there was none."""
    if not report.generated and not report.reused:
        return ""
    slots = report.slots
    line = (
        f"\n  model: asked for {_counted(report.generated, 'symbol')}, {report.reused:,} as before; "
        f"not shown: {_counted(slots['dropped'], 'sentence')} dropped by the checks, "
        f"{_counted(slots['unsure'], 'text')} it is unsure of"
    )
    if not report.generated or report.engine is None:
        return line
    tokens = f"{report.engine['prompt_tokens']:,} tokens read, {report.engine['output_tokens']:,} written"
    return f"{line}\n  {tokens} in {report.engine['seconds']:.1f} s"


def _counted(number: int, noun: str) -> str:
    return f"{number:,} {noun}" + ("" if number == 1 else "s")


def _plan(arguments: argparse.Namespace) -> int:
    from flows.build import plan
    from tasks.documents import SourceError

    if arguments.lint:
        return _lint(arguments)
    if arguments.baseline or arguments.update_baseline or arguments.since:
        raise SourceError("--baseline, --update-baseline and --since go with --lint")
    found = plan(*_opened(arguments), _Terminal())
    for certain, title in ((True, "certain"), (False, "possible")):
        listed = [change for change in found.changes if change.certain is certain]
        print(f"{title}: {len(listed)}")
        for change in listed:
            print(f"  {change.what:<5} {change.reason:<11} {_line(change.id)}")
    if found.cost is not None and found.cost.requests:
        print(_cost(found.cost))
    return 0


def _lint(arguments: argparse.Namespace) -> int:
    from flows.build import lint
    from flows.settings import cache_home
    from tasks.documents import SourceError
    from tasks.files import write_whole
    from tasks.ingest import open_source
    from tasks.lint import baseline_of, beyond, read_baseline

    baseline: Path | None = arguments.baseline
    if arguments.update_baseline and (baseline is None or arguments.since is not None):
        raise SourceError("--update-baseline takes --baseline FILE, and not --since")
    if arguments.update_baseline and baseline is not None and not baseline.parent.is_dir():
        raise SourceError(f"baseline {str(baseline)!r}: no such folder")
    known = Counter() if baseline is None or arguments.update_baseline else read_baseline(baseline)
    since = None
    if arguments.since is not None:
        since = open_source(arguments.source, arguments.since, cache_home())
    source, settings = _opened(arguments)
    found, skipped = lint(source, settings, since, _Terminal())
    for file in skipped:
        print(f"docmill: skipped {_line(file.path)}: {file.reason}, {_line(file.detail)}", file=sys.stderr)
    if arguments.update_baseline and baseline is not None:
        write_whole(baseline, baseline_of(found))
        print(f"{baseline}: {len(found):,} docstrings that contradict their signature")
        return 0
    new = beyond(known, found, source.root)
    for one in new:
        print(_line(str(one)))
    if known:
        gone = known.total() - (len(found) - len(new)) if since is None else 0
        print(
            f"{len(found) - len(new):,} more in {baseline}"
            + (f", which lists {gone:,} that went" if gone else "")
        )
    return 1 if new else 0


def _releases(arguments: argparse.Namespace) -> int:
    from datetime import UTC, datetime

    from flows.pipeline import target_of
    from flows.settings import resolve_settings

    target = target_of(resolve_settings(None, {"out": arguments.out}, arguments.config).settings)
    releases = target.releases()
    for release in releases:
        since = datetime.fromtimestamp(release.since, UTC)
        stands = "  stands" if release.stands else ""
        print(f"{release.name}  {since:%Y-%m-%d %H:%M:%S} UTC  {release.pages:,} pages{stands}")
    if not releases:
        print(f"{target.location}: no release", file=sys.stderr)
    return 0


def _rollback(arguments: argparse.Namespace) -> int:
    from flows.pipeline import target_of
    from flows.settings import resolve_settings

    target = target_of(resolve_settings(None, {"out": arguments.out}, arguments.config).settings)
    release = target.rollback(arguments.release)
    print(f"{release.name} stands, {release.pages:,} pages; the next build publishes anew")
    print(f"{target.location}/index.html")
    return 0


def _overrides(arguments: argparse.Namespace) -> int:
    from flows.build import doubtful_overrides

    count, doubtful = doubtful_overrides(*_opened(arguments), arguments.accept, _Terminal())
    for finding in doubtful:
        print(_line(str(finding)))
    print(f"{_counted(count, 'override')}, {len(doubtful):,} in doubt")
    return 1 if doubtful else 0


def _cost(cost: Cost) -> str:
    waiting = f", {cost.waiting:,} more that wait for some of them" if cost.waiting else ""
    texts = f"cost: {cost.requests:,} texts{waiting}; {cost.read:,} tokens to read"
    if cost.written is None or cost.seconds is None:
        return f"{texts}, at most {cost.written_at_most:,} to write; docmill model tune measures how long"
    time = f"{cost.seconds:.0f} seconds" if cost.seconds < 90 else f"{cost.seconds / 60:.0f} minutes"
    return f"{texts}, about {cost.written:,} to write: about {time}"


def _prepare(arguments: argparse.Namespace) -> int:
    from flows.prepare_model import prepare

    print(prepare(arguments.model, arguments.method))
    return 0


def _tune(arguments: argparse.Namespace) -> int:
    from flows.settings import resolve_settings
    from flows.tune_model import tune_model

    flags = {name: getattr(arguments, name) for name in ("model", "quantize", "device")}
    settings = resolve_settings(None, flags, arguments.config).settings
    tuning = tune_model(
        settings.model, settings.quantize, settings.device, arguments.source, arguments.seconds, _Trials()
    )
    if not any(trial.compiled for trial in tuning.trials):
        print("the time was over before compiling was tried, which gains most: give it more --seconds")
    print(f"kept: {_way(tuning.policy, tuning.compiled)}")
    return 0


def _evaluate(arguments: argparse.Namespace) -> int:
    import msgspec

    from flows.evaluate_model import evaluate_model
    from flows.settings import resolve_settings
    from tasks.files import write_whole

    flags = {name: getattr(arguments, name) for name in ("model", "quantize", "device")}
    settings = resolve_settings(None, flags, arguments.config).settings
    found = evaluate_model(
        settings.model,
        settings.quantize,
        settings.device,
        arguments.source,
        arguments.symbols,
        _Terminal().written,
    )
    if arguments.json is not None:
        write_whole(arguments.json, msgspec.json.format(msgspec.json.encode(found), indent=2) + b"\n")
    for one in found.measured:
        print("\n".join(_measured(one)))
    print(
        "scores: against the human's first sentence, 0 to 100; masked: with the name hidden; leads: 95 % "
        "intervals, and one that holds 0 tells nothing"
    )
    dropped = _counted(found.dropped, "sentence")
    print(f"{1000 * found.seconds:.1f} ms a text; {dropped} dropped by the checks")
    return 0


def _measured(one: Measured) -> Iterator[str]:
    """A table of one kind of text."""
    labels = {
        "name": "the name, split into words",
        "neighbour": "nearest neighbour among these texts",
        "model": "the model",
    }
    metrics = {"bleu": "BLEU", "chrf": "chrF", "rouge_l": "ROUGE-L"}
    title = f"{one.what}, {one.texts:,} texts"
    yield f"{title:<40}" + "".join(f"{name:>14}{'masked':>14}" for name in metrics.values())
    for who, label in labels.items():
        yield f"  {label:<38}" + "".join(f"{score:14.1f}" for m in metrics for score in one.scores[who][m])
    for other, lead in one.lead.items():
        intervals = (f"{low:+.1f}…{high:+.1f}" for m in metrics for low, high in lead[m])
        yield f"  {f'lead over the {other}, 95 %':<38}" + "".join(f"{text:>14}" for text in intervals)
    bleu = f", BLEU {one.shown['bleu']:.1f}" if one.shown else ""
    yield f"  a build would show {one.texts_shown:,} of them ({one.share_shown:.1%}){bleu}"


class _Trials:
    """A line for each trial, under a head."""

    def __init__(self) -> None:
        self.any = False

    def __call__(self, trial: Trial) -> None:
        if not self.any:
            print("  rows  group  edges  code        texts/s    in/s   out/s  ms a token")
        self.any = True
        way, speed = _way(trial.policy, trial.compiled), trial.speed
        if speed is None:
            print(f"{way}  {_line(str(trial.failure))}", flush=True)
            return
        print(
            f"{way}  {speed.requests_per_second:9.1f}  {speed.prompt_tokens_per_second:6.0f}"
            f"  {speed.output_tokens_per_second:6.0f}  {speed.step_seconds * 1000:10.2f}",
            flush=True,
        )


def _way(policy: BucketPolicy, compiled: bool) -> str:
    edges = "any" if compiled else "fit" if policy.edges else policy.prompts_per_doubling
    numbers = f"{policy.decode_rows:6}  {policy.prefill_tokens:5}  {edges:>5}"
    return f"{numbers}  {'compiled' if compiled else 'as it is'}"


def _up(arguments: argparse.Namespace) -> int:
    service = _service(arguments)
    from infra.up import Listen, up

    listen = Listen(arguments.host, arguments.port, arguments.webhook_port)
    up(service, arguments.config, listen, lambda line: print(line, flush=True))
    print("docmill: stopped", file=sys.stderr)
    return 0


def _deploy(arguments: argparse.Namespace) -> int:
    service = _service(arguments)
    from infra.deploy import deploy, deployments_of

    deploy(service)
    for deployment in deployments_of(service):
        print(f"{deployment.name:<10} {deployment.description}")
    told = "are told of" if service.failure_url else "are told to nobody: DOCMILL_FAILURE_URL is not set"
    print(f"{'failures':<10} {told}")
    return 0


def _webhook(arguments: argparse.Namespace) -> int:
    service = _service(arguments)
    from infra.webhook import serve

    serve(service, arguments.host, arguments.port)
    return 0


def _doctor(arguments: argparse.Namespace) -> int:
    from infra.doctor import Level, examine

    status = 0
    for level, what, said in examine(arguments.config):
        print(f"{level:<8} {what:<15} {_line(said)}", flush=True)
        status |= level is Level.WRONG
    return status


def _service(arguments: argparse.Namespace) -> Service:
    from flows.settings import resolve_settings

    return resolve_settings(None, {}, arguments.config).service


def _show_config(arguments: argparse.Namespace) -> int:
    from flows.settings import Service, Settings, cache_home, resolve_settings
    from tasks.ingest import open_source

    source = open_source(arguments.source, arguments.revision, cache_home())
    flags = {name: getattr(arguments, name) for name in _FLAGS}
    resolved = resolve_settings(source.root, flags, arguments.config)
    values = {**dict(resolved.settings), **dict(resolved.service)}
    fields = {**Settings.model_fields, **Service.model_fields}
    for name, origin in resolved.origins.items():
        value = values[name]
        shown = f"{len(value)}, listed below" if name == "repositories" and value else repr(value)
        print(f"{name} = {re.sub(_PASSWORD, _HIDDEN, shown)}  ({origin})")
        print(f"    {fields[name].description}")
    for one in resolved.service.repositories:
        print(f"\n[[repositories]]  {one.name}")
        for name, value in one.model_dump(exclude={"name"}, exclude_none=True).items():
            print(f"    {name} = {re.sub(_PASSWORD, _HIDDEN, repr(value))}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
