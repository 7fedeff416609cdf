"""Keys: what is told of a secret, and what of it is kept."""

import re

import pytest

from sandbox.errors import InvalidLimits, InvalidRequest
from sandbox.keys import KeyLimits, digest, new_key


def test_a_secret_has_a_prefix_for_scanners_and_the_id_of_its_key() -> None:
    secret, row = new_key("ci", KeyLimits(sessions=3), 12.0)
    assert re.fullmatch(r"sbx_[0-9a-f]{8}_[A-Za-z0-9_-]{43}", secret)
    assert secret.split("_")[1] == row.id
    assert (row.name, row.limits, row.created_at, row.revoked_at) == ("ci", KeyLimits(sessions=3), 12.0, None)


@pytest.mark.attack("H05")
def test_a_row_holds_the_digest_and_not_the_secret() -> None:
    secret, row = new_key("ci", KeyLimits(), 0.0)
    assert row.digest == digest(secret)
    assert secret[13:] not in repr(row)


def test_no_two_keys_are_alike() -> None:
    assert len({new_key("ci", KeyLimits(), 0.0)[0] for _ in range(100)}) == 100


def test_any_text_has_a_digest() -> None:
    assert digest("\ud800\0") != digest("\0")


@pytest.mark.parametrize("name", ["", "a" * 101, "a\nb", "a\0"])
def test_a_name_that_nobody_could_read_is_refused(name: str) -> None:
    with pytest.raises(InvalidRequest, match="printable"):
        new_key(name, KeyLimits(), 0.0)


def test_a_negative_limit_is_refused() -> None:
    with pytest.raises(InvalidLimits, match="per_minute is -1"):
        KeyLimits(per_minute=-1)
