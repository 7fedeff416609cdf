"""What must not be kept."""

import json
import re

import hypothesis
import pytest
from hypothesis import strategies

from sandbox.traces.secrets import BLOT, Secrets

SECRETS = [
    "sk-proj-abcdefghijklmnop1234567890",
    "sk-ant-api03-abcdefghijklmnopqrst",
    "sbx_0a1b2c3d_abcdefghijklmnopqrstuv",
    "ghp_abcdefghijklmnopqrstuvwxyz012345",
    "github_pat_11ABCDEFG0abcdefghijkl_mnop",
    "glpat-abcdefghijklmnopqrst",
    "xoxb-1234567890-abcdefghij",
    "AKIAIOSFODNN7EXAMPLE",
    "AIzaSyA-abcdefghijklmnopqrstuvwxyz012345",
    "hf_abcdefghijklmnopqrstuvwxyz",
    "sk_live_abcdefghijklmnopqrst",
    "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjM0In0.abcdefghijklmnop",
]


@pytest.mark.parametrize("secret", SECRETS)
def test_what_looks_like_a_secret_is_blotted_out_and_nothing_else(secret: str) -> None:
    told = Secrets().blot(f"the key is {secret}, he said")
    assert told == f"the key is {BLOT}, he said"


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("password = hunter2-and-more", f"password = {BLOT}"),
        ('{"api_key": "abc123def456"}', f'{{"api_key": "{BLOT}"}}'),
        ("Authorization: Bearer abcdefghijklmnop", f"Authorization: Bearer {BLOT}"),
        ("postgresql://me:swordfish@db/name", f"postgresql://me:{BLOT}@db/name"),
        ("DB_PASSWORD='correct horse'", f"DB_PASSWORD='{BLOT} horse'"),
        (r'{"code": "password = \"s3cr3t-pass-word\""}', rf'{{"code": "password = \"{BLOT}\""}}'),
        (r'{"code": "f(\"password=hunter2222\")"}', rf'{{"code": "f(\"password={BLOT}\")"}}'),
        (r'{"code": "{\"api_key\": \"abc123def456\"}"}', rf'{{"code": "{{\"api_key\": \"{BLOT}\"}}"}}'),
        (r'"{\"code\": \"x(password=\\\"hunter2222\\\")\"}"', rf'"{{\"code\": \"x(password=\\\"{BLOT}\\\")\"}}"'),
        (r"password=hunter\2\222 x", f"password={BLOT} x"),
        (r'"import x\nsk-abcdefghijklmnopqrst"', rf'"import x\n{BLOT}"'),
        (r'{"url": "http:\/\/me:sword\/"}', r'{"url": "http:\/\/me:sword\/"}'),
        (r'{"url": "http:\/\/me:sword@host\/"}', rf'{{"url": "http:\/\/me:{BLOT}@host\/"}}'),
        ('{"url":"http://host:80","mail":"me@host"}', '{"url":"http://host:80","mail":"me@host"}'),
        ("my-old-password: swordfish", f"my-old-password: {BLOT}"),
    ],
)
def test_what_is_called_a_secret_is_blotted_out(text: str, told: str) -> None:
    assert Secrets().blot(text) == told


def test_a_private_key_is_blotted_out_whole() -> None:
    key = "-----BEGIN RSA PRIVATE KEY-----\nMIIE\nabc=\n-----END RSA PRIVATE KEY-----"
    assert Secrets().blot(f"a\n{key}\nb") == f"a\n{BLOT}\nb"


def test_known_secrets_are_blotted_out_whatever_they_look_like() -> None:
    assert Secrets(["correct horse"]).blot("it is correct horse!") == f"it is {BLOT}!"
    assert Secrets(["", "short"]).blot("a short word") == "a short word"


