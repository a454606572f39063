"""Which files of a source are taken, and when they are read again."""

from __future__ import annotations

import os
import random
import subprocess
from pathlib import Path

import pytest

from tasks.documents import Snapshot, SourceError
from tasks.ingest import ingest, open_source, project_name
from tasks.ingest.git import head_of, is_url, shown, validated_revision
from tasks.ingest.tree import Selection, StatCache, Walk


@pytest.fixture
def folder(tmp_path) -> Path:
    path = tmp_path / "project"
    path.mkdir()
    return path


def put(folder: Path, *names: str, **contents: str) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(contents.get(name, "x = 1\n"))


def snapshot(folder: Path, **selection) -> Snapshot:
    return ingest(open_source(str(folder), None, folder.parent), Selection(**selection), folder.parent)


def taken(folder: Path, **selection) -> set[str]:
    found = snapshot(folder, **selection)
    return {file.path for file in (*found.code, *found.prose)}


def git(folder: Path, *arguments: str) -> str:
    safe = ["-c", "user.name=A", "-c", "user.email=a@b", "-c", "core.excludesFile=/dev/null"]
    command = ["git", *safe, *arguments]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=True).stdout


def agrees_with_git(folder: Path) -> None:
    git(folder, "init", "--quiet")
    expected = git(folder, "ls-files", "-z", "--others", "--exclude-per-directory=.gitignore").split("\0")
    walk = Walk(folder, Selection(), (), StatCache(folder.parent / "stat.json"))
    walk.run()
    assert {f.path for f in walk.files} == {n for n in expected if n.endswith((".py", ".pyi", ".md"))}


FILES = [
    *("a.py", "b.py", "keep.py", "build/a.py", "build/keep.py", "pkg/a.py", "pkg/build/a.py", "pkg/sub/a.py"),
    *("pkg/sub/keep.py", "docs/a.md", "docs/api/a.md", "x y.py", "ünï.py", "#c.py", "!d.py", "e.pyi", "z.py"),
]


@pytest.mark.parametrize(
    "ignored",
    [
        {"": "a.py"},
        {"": "/a.py"},
        {"": "build/"},
        {"": "/build"},
        {"": "build"},
        {"": "pkg/*"},
        {"": "pkg/*\n!pkg/sub/\n"},
        {"": "pkg/**/a.py"},
        {"": "**/sub"},
        {"": "*.py\n!keep.py"},
        {"": "build/\n!build/keep.py"},
        {"": "build/*\n!build/keep.py"},
        {"": "*.py", "pkg": "!a.py"},
        {"": "*.py", "pkg": "!*.py", "pkg/sub": "a.py"},
        {"": "!a.py", "pkg": "a.py"},
        {"pkg": "/a.py\n/sub/a.py"},
        {"pkg": "sub/"},
        {"": "\\#c.py\n\\!d.py\n# a.py\n"},
        {"": "x y.py\nünï.py\nz.py   \n"},
        {"": "[ab].py\n?.pyi\n"},
        {"": "a.py\r\nb.py\r\n"},
        {"": "docs/**\n!docs/api/\n!docs/api/**\n"},
        {"": "*\n!*/\n!*.md\n"},
        {"": "/*\n!/pkg\n"},
        {"": "pkg/sub/\n", "pkg/sub": "!keep.py"},
        {"": "doc*/a*\n"},
        {"": "!\n\\\n[z-a]\na.py\n"},
        {"": "\n\n   \n\ta.py\n"},
    ],
    ids=repr,
)
def test_ignore_files_mean_what_they_mean_to_git(folder, ignored):
    put(folder, *FILES)
    for where, lines in ignored.items():
        (folder / where / ".gitignore").write_text(lines, newline="")
    agrees_with_git(folder)


@pytest.mark.parametrize(
    ("selection", "expected"),
    [
        ({"include": ("pkg/",)}, {"pkg/a.py", "pkg/build/a.py", "pkg/sub/a.py", "pkg/sub/keep.py"}),
        ({"include": ("*.md", "/a.py")}, {"a.py", "docs/a.md", "docs/api/a.md"}),
        ({"include": ("pkg/**",), "exclude": ("**/build/", "keep.py")}, {"pkg/a.py", "pkg/sub/a.py"}),
        ({"include": ("pkg/", "!pkg/sub/")}, {"pkg/a.py", "pkg/build/a.py"}),
        ({"exclude": ("*", "!keep.py")}, {"keep.py", "build/keep.py", "pkg/sub/keep.py"}),
    ],
)
def test_include_and_exclude(folder, selection, expected):
    put(folder, *FILES)
    assert taken(folder, **selection) == expected


