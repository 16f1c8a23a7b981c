"""What time has made due, done by ordinary commands. Twice at once has the effect of once."""

from uuid import uuid4

import structlog
from sqlalchemy import Engine

from card_worker.contracts.commands import ExpireCard
from card_worker.domain.books import Card
from card_worker.handler import handle
from card_worker.storage import leases
from card_worker.storage.books import due_cards
from card_worker.storage.engine import begin

LEASE = "sweep"
LEASE_S = 60.0
SLICE_CARDS = 500
SLICES_MAX = 40
"""A sweep ends after so many slices; what is left is the next one's."""

log = structlog.get_logger(__name__)


def expire_cards(engine: Engine, *, slice_cards: int = SLICE_CARDS) -> int:
    """Write down the expiry of cards whose time has passed; return how many.

    One slice is one commit, so nobody waits for more than a slice. The rules don't wait for the
    sweep: a card is expired when its time has passed, swept or not.
    """
    holder, swept = uuid4().hex, 0
    last: Card | None = None
    for _ in range(SLICES_MAX):
        with begin(engine) as (connection, now):
            if not leases.take(connection, LEASE, holder, now, LEASE_S):
                break
            due = due_cards(connection, now, slice_cards, after=last)
            handle(connection, [_expire(card) for card in due], now)
            if len(due) < slice_cards:
                leases.release(connection, LEASE, holder)
        swept += len(due)
        if len(due) < slice_cards:
            break
        last = due[-1]
    else:
        with begin(engine) as (connection, _):
            leases.release(connection, LEASE, holder)
    if swept:
        log.info("cards expired", cards=swept)
    return swept


def _expire(card: Card) -> ExpireCard:
    # The same card at the same version gives the same key: a second sweep repeats, it doesn't ask.
    return ExpireCard(
        account_id=card.account_id,
        card_id=card.card_id,
        command_id=f"expire-{card.id}-{card.version}",
        originated_by="sweep",
    )
