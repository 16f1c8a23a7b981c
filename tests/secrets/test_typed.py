"""Tokens and PINs as people type them: which spellings are the same."""

from typing import Any
from uuid import UUID

import pytest

from card_worker.secrets.drawing import HIDDEN_BITS_MIN, draw_tokens
from card_worker.secrets.formats import PREFIX_MAX, TokenFormat
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


def is_short(value: str) -> bool:
    return VAULT.keyed_token(ACCOUNT, Secret(value)).is_short


def test_no_token_of_a_short_format_counts_as_long() -> None:
    prefix = "A-Very.Long~Prefix_Of_A_Shop-2026"[:PREFIX_MAX]
    for names in ({"numbers"}, {"characters"}, {"symbols"}, {"numbers", "characters", "symbols"}):
        for unambiguous in (False, True):
            given: dict[str, Any] = dict.fromkeys(names, True)
            flags = TokenFormat(**given, unambiguous=unambiguous)
            longest = max(n for n in range(1, 129) if flags.bits(n) < HIDDEN_BITS_MIN)
            for length in (8, longest):
                format = flags.model_copy(update={"length": length, "prefix": prefix})
                assert all(map(is_short, draw_tokens(format, 100)))


@pytest.mark.parametrize(
    ("value", "short"),
    [
        ("1234567890123456", True),
        ("GIFT-2026-12345678", True),
        ("", True),
        ("DINCARD:0b7a3a3e-3c58-4d0e-9d4b-6a0a4f2f7c11", False),
        ("DINCARD:12345678", True),
        ("x" * 32 + "aB3dE5gH7jK9", False),
        ("x" * 32 + "aB3dE5gH7j", True),
        ("1" + "-" * 60 + "2" * 15, True),  # dashes don't count: it is found without them
    ],
)
def test_the_text_of_a_token_shows_whether_it_is_short(value: str, short: bool) -> None:
    assert is_short(value) is short