def test_what_is_no_part_of_a_source(folder):
    put(folder, "a.py", ".hidden.py", ".venv/a.py", "__pycache__/a.py", "node_modules/a.py", ".github/a.md")
    put(folder, "env/pyvenv.cfg", "env/lib/a.py", "data.json", "a.pyc", "b.PY", "stub.pyi", "a.pyi")
    assert taken(folder) == {"a.py", "stub.pyi"}


def test_the_folder_of_the_site_is_hidden(folder):
    put(folder, "a.py", "site/b.py", "out.d/c.py")
    source = open_source(str(folder), None, folder.parent)
    found = ingest(source, Selection(), folder.parent, [folder / "site", folder / "out.d"])
    assert [file.path for file in found.code] == ["a.py"]


def test_the_cap_on_sizes(folder):
    put(folder, "a.py", "b.py", **{"a.py": "#" * 100, "b.py": "#" * 101})
    found = snapshot(folder, max_file_size=100)
    assert [file.path for file in found.code] == ["a.py"]
    assert [(f.path, f.reason, f.detail) for f in found.skipped] == [
        ("b.py", "too-large", "101 bytes, the cap is 100")
    ]


def digests(folder: Path) -> dict[str, str]:
    return {file.path: file.digest for file in snapshot(folder).code}


def test_an_edit_of_the_same_size_in_the_same_second_is_seen(folder):
    file = folder / "a.py"
    put(folder, "a.py", "b.py")
    seen = [digests(folder)["a.py"]]
    for number in range(5):
        info = file.stat()
        file.write_text(f"x = {number + 2}\n")
        os.utime(file, ns=(info.st_atime_ns, info.st_mtime_ns))
        seen.append(digests(folder)["a.py"])
    assert len(set(seen)) == 6


@pytest.mark.parametrize("how", ["in place", "replaced"])
def test_an_old_file_is_read_again_when_its_stat_changed(folder, how):
    file = folder / "a.py"
    put(folder, "a.py")
    old = file.stat().st_mtime_ns - 10**11
    os.utime(file, ns=(old, old))
    before = digests(folder)["a.py"]
    if how == "replaced":
        (folder / "new").write_text("x = 2\n")
        (folder / "new").replace(file)
    else:
        file.write_text("x = 2\n")
    os.utime(file, ns=(old, old))
    assert digests(folder)["a.py"] != before


def test_an_old_file_is_not_read_again(folder, monkeypatch):
    put(folder, "a.py")
    monkeypatch.setattr("tasks.ingest.tree._RACY_NS", -(10**10))  # as if it were old: a ctime cannot be set
    first = digests(folder)
    monkeypatch.setattr(Walk, "_read", lambda *_: pytest.fail("read again"))
    assert digests(folder) == first


def test_a_damaged_stat_cache_is_no_obstacle(folder, monkeypatch):
    put(folder, "a.py")
    monkeypatch.setattr("tasks.ingest.tree._RACY_NS", -(10**10))  # so that it is written at once
    first = digests(folder)
    for file in (folder.parent / "stat").iterdir():
        file.write_bytes(b'{"a.py": [1')
    assert digests(folder) == first


def test_the_digest_covers_content_names_and_skips_but_not_the_place(folder, tmp_path):
    put(folder, "a.py", "a.md")
    one = snapshot(folder).digest
    other = tmp_path / "elsewhere" / "project"
    put(other, "a.py", "a.md")
    assert snapshot(other).digest == one
    digests = {one}
    for change in ({"a.py": "x = 2\n"}, {"a.md": "# x\n"}):
        put(folder, *change, **change)
        digests.add(snapshot(folder).digest)
    (folder / "b.py").write_bytes(b"\0")
    digests.add(snapshot(folder).digest)
    (folder / "a.md").rename(folder / "b.md")
    digests.add(snapshot(folder).digest)
    assert len(digests) == 5


# --- revisions


def test_a_revision_is_read_as_it_was_committed(folder, tmp_path):
    git(folder, "init", "--quiet", "--initial-branch=main")
    put(folder, "a.py", "ignored.py", ".gitignore", **{".gitignore": "ignored.py\n"})
    git(folder, "add", "--all", "--force")
    git(folder, "commit", "--quiet", "--message=one")
    git(folder, "tag", "v1")
    put(folder, "a.py", "b.py", **{"a.py": "changed = 1\n"})
    git(folder, "add", "--all")
    git(folder, "commit", "--quiet", "--message=two")
    put(folder, "uncommitted.py")
    first, second = git(folder, "rev-parse", "v1", "main").split()
    for revision, sha, files in (
        ("v1", first, {"a.py": "x = 1\n", "ignored.py": "x = 1\n"}),
        (first, first, {"a.py": "x = 1\n", "ignored.py": "x = 1\n"}),
        ("main~1", first, {"a.py": "x = 1\n", "ignored.py": "x = 1\n"}),
        ("HEAD^", first, {"a.py": "x = 1\n", "ignored.py": "x = 1\n"}),
        ("main~0", second, {"a.py": "changed = 1\n", "b.py": "x = 1\n", "ignored.py": "x = 1\n"}),
        ("main", second, {"a.py": "changed = 1\n", "b.py": "x = 1\n", "ignored.py": "x = 1\n"}),
        (None, second, {"a.py": "changed = 1\n", "b.py": "x = 1\n", "ignored.py": "x = 1\n"}),
    ):
        location = str(folder) if revision else folder.as_uri()
        source = open_source(location, revision, tmp_path / "cache")
        found = ingest(source, Selection(), tmp_path / "cache")
        assert (found.revision, found.name) == (sha, "project")
        assert {f.path: Path(found.root, f.path).read_text() for f in found.code} == files
    assert not (folder / ".git" / "FETCH_HEAD").exists()


