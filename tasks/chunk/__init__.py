"""Files → Symbols: one parse per changed file, cached by content and parser version.

Model-independent. What is handed on are keys: under a chunk's key the result cache
holds its Module, under the outline's key the Outline.
"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Iterable, Mapping
from importlib.metadata import version
from pathlib import PurePosixPath

import msgspec
from msgspec import Struct

from tasks.chunk.docstrings import linked_files
from tasks.chunk.newer_syntax import explain_syntax_error
from tasks.chunk.overridden import overridden
from tasks.chunk.python import ParsedModule, parse_module
from tasks.documents import Doubt, Module, Outline, SkippedFile, Snapshot, SourceFile, Surface, Symbol
from tasks.files import read_text
from tasks.fresh_stack import on_fresh_stack
from tasks.keys import digest, key
from tasks.overrides import Override
from tasks.result_cache import ResultCache
from tasks.secrets import SECRETS_VERSION
from tasks.spread import Spread

# Folders that hold packages and are none.
_LAYOUT = ("src", "lib")

# Raised whenever the same file would parse into another Module or Outline.
CHUNK_VERSION = 31

PARSER = (*sys.version_info[:2], version("griffelib"), *SECRETS_VERSION)


class Chunk(Struct, frozen=True):
    """One file to parse, the texts that are decided on outside of it, and the keys of what comes of both."""

    path: str
    name: str
    digest: str
    key: str
    overrides: tuple[Override, ...] = ()

    @property
    def outline_key(self) -> str:
        """The key of the file's Outline."""
        return f"{self.key}/outline"


def chunks_of(files: Iterable[SourceFile], project: str, overrides: Iterable[Override] = ()) -> list[Chunk]:
    """Name each file's module, and the key of its parse.

    Args:
        files: The snapshot's Python files.
        project: The name that a package at the root of the source goes by.
        overrides: Texts that are decided on outside of the code.
    """
    files = list(files)
    names = module_names([file.path for file in files], project)
    of_path: dict[str, list[Override]] = {}
    for override in overrides:
        of_path.setdefault(override.path, []).append(override)
    return [_chunk(file, names[file.path], tuple(of_path.get(file.path, ()))) for file in files]


def _chunk(file: SourceFile, name: str, overrides: tuple[Override, ...]) -> Chunk:
    parsed = key("chunk", CHUNK_VERSION, PARSER, file.path, name, file.digest, *overrides)
    return Chunk(file.path, name, file.digest, parsed, overrides)


def module_names(paths: Iterable[str], project: str) -> dict[str, str]:
    """Dotted names by path: from the root, or from the innermost `src` or `lib` that is no package."""
    paths = list(paths)
    packages = {str(PurePosixPath(p).parent) for p in paths if PurePosixPath(p).stem == "__init__"}
    return {path: _module_name(PurePosixPath(path), packages, project) for path in paths}


def _module_name(path: PurePosixPath, packages: set[str], project: str) -> str:
    parts = list(path.parent.parts)
    if path.stem != "__init__":
        parts.append(path.stem)
    if "." in packages:
        return ".".join([project, *parts])
    folders = range(len(path.parts) - 1, 0, -1)
    above = next(
        (n for n in folders if path.parts[n - 1] in _LAYOUT and not _is_package(path, n, packages)), 0
    )
    return ".".join(parts[above:]) or project


def _is_package(path: PurePosixPath, length: int, packages: set[str]) -> bool:
    """Whether the first folders of a path, so many, are one package, or inside of one."""
    return any("/".join(path.parts[:n]) in packages for n in range(1, length + 1))


def chunk(
    snapshot: Snapshot, cache: ResultCache, spread: Spread, overrides: Iterable[Override] = ()
) -> list[Chunk]:
    """Parse what the cache does not hold yet.

    Returns:
        All files of the snapshot, those that could not be parsed included.
    """
    chunks = chunks_of(snapshot.code, snapshot.name, overrides)
    missing = cache.missing(c.outline_key for c in chunks)
    spread(chunk_files, [c for c in chunks if c.outline_key in missing], snapshot.root)
    return chunks


def chunk_files(chunks: Iterable[Chunk], cache: ResultCache, root: str) -> None:
    """Parse files and store what comes of them.

    Raises:
        SourceError: A file is no longer what the snapshot says.
    """

    def parsed(chunk: Chunk) -> dict[str, bytes]:
        module, outline = _parse(read_text(root, chunk.path, chunk.digest), chunk)
        return {chunk.key: msgspec.json.encode(module), chunk.outline_key: msgspec.json.encode(outline)}

    for results in on_fresh_stack(parsed, chunks):
        cache.put_many(results)


def load_modules(cache: ResultCache, chunks: Iterable[Chunk]) -> dict[str, Module]:
    """The Modules of parsed files, by path; a file that could not be parsed has none."""
    wanted = {chunk.key: chunk.path for chunk in chunks}
    found = cache.get_many(wanted)
    decoder = msgspec.json.Decoder(Module | None)
    modules = ((wanted[k], decoder.decode(value)) for k, value in found.items())
    return {path: module for path, module in modules if module is not None}


def load_outlines(cache: ResultCache, chunks: Iterable[Chunk]) -> dict[str, Outline]:
    """The Outlines of all files, by path."""
    wanted = {chunk.outline_key: chunk.path for chunk in chunks}
    decoder = msgspec.json.Decoder(Outline)
    return {wanted[k]: decoder.decode(value) for k, value in cache.get_many(wanted).items()}


def surfaces(outlines: Mapping[str, Outline]) -> list[Surface]:
    """The surfaces of the files that could be parsed, in order of path."""
    return [outline.surface for _, outline in sorted(outlines.items()) if outline.surface is not None]


def _parse(source: str, chunk: Chunk) -> tuple[Module | None, Outline]:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # a source's invalid escapes are its own affair
            parsed = parse_module(source, chunk.path, chunk.name)
    except SyntaxError as error:
        return None, Outline(skipped=explain_syntax_error(source, chunk.path, error))
    except RecursionError:
        return None, Outline(skipped=SkippedFile(chunk.path, "nesting", "nested too deeply to be parsed"))
    symbols, doubts = overridden(parsed.symbols, chunk.overrides)
    module = Module(chunk.path, chunk.name, tuple(symbols), parsed.local_imports)
    return module, _outline(parsed, module, doubts)


def _outline(parsed: ParsedModule, module: Module, doubts: tuple[Doubt, ...]) -> Outline:
    texts = {
        symbol.name: digest(symbol.slots)
        for symbol in module.symbols
        if symbol.kind in ("method", "property", "attribute") and _is_described(symbol)
    }
    humans = (slot.text for s in module.symbols for slot in s.slots.values() if slot.origin == "human")
    summary = module.symbols[0].slots.get("summary")
    return Outline(
        parsed.surface,
        digest(parsed.surface),
        digest(module),
        summary.text if summary else "",
        texts,
        tuple(parsed.contradictions),
        doubts,
        tuple(sorted({href for text in humans for href in linked_files(text)})),
    )


def _is_described(symbol: Symbol) -> bool:
    """Whether a human wrote a summary."""
    summary = symbol.slots.get("summary")
    return summary is not None and summary.origin == "human"
