"""Source → Snapshot: which files there are at one revision, and their digests.

Always runs. Reads files, never executes one; what a file means is the next stage's
business.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from tasks.documents import SkippedFile, Snapshot, SourceError
from tasks.ingest import git
from tasks.ingest.tree import CODE_SUFFIXES, Selection, StatCache, Walk
from tasks.keys import digest


def ingest(
    location: str,
    revision: str | None,
    selection: Selection,
    cache: Path,
    hidden: Iterable[Path] = (),
) -> Snapshot:
    """Take a snapshot of a source.

    Args:
        location: A folder, or a git address.
        revision: Branch, tag or full SHA; None for a folder's files as they are, or
            for a repository's default branch.
        selection: Which files are wanted.
        cache: Folder for digests and fetched revisions.
        hidden: Folders that are not part of the source (where the site goes).

    Raises:
        SourceError: There is no such source, or nothing in it that docmill documents.
    """
    root, sha, links = _opened(location, revision, cache)
    if sha is not None and root.is_relative_to(cache):
        selection = _tracked(selection)
    stats = StatCache(cache / "stat" / f"{digest([str(root), selection])}.json")
    walk = Walk(root, selection, hidden, stats)
    walk.run()
    stats.save()
    if not walk.files and not walk.skipped:
        raise SourceError(f"source {location!r}: holds no file that docmill documents (Python or Markdown)")
    code = tuple(file for file in walk.files if file.path.endswith(CODE_SUFFIXES))
    prose = tuple(file for file in walk.files if not file.path.endswith(CODE_SUFFIXES))
    skipped = tuple(sorted([*walk.skipped, *links], key=lambda file: file.path))
    if not code:
        why = f" ({len(skipped)} skipped, the first: {_reason(skipped[0])})" if skipped else ""
        raise SourceError(f"source {location!r}: holds no Python file that docmill can read{why}")
    return Snapshot(_project_name(location), location, sha, str(root), code, prose, skipped)


def _reason(file: SkippedFile) -> str:
    return f"{file.path}: {file.reason}, {file.detail}"


def _opened(location: str, revision: str | None, cache: Path) -> tuple[Path, str | None, list[SkippedFile]]:
    if git.is_url(location):
        return git.fetch(location, revision, cache / "sources")
    folder = Path(location).expanduser()
    if "::" in location or location.startswith("-") or "\0" in location:
        raise SourceError(f"source {location!r}: give a folder or a git address (https, ssh, git or file)")
    if not folder.is_dir():
        what = "is a file" if folder.is_file() else "no such folder, and not a git address"
        raise SourceError(f"source {location!r}: {what}; give a folder or a git address")
    folder = folder.resolve()
    if revision is not None:
        return git.fetch(folder.as_uri(), revision, cache / "sources")
    return folder, git.head_of(folder), []


def _tracked(selection: Selection) -> Selection:
    """In a fetched revision every file is tracked; ignore files do not apply."""
    return Selection(selection.include, selection.exclude, selection.max_file_size, honour_gitignore=False)


def _project_name(location: str) -> str:
    if git.is_url(location):
        return location.rstrip("/").rsplit("/", 1)[-1].rsplit(":", 1)[-1].removesuffix(".git") or "project"
    return Path(location).expanduser().resolve().name or "project"