def test_a_folder_in_a_repository_is_read_as_it_was_committed(tmp_path):
    inner = tmp_path / "repository" / "packages" / "inner"
    inner.mkdir(parents=True)
    put(inner, "a.py", "docmill.toml", "deep/docmill.toml")
    (inner / "linked.py").symlink_to("a.py")
    put(inner.parent, "outside.py")
    git(tmp_path / "repository", "init", "--quiet", "--initial-branch=main")
    git(tmp_path / "repository", "add", "--all")
    git(tmp_path / "repository", "commit", "--quiet", "--message=one")
    (sha,) = git(tmp_path / "repository", "rev-parse", "main").split()
    put(inner, "uncommitted.py")
    source = open_source(str(inner), "main", tmp_path / "cache")
    found = ingest(source, Selection(), tmp_path / "cache")
    assert (found.revision, found.name, [f.path for f in found.code]) == (sha, "inner", ["a.py"])
    assert [file.path for file in found.skipped] == ["linked.py"]
    assert (source.root / "docmill.toml").is_file()
    assert source.has("a.py") and source.has("deep") and not source.has("outside.py")
    assert source.has("../outside.py") and source.has("/packages") and not source.has("../uncommitted.py")
    assert source.has("../../../../issues") and not source.has("../../../outside.py")
    # It may be ignored there, and then has no revision: without being asked for, none is named.
    assert open_source(str(inner), None, tmp_path / "cache").revision is None
    put(inner.parent / "new", "a.py")
    gone = open_source(str(inner.parent / "new"), "main", tmp_path / "cache")
    with pytest.raises(SourceError, match=f"source 'new': at revision {sha} there is no such folder"):
        ingest(gone, Selection(), tmp_path / "cache")


def test_a_stub_stands_for_a_module_that_is_not_taken(folder):
    put(folder, "a.py", "a.pyi", "b.pyi", "c.py", "c.pyi")
    (folder / ".gitignore").write_text("c.py\n")
    assert taken(folder) == {"a.py", "b.pyi", "c.pyi"}


@pytest.mark.parametrize("revision", [None, "main"])
def test_links_that_are_not_selected_are_no_skipped_files(folder, tmp_path, revision):
    put(folder, "a.py")
    for name in ("wanted.py", "unwanted.py"):
        (folder / name).symlink_to("a.py")
    git(folder, "init", "--quiet", "--initial-branch=main")
    git(folder, "add", "--all")
    git(folder, "commit", "--quiet", "--message=x")
    source = open_source(str(folder), revision, tmp_path / "cache")
    found = ingest(source, Selection(exclude=("unwanted.py",)), tmp_path / "cache")
    assert [file.path for file in found.skipped] == ["wanted.py"]


@pytest.fixture
def nested(folder):
    """Nests folders of one name, and gives the innermost as a file descriptor."""
    opened = []

    def nest(name: str, depth: int) -> int:
        opened.append(os.open(folder, os.O_RDONLY))
        for _ in range(depth):
            os.mkdir(name, dir_fd=opened[-1])
            deeper = os.open(name, os.O_RDONLY, dir_fd=opened[-1])
            os.close(opened.pop())
            opened.append(deeper)
        return opened[-1]

    yield nest
    os.close(opened.pop())
    subprocess.run(["rm", "-rf", folder], check=True)  # too deep for the recursive one of Python


def test_a_folder_that_cannot_be_read_is_named(folder, nested):
    put(folder, "a.py")
    nested("d" * 250, 20)  # a path that is longer than the system takes
    with pytest.raises(SourceError, match=r"ddd': File name too long; make it readable"):
        snapshot(folder)


