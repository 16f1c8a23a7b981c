"""Commands that workers make themselves: for what has expired, and for the cards of a recall.

Each does the same as its base class, under a key of its own.
"""

from card_worker.contracts.base import InternalCommand
from card_worker.contracts.cards import BlockCard, CloseCard, ExpireCard, UnblockCard, UpdateCard
from card_worker.contracts.transactions import ExpireHold


class SweptCard(InternalCommand, ExpireCard):
    """Expire a card that a sweep has found to be due."""


class SweptHold(InternalCommand, ExpireHold):
    """Release a hold that a sweep has found to be due."""


class RecalledBlock(InternalCommand, BlockCard):
    """Block a card of a recalled batch."""


class RecalledUnblock(InternalCommand, UnblockCard):
    """Unblock a card of a recalled batch."""


class RecalledClose(InternalCommand, CloseCard):
    """Close a card of a recalled batch."""


class RecalledUpdate(InternalCommand, UpdateCard):
    """Extend a card of a recalled batch."""
