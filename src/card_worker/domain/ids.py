"""The service's own ids of cards and tokens, derived from their names."""

import hashlib
from collections.abc import Iterable
from datetime import datetime
from uuid import NAMESPACE_OID, UUID

from card_worker import uuids

_card_uuid = uuids.named(NAMESPACE_OID)


def card_uuid(account_id: str, card_id: str) -> UUID:
    """Return the id of a card. A card_id is never used twice, so neither is this."""
    return _card_uuid(f"{account_id}/{card_id}")


def card_uuids(account_id: str, card_ids: Iterable[str]) -> list[bytes]:
    """Return the ids of many cards of an account, 16 bytes each: faster than `card_uuid`."""
    begun = hashlib.sha1(NAMESPACE_OID.bytes + f"{account_id}/".encode(), usedforsecurity=False)
    digests = []
    for card_id in card_ids:
        hashing = begun.copy()
        hashing.update(card_id.encode())
        digests.append(hashing.digest()[: uuids.BYTES])
    return uuids.cut(uuids.stamp(b"".join(digests), 5))


def token_uuids(cards: Iterable[bytes], now: datetime) -> list[bytes]:
    """Return the ids of the tokens that cards are created with, 16 bytes each, as are the cards'.

    They are UUIDs of version 7: the time comes first, so that an index of them grows at its end.
    """
    time = int(now.timestamp() * 1000).to_bytes(6, "big")
    return uuids.cut(uuids.stamp(b"".join(time + card[len(time) :] for card in cards), 7))