def test_known_secrets_are_found_as_json_writes_them() -> None:
    secrets = Secrets(['correct "horse"', "übergeheim"])
    for text in (json.dumps('it is correct "horse"'), json.dumps("übergeheim"), '"übergeheim"'):
        assert json.loads(secrets.blot(text)).removeprefix("it is ") == BLOT


def test_what_is_blotted_stays_as_it_is_when_blotted_again() -> None:
    once = Secrets().blot(
        'password=swordfish {"password": "swordfish"} http://me:swordfish@host bearer abcdefghijklmnop'
    )
    assert once.count(BLOT) == 4
    assert Secrets().blot(once) == once


def test_json_stays_json() -> None:
    secrets = Secrets(["nothing-else"])
    for value in (
        {"code": 'f("password=hunter2222")\nx = {"api_key": "abc123def456"}'},
        {"code": 'password = """hunter2222"""'},
        {"password": "hunter2222", "secret": 12345678},
        {"data": "password=hunter2222"},
        {"code": "nothing-else"},
        {SECRETS[0]: [SECRETS[1]]},
    ):
        blotted = secrets.blot_json(json.dumps(value))
        assert BLOT in json.dumps(json.loads(blotted))
        for secret in ("hunter2222", "abc123def456", "12345678", "nothing-else", *SECRETS):
            assert secret not in blotted


def test_no_escape_is_torn_apart_in_json() -> None:
    text = json.dumps({"code": "x\nothing-else"})
    assert json.loads(Secrets(["nothing-else"]).blot_json(text)) == json.loads(text)


@pytest.mark.parametrize("text", ['{"code":  "print(1)"}', '{"password": "no"}', "[1.00]", "{", "print(1)", ""])
def test_json_in_which_there_is_nothing_to_blot_is_left_as_it_is(text: str) -> None:
    assert Secrets().blot_json(text) == text


def test_what_is_no_json_is_blotted_as_text() -> None:
    assert Secrets().blot_json('{"code": "password=hunter2222') == f'{{"code": "password={BLOT}'
    assert Secrets().blot_json("[" * 100_000 + "password=hunter2222").endswith(f"password={BLOT}")
    twice = '{"password": "hunter2222", "password": "x"}'
    assert "hunter2222" not in Secrets().blot_json(twice)


_PIECES = ["password", "=", ": ", '"', "'", "\\", "\n", "{", "}", "hunter2222", "://me:", "@", "a", " ", "bearer "]


@hypothesis.given(strategies.lists(strategies.sampled_from(_PIECES)).map("".join))
def test_whatever_stands_in_json_it_stays_json(code: str) -> None:
    text = json.dumps({"code": code})
    assert list(json.loads(Secrets().blot_json(text))) == ["code"]
    assert list(json.loads(Secrets().blot(text))) == ["code"]


_ODD = ("hunter2hunter2", "token", "api", "key", "_", "-", "\\/", "\u212a", "\u017f", "\u0131")


@pytest.mark.parametrize("known", [(), ("hunter2hunter2",)])
@hypothesis.given(strategies.lists(strategies.sampled_from((*_PIECES, *SECRETS, *_ODD))).map("".join))
def test_the_first_look_overlooks_nothing(known: tuple[str, ...], text: str) -> None:
    quick, thorough = Secrets(known), Secrets(known)
    thorough._any, thorough._marks = re.compile(""), ("",)  # which find something everywhere
    assert quick.blot(text) == thorough.blot(text)


def test_harmless_text_stays() -> None:
    text = "df['password_strength'].mean()  # task-force, skip-this-one, the secret of df.api"
    assert Secrets().blot(text) == text


def test_every_text_in_a_value_is_looked_at_but_pictures_are_left_alone() -> None:
    value = {"a": [SECRETS[0], 1, None], "image/png": SECRETS[0], "b": {"c": (SECRETS[1],)}}
    assert Secrets().blot_all(value) == {"a": [BLOT, 1, None], "image/png": SECRETS[0], "b": {"c": [BLOT]}}
