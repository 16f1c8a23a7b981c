"""How the cards of an order are called."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic_core import PydanticCustomError

from card_worker.contracts.patterns import Pattern, check_digit


@pytest.mark.parametrize(
    ("text", "number", "card_id"),
    [
        ("JUL26-{n:08d}", 1, "JUL26-00000001"),
        ("JUL26-{n:08d}", 123_456_789, "JUL26-123456789"),
        ("{n}", 7, "7"),
        ("a{n:03d}b", 42, "a042b"),
        ("{n:010d}{luhn}", 7_992_739_871, "79927398713"),
        ("4{n:014d}{luhn}", 11_111_111_111_111, "4111111111111111"[:15] + "1"),
    ],
)
def test_a_number_becomes_a_name(text: str, number: int, card_id: str) -> None:
    assert Pattern.read(text).card_id(number) == card_id


@pytest.mark.parametrize(
    "text", ["", "JUL26", "{n}{n}", "{n:8d}", "{n:019d}", "{m}", "{n}{x}", "{luhn}{n}", "{n:0d}"]
)
def test_what_is_no_pattern_is_refused(text: str) -> None:
    with pytest.raises(PydanticCustomError):
        Pattern.read(text)


@given(st.integers(1, 10**12), st.integers(1, 50), st.booleans())
def test_a_range_is_its_numbers_one_by_one(first: int, count: int, is_checked: bool) -> None:
    pattern = Pattern.read("A-{n:06d}" + ("{luhn}" if is_checked else ""))
    names = pattern.card_ids(first, count)
    assert names == [pattern.card_id(number) for number in range(first, first + count)]
    assert len(set(names)) == count


@given(st.text("0123456789-AB", min_size=1))
def test_one_wrong_digit_is_seen(text: str) -> None:
    whole = text + check_digit(text)
    for place, c in enumerate(whole[:-1]):
        if c.isdigit():
            other = whole[:place] + str((int(c) + 1) % 10) + whole[place + 1 : -1]
            assert check_digit(other) != whole[-1]


@pytest.mark.parametrize(("text", "fits"), [("a" * 250 + "{n}", True), ("a" * 254 + "{n}", False)])
def test_names_are_card_ids(text: str, fits: bool) -> None:
    assert Pattern.read(text).fits(99_999) is fits
