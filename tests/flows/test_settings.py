"""Settings: which layer wins, who may set what, and what is said of what cannot be used."""

from __future__ import annotations

import json

import pytest

from flows.settings import Service, Settings, cache_home, operator_file, resolve_settings
from tasks.documents import SourceError


@pytest.fixture
def layers(home, tmp_path, monkeypatch):
    """Write the operator's and the repository's file; set the environment; resolve."""

    def resolve(operator="", repository="", environment=(), flags=None, config=None):
        operator_file().parent.mkdir(parents=True, exist_ok=True)
        operator_file().write_text(operator)
        (tmp_path / "docmill.toml").write_text(repository)
        for name, value in dict(environment).items():
            monkeypatch.setenv(name, value)
        return resolve_settings(tmp_path, flags or {}, config)

    return resolve


def test_built_in_values(layers, home, monkeypatch):
    monkeypatch.delenv("DOCMILL_MODEL")
    found = layers()
    assert set(found.origins.values()) == {"built-in"}
    assert (found.settings.out, found.settings.include) == ("site", ())
    assert found.settings.result_cache == f"sqlite:///{home}/cache/docmill/results.sqlite"
    assert cache_home() == home / "cache" / "docmill"


def test_later_layers_win(layers):
    given = {
        "operator": 'title = "operator"\nexclude = ["o"]\ninclude = ["o"]\nmax_file_size = 1\nout = "o"\n',
        "repository": 'title = "repository"\nexclude = ["r"]\n',
        "environment": {"DOCMILL_TITLE": "environment", "DOCMILL_OUT": "e", "DOCMILL_MAX_FILE_SIZE": "5"},
        "flags": {"out": "flag", "model": None, "strict": True},
    }
    found = layers(**given)
    settings = found.settings
    assert (settings.title, settings.exclude, settings.include) == ("environment", ("r",), ("o",))
    assert (settings.max_file_size, settings.out, settings.strict) == (5, "flag", True)
    assert {name: found.origins[name] for name in ("title", "exclude", "out", "include", "device")} == {
        "title": "environment",
        "exclude": "docmill.toml:2",
        "out": "flag",
        "include": f"{operator_file()}:3",
        "device": "built-in",
    }


def test_lists_come_from_the_environment_as_json(layers):
    assert layers(environment={"DOCMILL_INCLUDE": '["a", "b"]'}).settings.include == ("a", "b")


@pytest.mark.parametrize("name", sorted({**Settings.model_fields, **Service.model_fields}))
def test_a_repository_may_say_what_its_documentation_shows_and_no_more(layers, name):
    values = {"include": '["a"]', "exclude": '["a"]', "private": '["a"]', "source_url": '"https://a/{path}"'}
    text = f"# first line\n{name} = {values.get(name, 1 if name != 'title' else chr(34) * 2)}\n"
    if name in {"include", "exclude", "title", "source_url", "private", "strict_human"}:
        assert layers(repository=text).origins[name] == "docmill.toml:2"
    else:
        with pytest.raises(SourceError, match=f"docmill.toml:2: '{name}' is the operator's to set"):
            layers(repository=text)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"operator": "\n\nunknown = 1\n"}, "docmill.toml:3: 'unknown' is not a setting"),
        ({"operator": "[section]\nx = 1\n"}, "docmill.toml:1: 'section' is not a setting"),
        ({"operator": "out = \n"}, "docmill.toml: Invalid value"),
        ({"operator": 'device = "tpu"\n'}, "docmill.toml:1: device: "),
        ({"operator": "budget = -1\n"}, "docmill.toml:1: budget: "),
        ({"operator": "processes = 0\n"}, "docmill.toml:1: processes: "),
        ({"repository": "include = [1]\n"}, "docmill.toml:1: include: "),
        ({"repository": '\nsource_url = "https://a"\n'}, "docmill.toml:2: source_url: "),
        ({"repository": 'exclude = ["a", "*a*b*c*d"]\n'}, "docmill.toml:1: exclude: "),
        ({"flags": {"include": ["["]}}, "include: "),
        ({"environment": {"DOCMILL_TYPO": "1"}}, "environment: DOCMILL_TYPO is not a setting"),
        (
            {"operator": 's3_endpoint = "https://key:secret@host"\n'},
            "docmill.toml:1: s3_endpoint: give an http(s)",
        ),
        ({"operator": 's3_encryption = "rot13"\n'}, "docmill.toml:1: s3_encryption: give AES256, aws:kms or"),
        ({"operator": "releases_kept = 0\n"}, "docmill.toml:1: releases_kept: "),
        ({"environment": {"DOCMILL_BUDGET": "many"}}, "environment: budget: "),
        ({"flags": {"budget": -1}}, "flag: budget: "),
    ],
)
def test_what_cannot_be_used_is_named_with_its_place(layers, given, said):
    with pytest.raises(SourceError) as raised:
        layers(**given)
    assert said in str(raised.value)
    assert raised.value.exit_status == 2
    assert len(str(raised.value).splitlines()) == 1
    assert "secret" not in str(raised.value)


