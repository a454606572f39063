"""Files of `[[kind]]` entries that a repository commits for docmill: read, or told of in words."""

from __future__ import annotations

import datetime
import re
import tomllib
from pathlib import Path
from typing import TypeVar, get_args, get_type_hints

import msgspec

from tasks.documents import SourceError
from tasks.files import read_committed

T = TypeVar("T", bound=msgspec.Struct)

_MISSING = re.compile(r"Object missing required field `(\w+)`")
_UNKNOWN = re.compile(r"Object contains unknown field `(.+?)`", re.DOTALL)
_OTHER_TYPE = re.compile(r"Expected `([^`]+)`, got `[^`]+` - at `\$\.(\w+)`")
_OTHER_VALUE = re.compile(r"Invalid enum value .* - at `\$\.(\w+)`", re.DOTALL)
_SAID = {
    "bool": "give true or false, without quotes",
    "date": "give a date like 2027-01-31, without quotes",
    "str": "give text, in quotes",
}


def read_entries(root: Path, file: str, kind: str, entry: type[T]) -> tuple[T, ...]:
    """The entries of a file in the `root` of a source; none where there is no such file.

    Raises:
        SourceError: The file cannot be used; it says which entry, and what of it.
    """
    return entries_of(read_committed(root, file), file, kind, entry)


def entries_of(text: str, file: str, kind: str, entry: type[T]) -> tuple[T, ...]:
    """The entries of a file's text.

    Raises:
        SourceError: As read_entries.
    """
    try:
        table = tomllib.loads(text)
    except (ValueError, RecursionError) as error:
        raise SourceError(f"{file}: {error}") from error
    found = table.pop(kind, [])
    if table:
        raise SourceError(f"{file}: {next(iter(table))!r} is unknown; entries begin with [[{kind}]]")
    if not isinstance(found, list) or not all(isinstance(values, dict) for values in found):
        raise SourceError(f"{file}: entries begin with [[{kind}]], in two brackets")
    return tuple(_entry(values, entry, f"{file}: {kind} {n}") for n, values in enumerate(found, 1))


def _entry(values: dict[str, object], entry: type[T], where: str) -> T:
    try:
        return msgspec.convert(values, entry, builtin_types=(datetime.date, datetime.datetime))
    except msgspec.ValidationError as error:
        raise SourceError(f"{where}: {_told(str(error), entry)}") from error


def _told(message: str, entry: type[msgspec.Struct]) -> str:
    """What is wrong with an entry, in the words of who wrote it."""
    if found := _MISSING.match(message):
        return f"{found[1]} is missing"
    if found := _UNKNOWN.match(message):
        return f"{found[1]!r} is unknown; there are {', '.join(entry.__struct_fields__)}"
    if found := _OTHER_TYPE.match(message):
        wanted = found[1].partition(" |")[0]
        return f"{found[2]}: {_SAID.get(wanted, f'give a {wanted}')}"
    if found := _OTHER_VALUE.match(message):
        values = [value for choice in get_args(get_type_hints(entry)[found[1]]) for value in get_args(choice)]
        return f"{found[1]}: there are {', '.join(values)}"
    return message
