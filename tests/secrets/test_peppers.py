"""Keyed hashes of tokens and PINs, and the parsing of peppers."""

import base64
from uuid import UUID

import pytest

from card_worker.secrets.peppers import Hash, Peppers

OLD, NEW = bytes(range(32)), bytes(range(32, 80))
CARD, OTHER = UUID(int=1), UUID(int=2)


def text(**keys: bytes) -> str:
    return ",".join(f"{kid}:{base64.b64encode(key).decode()}" for kid, key in keys.items())


def hash_token(peppers: Peppers, account_id: str, value: str) -> Hash:
    return peppers.token_hashes(account_id, value)[0]


def test_the_newest_pepper_hashes_and_all_find() -> None:
    old, both = Peppers.read(text(k1=OLD)), Peppers.read(text(k2=NEW, k1=OLD))
    kept = hash_token(old, "T00000001", "token")
    assert (kept.kid, len(kept.digest)) == ("k1", 64)
    assert hash_token(both, "T00000001", "token").kid == "k2"
    assert kept in both.token_hashes("T00000001", "token")
    assert [found.kid for found in both.token_hashes("T00000001", "token")] == ["k2", "k1"]


def test_account_card_and_kind_are_hashed_too() -> None:
    peppers = Peppers.read(text(k=NEW))
    digests = {
        hash_token(peppers, "T00000001", "1234").digest,
        hash_token(peppers, "T00000002", "1234").digest,
        hash_token(peppers, "T0000000", "11234").digest,
        peppers.hash_pin(CARD, "1234").digest,
        peppers.hash_pin(OTHER, "1234").digest,
        peppers.hash_pin(CARD, "12345").digest,
    }
    assert len(digests) == 6


def test_a_pin_is_verified_with_its_card_and_pepper() -> None:
    old, both = Peppers.read(text(k1=OLD)), Peppers.read(text(k2=NEW, k1=OLD))
    kept = old.hash_pin(CARD, "1234")
    assert both.verify_pin(CARD, kept, "1234")
    assert not both.verify_pin(CARD, kept, "1235")
    assert not both.verify_pin(OTHER, kept, "1234")
    assert not Peppers.read(text(k2=NEW)).verify_pin(CARD, kept, "1234")
    # A hash that says it was made with a key that nobody has is nobody's.
    assert not old.verify_pin(CARD, Hash("gone", kept.digest), "1234")


def test_hashes_do_not_change_between_versions() -> None:
    peppers = Peppers.read(text(k=OLD))
    assert hash_token(peppers, "T00000001", "token").digest == TOKEN
    assert peppers.hash_pin(CARD, "1234").digest == PIN


@pytest.mark.parametrize("size", [16, 32, 64, 65, 200])
def test_bulk_hashes_equal_single_hashes(size: int) -> None:
    peppers = Peppers.read(text(k=bytes(range(size))))
    values = ["", "1", "12345", "é" * 200]
    one_by_one = [hash_token(peppers, "T00000001", value) for value in values]
    kid, digests = peppers.hash_tokens("T00000001", values)
    assert [Hash(kid, digest) for digest in digests] == one_by_one
    pinned = [CARD, OTHER, CARD, OTHER]
    kid, digests = peppers.hash_pins([card.bytes for card in pinned], values)
    assert [Hash(kid, digest) for digest in digests] == list(map(peppers.hash_pin, pinned, values))


# A change here makes every token and every PIN that was given out unknown.
TOKEN = "196d084e1a20dc1029011fca138d2f295d8234d4054e61ae98082aa492eda684"
PIN = "616b5f0e647e4775fa7fb856b7f336313399eb3e037e760d4e88fa02b6deb25a"


@pytest.mark.parametrize(
    ("wrong", "why"),
    [
        ("", "key 1"),
        ("secretsecret", "key 1"),
        (f"k:{base64.b64encode(OLD[:15]).decode()}", "key 1: 15 bytes"),
        (f"{text(k=OLD)},x:not-base64!", "key 2: not base64"),
        (f"{text(k=OLD)},{text(k=NEW)}", "same name"),
        (text(**{"much too long a name": OLD}), "key 1"),
        (f"{text(k=OLD)},", "key 2"),
    ],
)
def test_an_invalid_pepper_is_named_by_its_number_and_not_shown(wrong: str, why: str) -> None:
    with pytest.raises(ValueError, match=why) as raised:
        Peppers.read(wrong)
    for part in wrong.replace(":", ",").split(","):
        assert len(part) < 5 or part not in str(raised.value)


def test_the_repr_of_a_pepper_has_no_key() -> None:
    peppers = Peppers.read(text(k=OLD))
    (pepper,) = peppers._by_kid.values()
    assert repr(pepper) == str(pepper) == "Pepper('k')"
    assert base64.b64encode(OLD).decode() not in repr(vars(peppers))
