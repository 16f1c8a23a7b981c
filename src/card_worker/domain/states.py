"""The state table: what each command is told when its card shows a status."""

from collections.abc import Mapping
from functools import cache
from typing import TypeAlias, get_args

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
    WithdrawCard,
)
from card_worker.contracts.enums import Reason, Status, TransactionType
from card_worker.contracts.tokens import CreateToken, RevokeToken, RotatePin
from card_worker.contracts.transactions import (
    CaptureTransaction,
    CreateTransaction,
    ExpireHold,
    RefundTransaction,
    VoidTransaction,
)

OnNewCard: TypeAlias = CreateCard | ActivateCard | WithdrawCard
"""The commands about a card that may not be active or may not exist."""
OnExistingCard: TypeAlias = (
    ReverseActivation
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
"""The commands that name an existing card."""
ByTransaction: TypeAlias = CaptureTransaction | VoidTransaction | RefundTransaction | ExpireHold
"""The commands that name their card by a transaction."""


class Fund(CreateTransaction):
    """The type that stands in the table for `transactions.create` with `type=fund`."""


Row: TypeAlias = type[CreateCard | ActivateCard | OnExistingCard | ByTransaction]
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

# For each command: the reason why it is refused for each status; None: it is allowed. The status
# None is that of a card that doesn't exist.
ALLOWED: Mapping[Row, Column] = {
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
    UnblockCard: _UNLESS_CLOSED,
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


def check_complete(table: str, classes: object, given: Mapping[type, object]) -> None:
    """Raise TypeError when a table has no entry for a class of a union: then nothing starts."""
    missing = [kind.__name__ for kind in get_args(classes) if kind not in given]
    if missing:
        raise TypeError(f"{table} has no entry for {', '.join(missing)}")


check_complete(
    "domain.states.ALLOWED",
    CreateCard | ActivateCard | Fund | OnExistingCard | ByTransaction,
    ALLOWED,
)


def reason_against(
    command: Row | CreateCard | ActivateCard | OnExistingCard | ByTransaction, status: Status | None
) -> Reason | None:
    """Return why a command is refused when its card shows `status`; None: it is allowed."""
    if isinstance(command, type):
        return ALLOWED[command][status]
    if type(command) is CreateTransaction and command.type is TransactionType.FUND:
        return ALLOWED[Fund][status]
    return _column(type(command))[status]


@cache
def _column(kind: Row) -> Column:
    """Return the row of a command; that of its base class for a command that workers make."""
    return next(ALLOWED[base] for base in kind.__mro__ if base in ALLOWED)
