"""Commands that workers make themselves: for what is past its time, and for the cards of a recall.

Each does what the command does that it derives from. Only its key is another.
"""

from card_worker.contracts.about import OwnCommand
from card_worker.contracts.commands import (
    BlockCard,
    CloseCard,
    ExpireCard,
    ExpireHold,
    UnblockCard,
    UpdateCard,
)


class SweptCard(OwnCommand, ExpireCard):
    """Expire a card that a sweep has found due."""


class SweptHold(OwnCommand, ExpireHold):
    """Release a hold that a sweep has found due."""


class RecalledBlock(OwnCommand, BlockCard):
    """Block a card of a recalled batch."""


class RecalledUnblock(OwnCommand, UnblockCard):
    """Unblock a card of a recalled batch."""


class RecalledClose(OwnCommand, CloseCard):
    """Close a card of a recalled batch."""


class RecalledUpdate(OwnCommand, UpdateCard):
    """Extend a card of a recalled batch."""