def test_a_list_from_the_environment_that_is_no_json(layers):
    with pytest.raises(SourceError, match="; give a list as JSON"):
        layers(environment={"DOCMILL_INCLUDE": "a,b"})


def test_the_operators_file_may_be_a_link_and_lie_anywhere(layers, tmp_path):
    (tmp_path / "real.toml").write_text('title = "linked"\n')
    (tmp_path / "link.toml").symlink_to("real.toml")
    found = layers(config=tmp_path / "link.toml", operator='title = "usual"\n')
    assert found.settings.title == "linked"
    with pytest.raises(SourceError, match="no such file"):
        layers(config=tmp_path / "absent.toml")


def test_the_repositorys_file_may_not_be_a_link(layers, tmp_path):
    layers()
    (tmp_path / "outside.toml").write_text('title = "linked"\n')
    (tmp_path / "docmill.toml").unlink()
    (tmp_path / "docmill.toml").symlink_to("outside.toml")
    assert resolve_settings(tmp_path, {}).settings.title is None


REPOSITORY = """
[[repositories]]
name = "click"
source = "https://example.org/click.git"
branches = ["main", "release/8"]
out = "/srv/click/{branch}"
model = "none"
"""


def site(out: str, name: str = "other") -> str:
    """A further repository, and where its site goes."""
    return f'[[repositories]]\nname = "{name}"\nsource = "https://example.org/a"\nout = "{out}"\n'


def test_sites_lie_beside_each_other(layers):
    given = REPOSITORY + site("/srv/click/main-old") + site("s3://docs/a", "s3") + site("s3://docs/a-b", "b")
    assert len(layers(operator=given).service.repositories) == 4


@pytest.mark.parametrize(
    ("outer", "inner"),
    [
        ("/srv/a", "/srv//a/./b/"),
        ("/", "/srv/a"),
        ("~/a", "~/a/b"),
        ("s3://docs/a/", "s3://docs/a/b"),
        ("s3://docs", "s3://docs/a"),
    ],
)
def test_no_site_lies_inside_of_another(layers, outer, inner):
    for first, second in ((outer, inner), (inner, outer)):
        with pytest.raises(SourceError) as raised:
            layers(operator=site(first) + site(second, "second"))
        assert f"repositories: out {inner!r} is inside of out {outer!r}" in str(raised.value)


def test_the_operator_lists_repositories(layers):
    service = layers(operator=f'nightly = "30 1 * * *"\ntime_zone = "Europe/Berlin"\n{REPOSITORY}').service
    assert (service.nightly, service.time_zone) == ("30 1 * * *", "Europe/Berlin")
    one = service.repository("click")
    assert one.flags("release/8")["out"] == "/srv/click/release-8"
    assert one.flags("main")["model"] == "none"
    assert one.flags("main")["strict"] is None
    with pytest.raises(SourceError, match="repository 'other': is not in the operator's file"):
        service.repository("other")