def test_folders_may_be_nested_deeply(folder, nested):
    put(folder, "b.py", f"{'b/' * 100}b.py")
    os.close(os.open("a.py", os.O_CREAT, dir_fd=nested("a", 1500)))
    found = snapshot(folder)
    assert [file.path for file in found.code] == ["b.py", f"{'b/' * 100}b.py"]
    assert [(file.path, file.reason) for file in found.skipped] == [(f"{'a/' * 1500}a.py", "nesting")]


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("detached", [False, True])
def test_the_commit_of_a_working_tree(folder, packed, detached):
    git(folder, "init", "--quiet", "--initial-branch=some/branch")
    assert head_of(folder) is None
    git(folder, "commit", "--quiet", "--allow-empty", "--message=x")
    if detached:
        git(folder, "checkout", "--quiet", "--detach")
    if packed:
        git(folder, "pack-refs", "--all")
    assert head_of(folder) == git(folder, "rev-parse", "HEAD").strip()


def test_the_commit_of_a_linked_worktree(folder, tmp_path):
    git(folder, "init", "--quiet", "--initial-branch=main")
    git(folder, "commit", "--quiet", "--allow-empty", "--message=x")
    git(folder, "worktree", "add", "--quiet", "-b", "other", str(tmp_path / "linked"))
    git(tmp_path / "linked", "commit", "--quiet", "--allow-empty", "--message=y")
    assert head_of(tmp_path / "linked") == git(folder, "rev-parse", "other").strip() != head_of(folder)


@pytest.mark.parametrize("link", ["", "gitdir: /dev/zero", "gitdir: nowhere", "gitdir: .", "\0"])
def test_a_link_to_no_worktree_is_no_commit(folder, link):
    (folder / ".git").write_text(link)
    assert head_of(folder) is None


@pytest.mark.parametrize(
    "head", ["ref: ../../../etc/passwd", "ref: refs/heads/../../HEAD", "x", "", "ref: ", "\0"]
)
def test_a_head_that_is_none_is_no_commit(folder, head):
    (folder / ".git").mkdir()
    (folder / ".git" / "HEAD").write_text(head)
    assert head_of(folder) is None


@pytest.mark.parametrize(
    ("location", "name"),
    [
        ("https://example.com/a/b.git", "b"),
        ("https://example.com/a/b/", "b"),
        ("git@example.com:a/b.git", "b"),
        ("git@example.com:b", "b"),
        ("ssh://git@example.com:22/a/b", "b"),
        ("file:///a/b.git", "b"),
        ("/some/where", "where"),
        ("/", "project"),
    ],
)
def test_names_of_projects(location, name):
    assert project_name(location) == name
    assert is_url(location) is not location.startswith("/")


@pytest.mark.parametrize(
    ("location", "said"),
    [
        ("https://token@host/x.git", "https://host/x.git"),
        ("https://user:p@ss@host/x", "https://host/x"),
        ("https://user:a/b@host/x", "https://host/x"),
        ("https://host/x", "https://host/x"),
        ("git@host:x", "git@host:x"),
    ],
)
def test_passwords_are_not_shown(location, said):
    assert shown(location) == said


@pytest.mark.parametrize(
    "revision",
    ["main", "v1.0", "feature/x-y_z", "1.x", "a@b", "release+1", "f" * 40, "fix/#12", "ünï", "(a)"],
)
def test_well_formed_revisions(revision):
    assert validated_revision(revision) == revision


@pytest.mark.parametrize(
    "revision",
    [
        "",
        "-x",
        "a..b",
        "a b",
        "/a",
        "a/",
        "a//b",
        ".a",
        "a/.b",
        "a.lock",
        "a@{1}",
        "a^",
        "@",
        "+a",
        "a:b",
        "a*",
        "a\\b",
        "a\n",
        "a\u202eb",
        "\ud800",
    ],
)
def test_malformed_revisions(revision):
    with pytest.raises(SourceError):
        validated_revision(revision)


@pytest.mark.parametrize("seed", range(30))
def test_any_ignore_files_mean_what_they_mean_to_git(folder, seed):
    chance = random.Random(seed)
    names = ["a", "b", "ab", "x"]
    for _ in range(25):
        folders = chance.choices(names, k=chance.randrange(3))
        put(folder, "/".join([*folders, chance.choice(names) + ".py"]))

    def pattern() -> str:
        parts = chance.choices([*names, "*", "a*", "?", "**", "[ab]"], k=chance.randrange(1, 4))
        end = chance.choice(["", "", "/", ".py", "*.py", "/*", "/**"]) if parts[-1] != "**" else ""
        return chance.choice(["", "", "!"]) + chance.choice(["", "", "/"]) + "/".join(parts) + end

    for where in [folder, *(path for path in folder.rglob("*") if path.is_dir() and chance.random() < 0.2)]:
        (where / ".gitignore").write_text("\n".join(pattern() for _ in range(chance.randrange(1, 5))))
    agrees_with_git(folder)
