"""Tokens and PINs as people type them: which spellings are the same."""

from uuid import UUID

import pytest

from card_worker.secrets.secret import Secret
from tests.codes import VAULT

ACCOUNT = "T00000001"
CARD = UUID(int=7)
TOKEN = "ABCD1234EFGH5678"


def is_found(stored: str, typed: str) -> bool:
    """Say whether a token is found by what was typed."""
    assert VAULT.tokens is not None
    return (
        VAULT.tokens.token_hashes(ACCOUNT, stored)[0]
        in VAULT.keyed_token(ACCOUNT, Secret(typed)).hashes
    )


def is_pin(stored: str, typed: str) -> bool:
    assert VAULT.pins is not None
    return VAULT.keyed_pin(Secret(typed)).opens(CARD, VAULT.pins.hash_pin(CARD, stored))


@pytest.mark.parametrize(
    "typed",
    [
        TOKEN,
        f" {TOKEN}\n",
        f"\u00a0{TOKEN}\u3000",
        "ABCD 1234 EFGH 5678",
        "ABCD-1234-EFGH-5678",
        "ABCD\u20131234\u2014EFGH\u00a05678",
        "\uff21\uff22\uff23\uff241234EFGH5678",
        "ABCD\uff0d1234 EFGH - 5678 ",
    ],
)
def test_spellings_of_a_token_without_spaces_and_dashes(typed: str) -> None:
    assert is_found(TOKEN, typed)


@pytest.mark.parametrize("typed", ["abcd1234efgh5678", "ABCD1234EFGH567", "ABCD_1234EFGH5678", ""])
def test_other_differences_count(typed: str) -> None:
    assert not is_found(TOKEN, typed)


def test_a_token_with_dashes_is_found_only_with_them() -> None:
    assert is_found("AB-CD-12345678", " AB-CD-12345678 ")
    assert not is_found("AB-CD-12345678", "ABCD12345678")
    assert not is_found("AB-CD-12345678", "AB CD 12345678")


def test_what_was_typed_is_looked_for_before_what_it_may_stand_for() -> None:
    assert VAULT.tokens is not None
    given = VAULT.keyed_token(ACCOUNT, Secret("AB-CD-12345678"))
    assert given.hashes[0] == VAULT.tokens.token_hashes(ACCOUNT, "AB-CD-12345678")[0]
    assert given.hashes[-1].digest == VAULT.tokens.token_hashes(ACCOUNT, "ABCD12345678")[-1].digest


def test_a_spelling_is_renewed_as_itself() -> None:
    assert VAULT.tokens is not None
    given = VAULT.keyed_token(ACCOUNT, Secret("ABCD 1234 EFGH 5678"))
    stored = VAULT.tokens.token_hashes(ACCOUNT, TOKEN)[-1]
    assert given.renewed(stored) == VAULT.tokens.token_hashes(ACCOUNT, TOKEN)[0]


@pytest.mark.parametrize("typed", ["1234", " 1234 ", "1234\t", "\uff11\uff12\uff13\uff14"])
def test_spellings_of_a_pin(typed: str) -> None:
    assert is_pin("1234", typed)


@pytest.mark.parametrize("typed", ["12 34", "12-34", "01234", "123"])
def test_a_pin_has_no_other_spellings(typed: str) -> None:
    assert not is_pin("1234", typed)
