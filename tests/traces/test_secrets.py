"""What must not be kept."""

import pytest

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


def test_harmless_text_stays() -> None:
    text = "df['password_strength'].mean()  # task-force, skip-this-one, the secret of df.api"
    assert Secrets().blot(text) == text


def test_every_text_in_a_value_is_looked_at_but_pictures_are_left_alone() -> None:
    value = {"a": [SECRETS[0], 1, None], "image/png": SECRETS[0], "b": {"c": (SECRETS[1],)}}
    assert Secrets().blot_all(value) == {"a": [BLOT, 1, None], "image/png": SECRETS[0], "b": {"c": [BLOT]}}
