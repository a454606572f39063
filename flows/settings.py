"""The only reader of the environment and of docmill.toml.

Built-in values < the operator's file < the repository's file < the environment < flags.
A repository's file may say what its documentation shows; whatever spends, sends or
publishes is the operator's to decide. Secrets come from the environment alone.
"""

from __future__ import annotations

import ipaddress
import os
import posixpath
import re
import tomllib
from collections.abc import Iterator, Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal, Self
from urllib.parse import quote

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    SecretStr,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)
from pydantic_settings import BaseSettings, EnvSettingsSource, SettingsError

from tasks.budget import parse_budget
from tasks.documents import SourceError
from tasks.ingest import git
from tasks.ingest.tree import is_usable

FILE_NAME = "docmill.toml"
CONFIG_VARIABLE = "DOCMILL_CONFIG"

_PREFIX = "DOCMILL_"
_OF_THE_REPOSITORY = {"include", "exclude", "title", "source_url", "private", "strict_human"}


def cache_home() -> Path:
    """Where state and caches live: `$XDG_CACHE_HOME/docmill`."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "docmill"


def operator_file() -> Path:
    """Where the operator's file is, unless `--config` or DOCMILL_CONFIG names another."""
    return Path(os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config") / "docmill" / FILE_NAME


class Settings(BaseModel):
    """Everything that can be set; the descriptions are what `docmill config show` prints."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    include: tuple[str, ...] = Field(
        (), description="only files that match one of these globs (gitignore syntax)"
    )
    exclude: tuple[str, ...] = Field(
        (), description="no file that matches one of these globs (gitignore syntax)"
    )
    title: str | None = Field(None, description="the site's title; default: the project's name")
    source_url: str | None = Field(
        None,
        description="address of a source line with {revision}, {path} and {line}; default: pages of the site",
    )
    private: tuple[str, ...] = Field(
        (), description="dotted names of modules that are not public, with * and ?"
    )
    out: str = Field("site", min_length=1, description="where the site goes: a folder or s3://bucket/prefix")
    releases_kept: int = Field(
        3, ge=1, description="releases kept besides the one that stands, for a rollback"
    )
    s3_endpoint: str | None = Field(
        None, description="address of an S3 store; default: what AWS_… say, or AWS"
    )
    s3_region: str | None = Field(None, description="region of the bucket; default: what AWS_… say")
    s3_encryption: str | None = Field(
        None, description="how S3 encrypts: AES256, aws:kms or aws:kms:KEY; default: as the bucket is set"
    )
    model: str = Field("bundled", min_length=1, description="bundled, none, a folder or a hub id")
    quantize: str = Field("auto", description="auto, none or a method")
    device: Literal["auto", "cpu", "cuda"] = Field("auto", description="where the model runs")
    strict: bool = Field(False, description="a skipped file fails the build")
    strict_human: bool = Field(
        False, description="what a human wrote wrongly fails the build, too: a dead link, a wrong parameter"
    )
    budget: str | None = Field(
        None, description="how much is sent to the model: 500 symbols, 200000 tokens or 10 minutes"
    )
    max_file_size: int = Field(2_000_000, ge=1, description="larger files are skipped (bytes)")
    processes: int | None = Field(
        None, ge=1, description="processes for parsing and drawing; default: one a core"
    )
    result_cache: str = Field(
        default_factory=lambda: f"sqlite:///{cache_home() / 'results.sqlite'}",
        description="SQLAlchemy URL of the result cache",
    )

    result_storage: str | None = Field(
        None,
        min_length=1,
        description="where Prefect keeps what stages hand on: a folder or s3://…; default: as Prefect is set",
    )
    task_runner: str = Field(
        "processes",
        description="what computes large trees in Prefect: processes, threads (one), dask, "
        "ray, or a cluster: dask ADDRESS, ray ADDRESS",
    )

    @field_validator("task_runner")
    @classmethod
    def _is_a_task_runner(cls, value: str) -> str:
        if not re.fullmatch(r"processes|threads|(dask|ray)( \S+)?", value):
            raise ValueError(f"{value!r} is none of processes, threads, dask, ray, dask ADDRESS, ray ADDRESS")
        return value

    @field_validator("budget", mode="before")
    @classmethod
    def _is_a_budget(cls, value: object) -> str | None:
        return _budget(value)

    @field_validator("s3_endpoint")
    @classmethod
    def _is_an_address(cls, value: str | None) -> str | None:
        if value is not None and not re.fullmatch(r"https?://[^\s/@?#]+/?", value):
            raise ValueError("give an http(s) address of a server; who speaks to it says AWS_PROFILE")
        return value

    @field_validator("s3_encryption")
    @classmethod
    def _is_an_encryption(cls, value: str | None) -> str | None:
        if value is not None and not re.fullmatch(r"AES256|aws:kms(:\S+)?", value):
            raise ValueError("give AES256, aws:kms or aws:kms:KEY")
        return value

    @field_validator("include", "exclude")
    @classmethod
    def _are_globs(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for glob in value:
            if not is_usable(glob):
                raise ValueError(f"{glob!r} is no glob that docmill can use (at most 3 wildcards in a name)")
        return value

    @field_validator("source_url")
    @classmethod
    def _names_a_path(cls, value: str | None) -> str | None:
        if value is not None and (not re.match(r"https?://", value) or "{path}" not in value):
            raise ValueError("give an http(s) address that contains {path}")
        return value


class Repository(BaseModel):
    """A repository that docmill builds by itself: one site for each of its branches."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9._-]{0,62}$")
    source: str
    branches: tuple[str, ...] = Field(("main",), min_length=1)
    out: str = Field(min_length=1)
    url: str | None = None
    title: str | None = None
    model: str | None = Field(None, min_length=1)
    quantize: str | None = None
    device: Literal["auto", "cpu", "cuda"] | None = None
    budget: str | None = None
    strict: bool | None = None

    @field_validator("source")
    @classmethod
    def _is_an_address(cls, value: str) -> str:
        if not git.is_url(value):
            raise ValueError(f"{git.shown(value)!r} is no git address (https, ssh, git or file)")
        if re.search(git.WITH_SECRET, value):
            raise ValueError(f"{git.shown(value)!r} holds a secret; leave it to ssh or a credential helper")
        return value

    @field_validator("budget", mode="before")
    @classmethod
    def _is_a_budget(cls, value: object) -> str | None:
        return _budget(value)

    @field_validator("out")
    @classmethod
    def _is_anywhere_the_same(cls, value: str) -> str:
        return _anywhere_the_same(value)

    @field_validator("url")
    @classmethod
    def _is_where_readers_go(cls, value: str | None) -> str | None:
        of_readers = r"https?://[^\s/@?#<>\"'`()\[\]\\]+(/[^\s?#<>\"'`()\[\]\\]*)?"
        if value is not None and not (value.isascii() and re.fullmatch(of_readers, value)):
            raise ValueError("give the http(s) address that readers find the site at, without a secret")
        return value

    @field_validator("branches")
    @classmethod
    def _are_branches(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for branch in value:
            try:
                git.validated_revision(branch)
            except SourceError as error:
                raise ValueError(f"{branch!r} is no name of a branch") from error
        return value

    @model_validator(mode="after")
    def _has_a_place_for_each_branch(self) -> Self:
        for what, place in (("out", self.out), ("url", self.url)):
            if len(self.branches) > 1 and place is not None and "{branch}" not in place:
                raise ValueError(f"{self.name!r} has several branches: its {what} needs a {{branch}}")
        return self

    def flags(self, branch: str) -> dict[str, str | bool | None]:
        """What this entry sets for a build of one of its branches; None is left to other layers."""
        own = self.model_dump(include={"title", "model", "quantize", "device", "budget", "strict"})
        return {**own, "out": self.out.replace("{branch}", _in_a_path(branch))}

    def url_of(self, branch: str) -> str | None:
        """Where readers find the site of a branch, if that is set."""
        return self.url and self.url.replace("{branch}", quote(_in_a_path(branch), safe=""))


def _in_a_path(branch: str) -> str:
    return branch.replace("/", "-")


def _budget(value: object) -> str | None:
    """What a build may spend, if it can be read. Raises ValueError."""
    if value is None:
        return None
    parse_budget(str(value))
    return str(value)


def _anywhere_the_same(out: str) -> str:
    """A target, if it means the same wherever a build runs.

    Raises:
        ValueError: It does not.
    """
    if not (out.startswith(("~", "s3://")) or Path(out).is_absolute()):
        raise ValueError(f"{out!r}: give an absolute path, or s3://…; builds run in folders of their own")
    return out


def _inside(out: str) -> str:
    """What every place inside of a target begins with, as of the target itself."""
    place = out if "://" in out else os.path.normpath(Path(out).expanduser())
    return f"{place.rstrip('/')}/"


def _really_inside(out: str) -> str:
    """The same, whatever links lead there; what stands at the place itself is a link to a release."""
    if "://" in out:
        scheme, _, key = out.partition("://")
        return f"{scheme}://{posixpath.normpath(key)}/"
    place = Path(out).expanduser()
    return _inside(str(place.parent.resolve() / place.name))


class Service(BaseModel):
    """What docmill does by itself: which repositories, when, where, and who may ask for it."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    repositories: tuple[Repository, ...] = Field(
        (), description="what is built at night and on pushes, a [[repositories]] table each"
    )
    nightly: str = Field("0 2 * * *", description="when all of them are built (cron)")
    time_zone: str = Field("UTC", description="the time zone of that, as Europe/Berlin")
    work_pool: str = Field("docmill", min_length=1, description="the work pool of Prefect that builds run in")
    index: str | None = Field(
        None, min_length=1, description="where a page of all sites goes: a folder or s3://bucket/prefix"
    )
    log_format: Literal["text", "json"] = Field(
        "text", description="how runs, the receiver and docmill up write their logs"
    )
    webhook_rate: int = Field(
        600, ge=1, description="requests a minute that one address may send, signed ones and others apart"
    )
    webhook_proxies: tuple[str, ...] = Field(
        ("127.0.0.1", "::1"),
        description="addresses and networks of proxies, whose X-Forwarded-For tells who sends a request",
    )
    webhook_secret: SecretStr | None = Field(
        None, description="what forges sign pushes with; only from the environment"
    )
    webhook_secret_before: SecretStr | None = Field(
        None, description="the one before, good as long as it is set; only from the environment"
    )
    failure_url: SecretStr | None = Field(
        None, description="address that is told of runs that fail; only from the environment"
    )

    @field_validator("index")
    @classmethod
    def _is_a_place_of_its_own(cls, value: str | None, info: ValidationInfo) -> str | None:
        if value is None:
            return None
        place = _inside(value)
        for one in info.data.get("repositories", ()):
            for out in (_inside(str(one.flags(branch)["out"])) for branch in one.branches):
                # A site is replaced as a whole, with what somebody put into it.
                if place.startswith(out) or out.startswith(place):
                    raise ValueError(
                        f"is inside of the out of {one.name!r}, or holds it; choose a place beside it"
                    )
        return _anywhere_the_same(value)

    @field_validator("webhook_secret", "webhook_secret_before")
    @classmethod
    def _is_hard_to_guess(cls, value: SecretStr | None) -> SecretStr | None:
        if value is not None and len(value.get_secret_value()) < _SHORTEST_SECRET:
            raise ValueError(f"give {_SHORTEST_SECRET} characters at least, as openssl rand -hex 32 does")
        return value

    @field_validator("webhook_proxies")
    @classmethod
    def _are_networks(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for network in value:
            try:
                ipaddress.ip_network(network)
            except ValueError as error:
                raise ValueError(f"{error}; give an address, or a network as 172.16.0.0/12") from error
        return value

    @field_validator("failure_url")
    @classmethod
    def _is_an_http_address(cls, value: SecretStr | None) -> SecretStr | None:
        if value is not None and not re.fullmatch(r"https?://[^\s/]\S*", value.get_secret_value()):
            raise ValueError("give an http(s) address")
        return value

    @field_validator("nightly")
    @classmethod
    def _is_cron(cls, value: str) -> str:
        if len(value.split()) != 5:
            raise ValueError(f"{value!r} is no cron line: give minute, hour, day, month and day of the week")
        return value

    @field_validator("work_pool")
    @classmethod
    def _is_a_name(cls, value: str) -> str:
        if not value.isprintable() or set(value) & set("/%&<>"):
            raise ValueError(f"{value!r} is no name that Prefect takes: leave out / % & < >")
        return value

    @field_validator("time_zone")
    @classmethod
    def _is_a_time_zone(cls, value: str) -> str:
        from zoneinfo import ZoneInfo

        try:
            ZoneInfo(value)
        except (OSError, ValueError) as error:  # ZoneInfoNotFoundError is a KeyError
            raise ValueError(f"{value!r} is no time zone") from error
        except KeyError as error:
            raise ValueError(f"{value!r} is no time zone that this machine knows") from error
        return value

    @field_validator("repositories")
    @classmethod
    def _do_not_clash(cls, value: tuple[Repository, ...]) -> tuple[Repository, ...]:
        names = [one.name for one in value]
        if twice := [name for name in names if names.count(name) > 1]:
            raise ValueError(f"two of them have the name {twice[0]!r}")
        outs = [str(one.flags(branch)["out"]) for one in value for branch in one.branches]
        for outer, inner in pairwise(sorted(outs, key=_inside)):  # what is inside of another comes after it
            if _inside(outer) == _inside(inner):
                raise ValueError(f"two of them have the out {inner!r}")
            if _inside(inner).startswith(_inside(outer)):
                raise ValueError(
                    f"out {inner!r} is inside of out {outer!r}, and each site is replaced as a whole; "
                    "choose places beside each other"
                )
        return value

    def repository(self, name: str) -> Repository:
        """One of the repositories.

        Raises:
            SourceError: There is none of that name.
        """
        for one in self.repositories:
            if one.name == name:
                return one
        raise SourceError(f"repository {name!r}: is not in the operator's file")

    def refuse_taken(self, out: str) -> None:
        """See that a site that somebody asks for replaces none of the operator's file.

        Raises:
            SourceError: It would.
        """
        sites = ((one, branch) for one in self.repositories for branch in one.branches)
        taken = {str(one.flags(branch)["out"]): one.name for one, branch in sites}
        if self.index is not None:
            taken[self.index] = "index"
        wanted = _really_inside(out)
        for place, name in taken.items():
            if wanted.startswith(_really_inside(place)) or _really_inside(place).startswith(wanted):
                raise SourceError(
                    f"out {out!r}: {name!r} of the operator's file has its place there; choose one beside it"
                )


_SHORTEST_SECRET = 16  # characters
_SECRET = {"webhook_secret", "webhook_secret_before", "failure_url"}


class _Environment(BaseSettings, Settings, Service):  # type: ignore[misc]
    """The same fields, as pydantic-settings reads them from the environment."""


class Resolved(BaseModel):
    """Settings, and where each value came from."""

    settings: Settings
    service: Service
    origins: dict[str, str]


def resolve_settings(source: Path | None, flags: Mapping[str, Any], config: Path | None = None) -> Resolved:
    """Read all layers.

    Args:
        source: The source's folder, whose docmill.toml counts; None where there is none yet.
        flags: What the command line gave; None values are absent.
        config: The operator's file, where it is not at its usual place.

    Raises:
        SourceError: A value, a key or a file that cannot be used, with file and line.
    """
    values: dict[str, Any] = {}
    names = [*Settings.model_fields, *Service.model_fields]
    origins = dict.fromkeys(names, "built-in")
    config = config or (Path(named) if (named := os.environ.get(CONFIG_VARIABLE)) else None)
    if config is not None and not config.is_file():
        raise SourceError(f"config {str(config)!r}: no such file")
    operator = config or operator_file()
    _add_file(values, origins, operator, set(origins) - _SECRET, str(operator))
    if source is not None:
        of_source = source / FILE_NAME
        if not of_source.is_symlink():  # a link could lead out of the source
            _add_file(values, origins, of_source, _OF_THE_REPOSITORY, FILE_NAME)
    _refuse_unknown_variables()
    try:
        _add(values, origins, EnvSettingsSource(_Environment, env_prefix=_PREFIX)(), "environment")
    except SettingsError as error:
        raise SourceError(f"environment: {error}; give a list as JSON") from error
    _add(values, origins, {name: value for name, value in flags.items() if value is not None}, "flag")
    of_service = {name: values.pop(name) for name in Service.model_fields if name in values}
    try:
        settings, service = Settings.model_validate(values), Service.model_validate(of_service)
    except ValidationError as error:
        raise SourceError(_told(error, origins)) from error
    return Resolved(settings=settings, service=service, origins={name: origins[name] for name in names})


# What pydantic says in words of its own.
_SAID = {
    "extra_forbidden": "is no setting of a repository",
    "missing": "is missing",
    "string_pattern_mismatch": "give small letters, digits, . - _; at most 63, no sign first",
    "string_too_short": "is empty",
    "too_short": "is empty",
    "model_type": "give a table",
    "tuple_type": "give a list, in brackets",
    "string_type": "give text, in quotes",
}


def _told(error: ValidationError, origins: Mapping[str, str]) -> str:
    """The first thing that is wrong with a value, as a line that does not repeat it: it may be a secret."""
    first = error.errors(include_input=False)[0]
    name, *inside = first["loc"]
    place = ".".join(str(part + 1) if isinstance(part, int) else part for part in inside)
    where = f"{name} {place}" if place and name == "repositories" else str(name)
    entry = f"{name} {inside[0] + 1}" if inside and isinstance(inside[0], int) else ""
    of_entry = f"{entry} {inside[1]}" if entry and len(inside) > 1 else entry
    origin = origins.get(of_entry) or origins.get(entry) or origins.get(str(name), "settings")
    message = _SAID.get(first["type"], first["msg"].removeprefix("Value error, "))
    return f"{origin}: {where}: {message}"


def _add(values: dict[str, Any], origins: dict[str, str], layer: Mapping[str, Any], origin: str) -> None:
    values.update(layer)
    for place in [place for place in origins if place.partition(" ")[0] in layer]:
        del origins[place]  # entries of the layer before
    origins.update(dict.fromkeys(layer, origin))


def _add_file(
    values: dict[str, Any], origins: dict[str, str], file: Path, allowed: set[str], name: str
) -> None:
    """Add a file's values, if there is such a file, each with its line as the origin."""
    if not file.is_file():
        return
    try:
        text = file.read_text("utf-8")
        layer = tomllib.loads(text)
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError, RecursionError) as error:
        raise SourceError(f"{file}: {error}") from error
    for setting in layer:
        if setting not in allowed:
            known = setting in origins
            why = "is the operator's to set, not a repository's" if known else "is not a setting of docmill"
            if setting in _SECRET and allowed != _OF_THE_REPOSITORY:
                why = "is a secret: set it in the environment"
            raise SourceError(f"{file}:{_line_of(setting, text)}: {setting!r} {why}")
        _add(values, origins, {setting: layer[setting]}, f"{name}:{_line_of(setting, text)}")
        lines = [*_lines_of(setting, text)]
        if isinstance(layer[setting], list) and len(lines) == len(layer[setting]):  # a table each
            for number, (line, table) in enumerate(zip(lines, layer[setting], strict=True), 1):
                origins[f"{setting} {number}"] = f"{name}:{line}"
                of_table = "\n".join(text.splitlines()[line - 1 :])
                for key in table if isinstance(table, dict) else ():
                    origins[f"{setting} {number} {key}"] = f"{name}:{line - 1 + _line_of(key, of_table)}"


def _line_of(name: str, text: str) -> int:
    return next(_lines_of(name, text), 1)


def _lines_of(name: str, text: str) -> Iterator[int]:
    """The lines that begin with a name: of a setting, or of each table of a list."""
    pattern = re.compile(rf"\s*\[*\s*[\"']?{re.escape(name)}\b")
    return (number for number, line in enumerate(text.splitlines(), 1) if pattern.match(line))


def _refuse_unknown_variables() -> None:
    for variable in sorted(os.environ):
        name = variable.removeprefix(_PREFIX).lower()
        known = variable == CONFIG_VARIABLE or name in Settings.model_fields or name in Service.model_fields
        if variable.startswith(_PREFIX) and not known:
            raise SourceError(f"environment: {variable} is not a setting of docmill")