def test_docmill_config_names_the_operators_file(layers, tmp_path):
    (tmp_path / "named.toml").write_text(REPOSITORY)
    found = layers(environment={"DOCMILL_CONFIG": str(tmp_path / "named.toml")})
    assert [one.name for one in found.service.repositories] == ["click"]
    assert found.origins["repositories"] == f"{tmp_path}/named.toml:2"


def test_what_is_wrong_in_the_environment_is_not_said_to_be_in_the_file(layers):
    entry = {"name": "Other docs", "source": "https://example.org/a", "out": "/srv/a"}
    with pytest.raises(SourceError, match=r"^environment: repositories 2\.name: "):
        layers(
            operator=REPOSITORY,
            environment={"DOCMILL_REPOSITORIES": json.dumps([{**entry, "name": "a"}, entry])},
        )


def test_a_secret_comes_from_the_environment_and_is_not_shown(layers):
    found = layers(environment={"DOCMILL_WEBHOOK_SECRET": "a secret of some length"})
    assert found.service.webhook_secret is not None
    assert found.service.webhook_secret.get_secret_value() == "a secret of some length"
    assert "a secret" not in repr(found)
    with pytest.raises(SourceError, match="'webhook_secret' is a secret: set it in"):
        layers(operator='webhook_secret = "a secret of some length"\n')
    with pytest.raises(SourceError) as raised:
        layers(environment={"DOCMILL_WEBHOOK_SECRET": "hunter2"})
    assert "environment: webhook_secret: give 16 characters at least" in str(raised.value)
    assert "hunter2" not in str(raised.value)


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ('name = "click"', 'name = "Click docs"', "docmill.toml:3: repositories 1.name: give small letters"),
        ('name = "click"', "", "docmill.toml:2: repositories 1.name: is missing"),
        ('name = "click"', "name = 3", "docmill.toml:3: repositories 1.name: give text, in quotes"),
        ("https://example.org", "ext::sh", "repositories 1.source: 'ext::sh/click.git' is no git address"),
        (
            "https://",
            "https://u:hunter2@",
            "repositories 1.source: 'https://example.org/click.git' holds a secret",
        ),
        (
            "https://",
            "https://token@",
            "repositories 1.source: 'https://example.org/click.git' holds a secret",
        ),
        ("release/8", "--upload-pack=x", "repositories 1.branches: '--upload-pack=x' is no name of a branch"),
        ("/srv/click", "click", "repositories 1.out: 'click/{branch}': give an absolute path"),
        ("/{branch}", "", "repositories 1: 'click' has several branches: its out needs a {branch}"),
        ("model", "modell", "repositories 1.modell: is no setting of a repository"),
        (
            'name = "click"',
            'name = "click"\nbudget = "many"',
            "repositories 1.budget: give a number of symbols",
        ),
        (
            REPOSITORY,
            f'{REPOSITORY}\n[[repositories]]\nname = "Other docs"\n',
            f"docmill.toml:{len(REPOSITORY.splitlines()) + 3}: repositories 2.name: ",
        ),
        (REPOSITORY, REPOSITORY * 2, "repositories: two of them have the name 'click'"),
        (REPOSITORY, REPOSITORY + site("/srv//click/main/"), "two of them have the out '/srv//click/main/'"),
        (REPOSITORY, REPOSITORY + site("/srv/click/main/a"), "'/srv/click/main/a' is inside of out '/srv/"),
        (REPOSITORY, 'nightly = "daily"', "nightly: 'daily' is no cron line"),
        (REPOSITORY, 'time_zone = "Mars"', "time_zone: 'Mars' is no time zone"),
        (REPOSITORY, 'webhook_proxies = ["10.0.0.1/8"]', "webhook_proxies: 10.0.0.1/8 has host bits"),
    ],
)
def test_what_the_operator_may_not_list(layers, old, new, said):
    with pytest.raises(SourceError) as raised:
        layers(operator=REPOSITORY.replace(old, new))
    assert said in str(raised.value)
    assert "hunter2" not in str(raised.value)
    assert len(str(raised.value).splitlines()) == 1
