"""Source → Snapshot: which files there are at one revision, and their digests.

Always runs. Reads files, never executes one; what a file means is the next stage's
business.
"""

from __future__ import annotations

import os
import posixpath
import re
from collections.abc import Iterable
from pathlib import Path, PurePath

from msgspec import Struct
from msgspec.structs import replace

from tasks.documents import SkippedFile, Snapshot, SourceError, SourceFile
from tasks.ingest import git
from tasks.ingest.tree import (
    CODE_SUFFIXES,
    IMAGE_SUFFIXES,
    PROSE_SUFFIXES,
    READING,
    Selection,
    StatCache,
    Walk,
)
from tasks.keys import digest

# What code hosts have beside a repository's files, as links from its root reach it (`../../issues`), and the
# files of a branch (`../main/LICENSE`).
_HOSTS = (
    "-|actions|activity|archive|blame|blob|branches|commits?|compare|contributors|deployments|discussions"
    "|forks|graphs|issues|labels|merge_requests|milestones?|network|packages|projects|pulls?|pulse|raw|releases"
    "|security|src|stargazers|tags|tree|watchers|wiki|workflows"
)
_OF_THE_HOST = re.compile(rf"\.\./\.\.(?:/(?:{_HOSTS})(?:/.*)?)?")
_OF_A_BRANCH = re.compile(r"\.\./(?:main|master)/(?P<path>.+)")


class OpenedSource(Struct, frozen=True):
    """A source made readable: its name, the folder with its files, its commit.

    `folder` is where it is in its repository. Of a revision that was fetched, `root` holds what docmill reads
    and `paths` are all files of the repository.
    """

    name: str
    root: Path
    revision: str | None
    links: tuple[SkippedFile, ...]
    fetched: bool
    folder: str = os.curdir
    paths: frozenset[str] = frozenset()

    def has(self, path: str) -> bool:
        """Whether a link from the root leads to a file or folder of the repository, or to a page of its host.

        One that begins with `/` leads on from the repository's root, as on code hosts, or from the source's.
        """
        if path.startswith("/"):
            return any(self._holds(posixpath.join(root, path.lstrip("/"))) for root in ("", self.folder))
        return self._holds(posixpath.join(self.folder, path))

    def _holds(self, path: str) -> bool:
        inside = posixpath.normpath(path)
        if of_a_branch := _OF_A_BRANCH.fullmatch(inside):
            inside = of_a_branch["path"]
        if inside.partition("/")[0] == os.pardir:
            return _OF_THE_HOST.fullmatch(inside) is not None
        if self.fetched:
            is_folder = inside == os.curdir or any(p.startswith(f"{inside}/") for p in self.paths)
            return is_folder or inside in self.paths
        upwards = [os.pardir] * len(PurePath(self.folder).parts)
        return os.path.lexists(self.root.joinpath(*upwards, inside))


def open_source(location: str, revision: str | None, cache: Path) -> OpenedSource:
    """Find a source, and bring it here where it is elsewhere.

    Args:
        location: A folder, or a git address.
        revision: Branch, tag or full SHA; None for a folder's files as they are, or
            for a repository's default branch. Of a folder inside a repository, what is in it there.
        cache: Folder for fetched revisions.

    Raises:
        SourceError: There is no such source or revision, or its address holds a secret.
    """
    git.refuse_secret(location)
    if git.is_url(location):
        return _fetched(project_name(location), location, revision, cache)
    if not location or "::" in location or location.startswith("-") or "\0" in location:
        raise SourceError(
            f"source {git.shown(location)!r}: give a folder or a git address (https, ssh, git or file)"
        )
    try:
        folder = Path(location).expanduser().resolve()
        str(folder).encode()
        is_folder = folder.is_dir()
    except (OSError, RuntimeError, UnicodeEncodeError) as error:  # too long, `~` of nobody, not UTF-8
        raise SourceError(f"source {git.shown(location)!r}: {error}") from error
    if not is_folder:
        what = "is a file" if folder.is_file() else "no such folder, and not a git address"
        raise SourceError(f"source {git.shown(location)!r}: {what}; give a folder or a git address")
    name = project_name(location).removesuffix(".git")
    if revision is None and not git.is_bare(folder):
        where = os.path.relpath(folder, git.repository_of(folder))
        return OpenedSource(name, folder, git.head_of(folder), (), fetched=False, folder=where)
    repository = git.repository_of(folder)
    return _fetched(name, repository.as_uri(), revision, cache, os.path.relpath(folder, repository))


def _fetched(
    name: str, location: str, revision: str | None, cache: Path, folder: str = os.curdir
) -> OpenedSource:
    found = git.fetch(location, revision, cache / "sources")
    inside = f"{folder}/" if folder != os.curdir else ""
    links = (
        replace(link, path=link.path[len(inside) :]) for link in found.links if link.path.startswith(inside)
    )
    return OpenedSource(name, found.root / folder, found.sha, tuple(links), True, folder, found.paths)


def ingest(source: OpenedSource, selection: Selection, cache: Path, hidden: Iterable[Path] = ()) -> Snapshot:
    """Take a snapshot of a source.

    Args:
        source: The source.
        selection: Which files are wanted.
        cache: Folder for digests.
        hidden: Folders that are not part of the source (where the site goes).

    Raises:
        SourceError: Nothing in it is anything that docmill documents.
    """
    if not source.root.is_dir():
        raise SourceError(f"source {source.name!r}: at revision {source.revision} there is no such folder")
    if source.fetched:  # every file of a revision is tracked; ignore files do not apply
        selection = replace(selection, honour_gitignore=False)
    stats = StatCache(cache / "stat" / f"{digest([READING, str(source.root), selection])}.json")
    walk = Walk(source.root, selection, hidden, stats)
    walk.run()
    stats.save()
    code = _ending(walk.files, CODE_SUFFIXES)
    prose = _ending(walk.files, PROSE_SUFFIXES)
    images = _ending(walk.files, IMAGE_SUFFIXES)
    links = [link for link in source.links if walk.selects(link.path)]
    skipped = tuple(sorted([*walk.skipped, *links], key=lambda file: file.path))
    if not code:
        why = f" ({len(skipped)} skipped, the first: {_reason(skipped[0])})" if skipped else ""
        what = "no Python file that docmill can read" if skipped else "no Python file"
        raise SourceError(f"source {source.name!r}: holds {what}{why}", skipped)
    covered = digest([source.name, source.revision, code, prose, images, skipped])
    return Snapshot(source.name, source.revision, str(source.root), covered, code, prose, images, skipped)


def _ending(files: Iterable[SourceFile], suffixes: tuple[str, ...]) -> tuple[SourceFile, ...]:
    return tuple(file for file in files if file.path.endswith(suffixes))


def _reason(file: SkippedFile) -> str:
    return f"{file.path}: {file.reason}, {file.detail}"


def project_name(location: str) -> str:
    """What a source is called: the last part of its address."""
    if git.is_url(location):
        return location.rstrip("/").rsplit("/", 1)[-1].rsplit(":", 1)[-1].removesuffix(".git") or "project"
    return Path(location).expanduser().resolve().name or "project"
