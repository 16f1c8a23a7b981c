"""UUIDs made by the thousand are those that are made one by one."""

import os
from datetime import UTC, datetime
from uuid import NAMESPACE_DNS, RFC_4122, UUID, uuid5

import pytest

from card_worker import uuids
from card_worker.domain.ids import card_uuid, card_uuids, token_uuids

NOW = datetime(2026, 11, 24, 10, 0, 0, 123_000, tzinfo=UTC)
NAMES = [f"JUL26-{number:08d}" for number in range(1, 1_001)] + ["é", " ", "x" * 255]


@pytest.mark.parametrize("version", [4, 5, 7])
def test_only_what_says_version_and_variant_is_stamped(version: int) -> None:
    raw = os.urandom(uuids.BYTES * 1_000)
    made = [UUID(bytes=one) for one in uuids.cut(uuids.stamp(raw, version))]
    assert {(one.version, one.variant) for one in made} == {(version, RFC_4122)}
    for one, drawn in zip(made, uuids.cut(raw), strict=True):
        assert one.bytes == _stamped(drawn, version)


def _stamped(drawn: bytes, version: int) -> bytes:
    number = int.from_bytes(drawn, "big")
    number = number & ~(0xF << 76) | version << 76
    return (number & ~(0x3 << 62) | 0x2 << 62).to_bytes(16, "big")


def test_a_name_has_the_id_that_the_standard_library_gives_it() -> None:
    named = uuids.named(NAMESPACE_DNS)
    assert [named(name) for name in NAMES] == [uuid5(NAMESPACE_DNS, name) for name in NAMES]


def test_cards_have_one_id_however_they_are_made() -> None:
    one_by_one = [card_uuid("T00000001", name).bytes for name in NAMES]
    assert card_uuids("T00000001", NAMES) == one_by_one


def test_ids_of_tokens_begin_with_the_time_and_end_as_their_cards_do() -> None:
    cards = card_uuids("T00000001", NAMES)
    made = [UUID(bytes=one) for one in token_uuids(cards, NOW)]
    assert {(one.version, one.variant) for one in made} == {(7, RFC_4122)}
    assert {one.int >> 80 for one in made} == {int(NOW.timestamp() * 1_000)}
    assert [one.bytes[7:] for one in made] == [card[7:] for card in cards]
    assert len(set(made)) == len(NAMES)
