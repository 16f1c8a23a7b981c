"""Random tokens and PINs: alphabets, lengths, distribution, masks."""

import os
from collections import Counter
from typing import Any

import pytest
from pydantic import ValidationError

from card_worker.secrets.drawing import PREFIX, draw_pins, draw_tokens, letters_of, mask
from card_worker.secrets.formats import (
    DIGITS,
    FORMULA_SIGNS,
    LETTERS,
    LOOKALIKES,
    SYMBOLS,
    PinFormat,
    TokenFormat,
)

ALPHABETS = {
    "none named": ({}, DIGITS + LETTERS),
    "digits": ({"numbers": True}, DIGITS),
    "letters": ({"characters": True}, LETTERS),
    "symbols": ({"symbols": True}, SYMBOLS),
    "all": ({"numbers": True, "characters": True, "symbols": True}, DIGITS + LETTERS + SYMBOLS),
    "letters and no digits": ({"characters": True, "numbers": False}, LETTERS),
}


@pytest.mark.parametrize(("flags", "alphabet"), ALPHABETS.values(), ids=ALPHABETS)
def test_a_format_selects_the_alphabet(flags: dict[str, Any], alphabet: str) -> None:
    assert TokenFormat(**flags).alphabet == alphabet
    plain = TokenFormat(**flags, unambiguous=True).alphabet
    assert plain == "".join(c for c in alphabet if c not in LOOKALIKES)


@pytest.mark.parametrize(
    "flags", [{"numbers": False}, {"numbers": False, "characters": False, "symbols": False}]
)
def test_an_empty_alphabet_is_weak(flags: dict[str, Any]) -> None:
    assert TokenFormat(**flags).weakness(with_pin=True) == "leaves no character to choose from"
    assert PinFormat(**flags).weakness == "leaves no character to choose from"


@pytest.mark.parametrize(("flags", "alphabet"), ALPHABETS.values(), ids=ALPHABETS)
def test_each_letter_has_the_same_number_of_byte_values(
    flags: dict[str, Any], alphabet: str
) -> None:
    letters = Counter(letters_of(bytes(range(256)), alphabet).decode())
    assert set(letters) == set(alphabet)
    assert len(set(letters.values())) == 1
    # No more is thrown away than doesn't come out even.
    assert 256 - letters.total() == 256 % len(alphabet)


@pytest.mark.parametrize("length", [8, 16, 36, 128])
def test_tokens_have_their_length_and_prefix(length: int) -> None:
    wanted = TokenFormat(length=length, prefix="GC-", numbers=True)
    tokens = draw_tokens(wanted, 1_000)
    assert len(tokens) == 1_000
    assert {len(token) for token in tokens} == {3 + length}
    assert all(token.startswith("GC-") and token[3:].isdecimal() for token in tokens)
    assert len(set(tokens)) == 1_000 or length == 8


def test_a_token_without_a_format_is_a_uuid() -> None:
    tokens = draw_tokens(None, 1_000)
    assert len(set(tokens)) == 1_000
    assert {len(token) for token in tokens} == {len(PREFIX) + 36}
    assert {token[len(PREFIX) + 14] for token in tokens} == {"4"}


def test_pins_have_their_length() -> None:
    pins = draw_pins(PinFormat(numbers=True), 2_000)
    assert {len(pin) for pin in pins} == {4}
    assert set("".join(pins)) == set(DIGITS)


SIGNED: list[dict[str, Any]] = [
    {"symbols": True},
    {"symbols": True, "numbers": True},
    {"symbols": True, "numbers": True, "characters": True, "unambiguous": True},
]


@pytest.mark.parametrize("flags", SIGNED)
def test_no_value_begins_like_a_formula(flags: dict[str, Any]) -> None:
    alphabet = TokenFormat(**flags).alphabet
    assert set(FORMULA_SIGNS) & set(alphabet) == {"-"}
    drawn = draw_pins(PinFormat(**flags, length=4), 20_000)
    drawn += draw_tokens(TokenFormat(**flags, length=8), 20_000)
    assert {value[0] for value in drawn} == set(alphabet) - {"-"}
    for place in (1, 2, 3):
        assert {value[place] for value in drawn} == set(alphabet)
    with_prefix = draw_tokens(TokenFormat(**flags, length=8, prefix="GC;"), 2_000)
    assert {value[3] for value in with_prefix} == set(alphabet) - {"-"}


