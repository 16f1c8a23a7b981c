"""Which command may go on when its card shows what, and what it is told otherwise: one table."""

from collections.abc import Mapping
from functools import cache
from typing import TypeAlias, get_args

from typing_extensions import TypeIs

from card_worker.contracts.cards import (
    ActivateCard,
    AdjustBalance,
    BlockCard,
    CloseCard,
    CreateCard,
    ExpireCard,
    ReplaceCard,
    ReverseActivation,
    TransferBalance,
    UnblockCard,
    UpdateCard,
)
from card_worker.contracts.enums import Reason, Status, TransactionType
from card_worker.contracts.internal import SweptHold
from card_worker.contracts.tokens import CreateToken, RevokeToken, RotatePin
from card_worker.contracts.transactions import (
    CaptureTransaction,
    CreateTransaction,
    ExpireHold,
    RefundTransaction,
    VoidTransaction,
)

ByTransaction: TypeAlias = CaptureTransaction | VoidTransaction | RefundTransaction | ExpireHold
"""What names its card by a transaction."""
_BY_TRANSACTION = frozenset([*get_args(ByTransaction), SweptHold])
OnCard: TypeAlias = (
    CreateCard
    | ActivateCard
    | ReverseActivation
    | UpdateCard
    | BlockCard
    | UnblockCard
    | CloseCard
    | ReplaceCard
    | TransferBalance
    | AdjustBalance
    | RotatePin
    | CreateToken
    | RevokeToken
    | CreateTransaction
    | ExpireCard
)
"""What names its card itself."""


class Fund(CreateTransaction):
    """A row of its own in ALLOWED: money onto a card. Nobody sends it under this name."""


Column: TypeAlias = Mapping[Status | None, Reason | None]

_ABSENT: Column = {None: Reason.CARD_NOT_FOUND}
_LIVE: Column = dict.fromkeys((Status.UNUSED, Status.USED, Status.PARTIALLY_USED))
_NOT_LIVE: Column = {
    **_ABSENT,
    Status.INACTIVE: Reason.CARD_INACTIVE,
    Status.CLOSED: Reason.CARD_CLOSED,
    Status.EXPIRED: Reason.CARD_EXPIRED,
    Status.BLOCKED: Reason.CARD_BLOCKED,
}
_UNLESS_CLOSED: Column = {
    **_ABSENT,
    **dict.fromkeys(Status),
    Status.CLOSED: Reason.CARD_CLOSED,
}

# For each command: what it is told when its card shows this; None: it may go on. The first column,
# None, is a card that doesn't exist.
ALLOWED: Mapping[type[OnCard | ByTransaction], Column] = {
    CreateCard: dict.fromkeys(Status, Reason.CARD_EXISTS) | {None: None},
    ActivateCard: {
        **_ABSENT,
        **dict.fromkeys(Status, Reason.CARD_ALREADY_ACTIVE),
        Status.INACTIVE: None,
        Status.CLOSED: Reason.CARD_CLOSED,
        Status.EXPIRED: Reason.CARD_EXPIRED,
    },
    ReverseActivation: {
        **_NOT_LIVE,
        Status.UNUSED: None,
        Status.USED: Reason.NOT_REVERSIBLE,
        Status.PARTIALLY_USED: Reason.NOT_REVERSIBLE,
    },
    UpdateCard: _UNLESS_CLOSED,
    BlockCard: {**_UNLESS_CLOSED, Status.BLOCKED: Reason.CARD_BLOCKED},
    UnblockCard: {
        **_UNLESS_CLOSED,
        **dict.fromkeys(_LIVE, Reason.CARD_NOT_BLOCKED),
    },
    CloseCard: {**_NOT_LIVE, **_LIVE, Status.BLOCKED: None},
    ReplaceCard: {**_NOT_LIVE, **_LIVE, Status.BLOCKED: None},
    TransferBalance: {**_NOT_LIVE, **_LIVE},
    AdjustBalance: {**_NOT_LIVE, **_LIVE, Status.BLOCKED: None},
    RotatePin: _UNLESS_CLOSED,
    CreateToken: _UNLESS_CLOSED,
    RevokeToken: _UNLESS_CLOSED,
    CreateTransaction: {**_NOT_LIVE, **_LIVE},
    Fund: {**_NOT_LIVE, **_LIVE, Status.BLOCKED: None},
    CaptureTransaction: {**_NOT_LIVE, **_LIVE, Status.BLOCKED: None, Status.EXPIRED: None},
    VoidTransaction: dict.fromkeys([None, *Status]),
    RefundTransaction: {**_NOT_LIVE, **_LIVE, Status.BLOCKED: None},
    ExpireCard: {
        **_ABSENT,
        **dict.fromkeys(Status, Reason.NOT_DUE),
        Status.INACTIVE: Reason.CARD_INACTIVE,
        Status.CLOSED: Reason.CARD_CLOSED,
        Status.EXPIRED: None,
    },
    ExpireHold: dict.fromkeys([None, *Status]),
}


def is_by_transaction(command: object) -> TypeIs[ByTransaction]:
    """Say whether a command names a transaction: by its type, since a union is slow to ask."""
    return type(command) in _BY_TRANSACTION


def reason_against(
    command: type[OnCard | ByTransaction] | OnCard | ByTransaction, status: Status | None
) -> Reason | None:
    """Return why a command is refused whose card shows `status`; None: it isn't."""
    if isinstance(command, type):
        return ALLOWED[command][status]
    if type(command) is CreateTransaction and command.type is TransactionType.FUND:
        return ALLOWED[Fund][status]
    return _column(type(command))[status]


@cache
def _column(kind: type[OnCard | ByTransaction]) -> Column:
    """Return the row of a kind of command; of one that workers make, that of its base class."""
    return next(ALLOWED[base] for base in kind.__mro__ if base in ALLOWED)
