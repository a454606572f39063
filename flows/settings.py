"""The only reader of the environment and of docmill.toml.

Built-in values < the operator's file < the repository's file < the environment < flags.
A repository's file may say what its documentation shows; whatever spends, sends or
publishes is the operator's to decide.
"""

from __future__ import annotations

import os
import re
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator
from pydantic_settings import BaseSettings, EnvSettingsSource, SettingsError

from tasks.budget import parse_budget
from tasks.documents import SourceError
from tasks.ingest.tree import is_usable

FILE_NAME = "docmill.toml"

_PREFIX = "DOCMILL_"
_OF_THE_REPOSITORY = {"include", "exclude", "title", "source_url", "private", "strict_human"}


def cache_home() -> Path:
    """Where state and caches live: `$XDG_CACHE_HOME/docmill`."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "docmill"


def operator_file() -> Path:
    """Where the operator's file is, unless `--config` names another."""
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

    @field_validator("budget", mode="before")
    @classmethod
    def _is_a_budget(cls, value: object) -> str | None:
        if value is None:
            return None
        parse_budget(str(value))
        return str(value)

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


class _Environment(BaseSettings, Settings):  # type: ignore[misc]
    """The same fields, as pydantic-settings reads them from the environment."""


class Resolved(BaseModel):
    """Settings, and where each value came from."""

    settings: Settings
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
    origins = dict.fromkeys(Settings.model_fields, "built-in")
    if config is not None and not config.is_file():
        raise SourceError(f"config {str(config)!r}: no such file")
    operator = config or operator_file()
    _add_file(values, origins, operator, set(Settings.model_fields), str(operator))
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
    try:
        return Resolved(settings=Settings.model_validate(values), origins=origins)
    except ValidationError as error:
        first = error.errors()[0]
        name = str(first["loc"][0])
        message = first["msg"].removeprefix("Value error, ").replace("valid tuple", "valid list")
        raise SourceError(f"{origins.get(name, 'settings')}: {name}: {message}") from error


def _add(values: dict[str, Any], origins: dict[str, str], layer: Mapping[str, Any], origin: str) -> None:
    values.update(layer)
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
            known = setting in Settings.model_fields
            why = "is the operator's to set, not a repository's" if known else "is not a setting of docmill"
            raise SourceError(f"{file}:{_line_of(setting, text)}: {setting!r} {why}")
        _add(values, origins, {setting: layer[setting]}, f"{name}:{_line_of(setting, text)}")


def _line_of(name: str, text: str) -> int:
    pattern = re.compile(rf"\s*\[?\s*[\"']?{re.escape(name)}\b")
    return next((number for number, line in enumerate(text.splitlines(), 1) if pattern.match(line)), 1)


def _refuse_unknown_variables() -> None:
    for variable in sorted(os.environ):
        if (
            variable.startswith(_PREFIX)
            and variable.removeprefix(_PREFIX).lower() not in Settings.model_fields
        ):
            raise SourceError(f"environment: {variable} is not a setting of docmill")