def test_values_are_uniformly_distributed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # In place of chance: for each value of a first byte, all values of a second byte.
    values = bytes(range(256))
    firsts, seconds = bytes(value for value in values for _ in values), values * 256
    pairs = bytes(byte for pair in zip(firsts, seconds, strict=True) for byte in pair)
    given = iter([pairs, firsts])
    monkeypatch.setattr(os, "urandom", lambda _: next(given))
    # Of the first byte's values 255 are used, since 256 isn't a multiple of 3.
    count, kinds = 255 * 256, 3 * 4
    counts = Counter(draw_pins(PinFormat(symbols=True, length=2), count))
    assert set(counts.values()) == {count // kinds}
    assert len(counts) == kinds


def test_drawing_nothing_returns_nothing() -> None:
    assert draw_tokens(None, 0) == draw_tokens(TokenFormat(), 0) == draw_pins(PinFormat(), 0) == []


MASKED: list[tuple[dict[str, Any], int]] = [
    ({"numbers": True, "length": 23}, 0),
    ({"numbers": True, "length": 24}, 4),
    ({"prefix": "GC-", "length": 14}, 0),
    ({"prefix": "GC-", "length": 15}, 4),
    ({"numbers": True, "unambiguous": True, "length": 25}, 0),
    ({"numbers": True, "unambiguous": True, "length": 26}, 4),
    # The first of them is one of three characters.
    ({"symbols": True, "length": 36}, 0),
    ({"symbols": True, "length": 37}, 4),
]
"""Formats, and how many characters of their tokens are shown."""


@pytest.mark.parametrize(("fields", "shown"), MASKED)
def test_the_last_four_are_shown_if_64_bits_stay_hidden(fields: dict[str, Any], shown: int) -> None:
    format = TokenFormat(**fields)
    for token in draw_tokens(format, 20):
        end = token[len(token) - shown :]
        masked = format.prefix + "*" * (format.length - shown) + end
        assert mask([token], format) == mask([masked], format) == [masked]
    assert mask([], format) == mask([], None) == []


def test_of_a_uuid_the_last_four_are_shown() -> None:
    (token,) = draw_tokens(None, 1)
    masked = f"DINCARD:********-****-****-****-********{token[-4:]}"
    assert mask([token], None) == mask([masked], None) == [masked]


@pytest.mark.parametrize(
    ("fields", "with_pin", "least"),
    [
        ({"length": 12}, False, None),
        ({"length": 11}, False, 12),
        ({"length": 16, "numbers": True}, False, None),
        ({"length": 15, "numbers": True}, False, 16),
        ({"length": 8, "numbers": True}, True, None),
        ({"length": 7, "numbers": True}, True, 8),
    ],
)
def test_the_minimum_length_of_a_token(
    fields: dict[str, Any], with_pin: bool, least: int | None
) -> None:
    weakness = TokenFormat(**fields).weakness(with_pin=with_pin)
    alone = "" if with_pin else " without a PIN"
    assert weakness == (least and f"must have at least {least} characters{alone}")


def test_the_minimum_length_of_a_pin() -> None:
    assert PinFormat(length=4).weakness is None
    assert PinFormat(length=3).weakness == "must have at least 4 characters"


@pytest.mark.parametrize(
    "fields",
    [
        {"length": 0},
        {"length": 129},
        {"length": "16"},
        {"prefix": "x" * 33},
        {"prefix": "a b"},
        {"prefix": 'a"b'},
        {"prefix": "a\\b"},
        {"prefix": "é"},
        {"prefix": "-GC"},
        {"barcode": "ean13"},
        {"numbers": 1},
        {"colour": "red"},
    ],
)
def test_invalid_formats_are_refused(fields: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        TokenFormat(**fields)
    with pytest.raises(ValidationError):
        PinFormat(**({"length": 33} if "length" in fields else fields))
