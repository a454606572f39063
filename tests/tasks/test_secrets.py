"""Secrets in code: none is sent to a model, or shown in a text that docmill adds."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from lxml import html

from infra.cli import main
from tasks.chunk.python import parse_module
from tasks.documents import Module
from tasks.generate.asking import asked_of, chat_manner
from tasks.secrets import has_secret, told_without_secrets, without_secrets
from tests.conftest import tree_bytes

# Made up, and put together here so that no scanner takes this file for a leak.
AWS = "AKIA" + "QWERTYUIOPASDFGH"
GITHUB = "ghp_" + "x7Kq2LmN9pRsT4vW8yZ1aB3cD5eF6gH0jK2l"
SLACK = "xoxb-" + "123456789012-1234567890123-AbCdEfGhIjKlMnOpQrStUvWx"
JWT = "eyJhbGciOiJIUzI1NiIsInR5cCI6IkpXVCJ9." + "eyJzdWIiOiIxMjM0NTY3ODkwIn0.dozjgNryP4J3jVmNHl0w5N_XgL0n3I9P"
KEY = "-----BEGIN RSA " + "PRIVATE KEY-----\\nMIIEowIBAAKCAQEA7bq9\\n-----END RSA PRIVATE KEY-----"
HEX = "3f786850e387550fdab836ed7e6dc881de23001b"
SECRETS = [AWS, GITHUB, SLACK, JWT, KEY, HEX]


@pytest.mark.parametrize("secret", SECRETS)
def test_a_literal_that_holds_a_secret_is_hidden_as_a_whole(secret):
    code = (
        f"def f():\n    x = connect('before {secret} after', 'plain')\n    return x"
        if secret != HEX
        else (f"def f():\n    x = connect('{secret}', 'plain')\n    return x")
    )
    assert without_secrets(code) == "def f():\n    x = connect('...', 'plain')\n    return x"
    assert has_secret(code)


def test_a_password_is_told_by_its_name():
    assert without_secrets("password = 'hunter2hunter'") == "password = '...'"
    assert without_secrets("if 'swordfish99' == password:") == "if '...' == password:"
    assert without_secrets("url = 'https://ann:hunter2@example.org'") == "url = '...'"


@pytest.mark.parametrize(
    ("code", "shown"),
    [
        ("password = 'swordfish'", "password = '...'"),
        ("PASSWORD: Final[str] = 'hunter2'", "PASSWORD: Final[str] = '...'"),
        ("api_key = b'zx81hunter2'", "api_key = b'...'"),
        ("{'password': ['hunter2hunter']}", "{'password': ['...']}"),
        ("{'Authorization': 'Bearer abc123def456ghi789'}", "{'Authorization': '...'}"),
        ("dsn = 'Server=x;Pwd=hunter2;'", "dsn = '...'"),
        ("dsn = 'host=db password=hunter2hunter2 dbname=x'", "dsn = '...'"),
        ("run(['mysql', '--password=hunter2hunter2'])", "run(['mysql', '...'])"),
        ("raise KeyError('token=ghx-2k3j4h5g6f')", "raise KeyError('...')"),
        ("raise KeyError('password \"Tr0ub4dor3xyz\" rejected')", "raise KeyError('...')"),
        ("raise KeyError('the default password is Tr0ub4dor&8')", "raise KeyError('...')"),
        ("raise KeyError('use key: Zx81kQpLm20TnVb8')", "raise KeyError('...')"),
        ("TOKEN = 'Zx81kQpLm20T'", "TOKEN = '...'"),
        ("TOKENS = ['token_Zx81kQpLm20T']", "TOKENS = ['...']"),
        ("API_KEY = 'key-3ax6xnjp29jd6fds4gc373sgvjxteol0'", "API_KEY = '...'"),
        ("secret = 'secretZx81kQpLm20T99'", "secret = '...'"),
        ("PASSWORD = 'passw0rd1234x'", "PASSWORD = '...'"),
        ("access_token: str = 'Zx81kQpLm20T'", "access_token: str = '...'"),
        ("credentials = b'Zx81kQpLm20T'", "credentials = b'...'"),
        ("{'passphrase': 'Zx81kQpLm20T'}", "{'passphrase': '...'}"),
        ("os.environ.get('API_KEY', 'Zx81kQpLm20T')", "os.environ.get('API_KEY', '...')"),
    ],
)
def test_a_password_is_found_however_it_is_written(code, shown):
    assert without_secrets(code) == shown


@pytest.mark.parametrize("secret", [AWS, GITHUB, SLACK, HEX])
def test_a_secret_is_found_in_prose(secret):
    assert has_secret(f"{secret} is not valid: ask for another")


@pytest.mark.parametrize("secret", [AWS, GITHUB, SLACK, HEX])
def test_a_secret_is_hidden_in_what_is_said(secret):
    said = told_without_secrets(f"describes parameter {secret}, which the signature lacks")
    assert said == "describes parameter ..., which the signature lacks"
    assert told_without_secrets("a link to missing.md is dead") == "a link to missing.md is dead"


@pytest.mark.timeout(20)
@pytest.mark.parametrize("line", ["://" + "!:" * 900_000, "/" * 1990, "a:" * 900, "'" * 1990, "key" * 600])
def test_no_line_takes_long(line):
    has_secret("\n".join([line] * 50))
    without_secrets(line)


@pytest.mark.parametrize(
    "code",
    [
        "def get_token(key, password=None):\n    return key",
        "raise KeyError('there is no such key: give the name of one')",
        "'https://example.org/a/rather/long/path/to/a_file_with_a_name.html'",
        "x = 'tasks.generate.asking.SlotFrame'",
        "format = '%Y-%m-%dT%H:%M:%S.%f%z'",
        "letters = 'the quick brown fox'",
        "ALPHABET = 'abcdefghijklmnopqrstuvwxyz'",
        "DIGITS = '0123456789abcdef'",
        "API_KEY_HEADER = 'X-API-Key'",
        "password_field = 'password'",
        "secret_name = 'my-secret'",
        "Bearer authentication is used.",
        "connect(user, password=password)",
        "connect(user, password=settings.password_for(2), token=tokens[12345678])",
        "raise KeyError('give password=... or token=YOUR_TOKEN')",
        "token = 'oauth2_token'",
        "token_url = 'https://a.example/oauth2/token'",
        "max_tokens = '4096'",
        "key = 'end-of-text-1'",
        "monkeys = 'twelve-monkeys-1995-film'",
        "key = 'layer1.block2.conv3.weight'",
        "s3.put(Key='logs/2024-01-01/app.log')",
        "tokenizer = 'gpt-3.5-turbo-0125'",
        "HASH_KEY = 'hmac-sha256'",
        "key_type = 'ecdsa-sha2-nistp256'",
        "{'key_exchange': 'diffie-hellman-group14-sha256'}",
        "token_endpoint = '/oauth2/v2.0/token'",
        "credentials_path = '/etc/app-v1.2.3/cred.json'",
        "Field(primary_key='user_id_v123')",
        "raise KeyError('unknown key layer1.block2.conv3.weight')",
        "raise KeyError('unknown token utf8mb4_0900_ai_ci')",
        "raise KeyError('the password is too short: 8 of 1024 characters')",
        "raise KeyError('unexpected token L1C22')",
    ],
)
def test_what_is_no_secret_stays(code):
    assert without_secrets(code) == code and not has_secret(code)


def test_a_very_long_line_is_hidden_without_being_searched():
    assert without_secrets(f"x = '{'ab' * 20_000}'") == "x = '...'"


# Long enough to be shortened just before what tells that it is one.
DSN = "postgresql://application_user_of_the_reporting:", "Tr0ub4dor3xyz" + "@db/x"
LONG_JWT = "the token of the service that reads it is this one: " + JWT


@pytest.mark.parametrize(
    ("code", "secret"),
    [
        (f'def f():\n    return connect("{DSN[0]}"\n                   "{DSN[1]}")\n', DSN[1]),
        (f'@uses("{DSN[0]}{DSN[1]}")\ndef f(x):\n    return x\n', DSN[1]),
        (f'@uses("{LONG_JWT}")\ndef f(x):\n    return x\n', JWT),
        (f'@uses(\n    b"{DSN[0]}"\n    b"{DSN[1]}"\n)\ndef f(x):\n    return x\n', DSN[1]),
        (f'def f(u):\n    return f"https://{{u}}:{"Tr0ub4dor3xyz" * 5}@db/x"\n', DSN[1]),
    ],
)
def test_a_secret_is_found_before_its_string_is_shortened(code, secret):
    module = Module("m.py", "m", tuple(parse_module(code, "m.py", "m").symbols))
    (request,) = asked_of(module, {"f"}, code, chat_manner(""), lambda prompt: True)
    prompt = request.prompt({}, lambda prompt: True)
    assert "..." in prompt and secret[:8] not in prompt, prompt


def test_the_value_of_an_attribute_is_hidden_also_where_a_secret_is_written_in_pieces():
    (_, attribute) = parse_module(f"DB = ('{DSN[0]}' '{DSN[1]}')\n", "m.py", "m").symbols
    assert attribute.signature == "DB = …"


def test_no_secret_reaches_a_model_or_a_text_of_docmills(tmp_path: Path, monkeypatch, asked_for_all):
    home = tmp_path / "home"
    monkeypatch.setenv("XDG_CACHE_HOME", str(home))
    source = tmp_path / "source"
    source.mkdir()
    far = "what stands before it is long enough to be cut in it: "
    both = [text for secret in SECRETS for text in (secret, f"{far}{secret}")]
    body = "\n".join(f"    use({number}, '{text}')" for number, text in enumerate(both))
    raises = "\n".join(f"    raise ValueError('{text}')" for text in both)
    bases = ", ".join(f"made('{secret}')" for secret in SECRETS[:2])
    said = " and ".join(SECRETS[:3])
    attributes = "\n".join(f"    a{number} = '{secret}'" for number, secret in enumerate(SECRETS))
    (source / "m.py").write_text(
        f"TOKEN = '{GITHUB}'\n\n\nclass Client({bases}):\n{attributes}\n\n"
        f'    def start(self):\n        """{said}."""\n'
        f"\n\ndef connect():\n{body}\n    return 1\n\n\ndef fail():\n{raises}\n"
    )
    prompts = []
    from models.engine import Engine

    admit = Engine._admit
    monkeypatch.setattr(
        Engine, "_admit", lambda self, request: prompts.append(request.prompt) or admit(self, request)
    )
    (source / "docmill.toml").write_text("title = 'Client'\n")
    assert main(["build", str(source), "--out", str(tmp_path / "site"), "--model", str(asked_for_all)]) == 0
    assert any("use(0, '...')" in prompt for prompt in prompts)
    assert any(prompt.startswith("class Client(made('...')") for prompt in prompts)
    site = {n: data.decode("utf-8", "replace") for n, data in tree_bytes(tmp_path / "site").items()}
    # Code is shown as code: in source pages, signatures, and a human's text in its own place.
    added = [
        slot["text"]
        for symbol in json.loads(site["symbols.json"])
        for name, slot in symbol["slots"].items()
        if slot["origin"] != "human"
    ]
    signatures = [s["signature"] for s in json.loads(site["symbols.json"]) if s["kind"] == "attribute"]
    for secret in SECRETS:
        beginning = secret.removeprefix("-----BEGIN RSA PRIVATE KEY-----\\n")[:12]
        assert not any(beginning in text for text in [*prompts, *added, *signatures]), secret
    assert any(AWS in text for name, text in site.items() if name.startswith("src/"))


def test_beside_code_that_is_shown_as_it_is_no_secret_is_repeated(tmp_path, monkeypatch, asked_for_all):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "home"))
    source = tmp_path / "source"
    source.mkdir()
    (source / "m.py").write_text(
        f"@register(token='{GITHUB}')\nclass Client(Base, key='{AWS}'):\n    '''A client.'''\n\n"
        f"    mode: Literal['{SLACK}'] = '{SLACK}'\n\n"
        f"    @route('{JWT}')\n    def start(self, mode: Literal['{SLACK}'] = '{HEX}') -> Literal['{AWS}']:\n"
        f"        '''Start.'''\n\n    def set(self, mode='{HEX}'):\n"
        "        '''Set.\n\n        Args:\n            mode: Which. Defaults to 5.\n        '''\n"
        f"\n    def stop(self, how: Literal['{GITHUB}']):\n        return how\n"
    )
    prompts = []
    from models.engine import Engine

    admit = Engine._admit
    monkeypatch.setattr(
        Engine, "_admit", lambda self, request: prompts.append(request.prompt) or admit(self, request)
    )
    report, site = tmp_path / "report.json", tmp_path / "site"
    flags = ["--model", str(asked_for_all), "--report", str(report)]
    assert main(["build", str(source), "--out", str(site), *flags]) == 0
    page = html.parse(site / "api" / "m.html").getroot()
    shown = page.xpath(
        "//pre[@class='sig'] | //table[@class='params']//td//code | //dl[@class='facts']/dt/code"
    )
    assert {s for s in SECRETS[:4] if any(s in code.text_content() for code in shown)} == set(SECRETS[:4])
    for code in shown:
        code.drop_tree()
    names = ("assets/site.js", "assets/search.js", "llms.txt", "index.html", "modules.html")
    beside = [
        html.tostring(page).decode(),
        report.read_text(),
        *((site / n).read_text() for n in names),
        *prompts,
    ]
    assert any("stop" in prompt for prompt in prompts)
    for secret in SECRETS:
        assert not any(secret in text for text in beside), secret
        assert not any(secret[:12] in prompt for prompt in prompts), secret
