"""What has to be loaded before a command can be decided."""

from functools import singledispatch
from typing import NamedTuple, TypeAlias
from uuid import UUID

from card_worker.contracts.batches import CreateBatch, OnBatch
from card_worker.contracts.cards import (
    ActivateCard,
    AdjustBalance,
    CreateCard,
    ReplaceCard,
    TransferBalance,
    UnblockCard,
    WithdrawCard,
)
from card_worker.contracts.commands import Command, InvalidCommand, event_id
from card_worker.contracts.queries import CardQuery
from card_worker.contracts.tokens import RevokeToken
from card_worker.contracts.transactions import (
    ByCardOrToken,
    CaptureTransaction,
    CreateTransaction,
    ExpireHold,
    RefundTransaction,
    VoidTransaction,
)
from card_worker.domain.allowed import OnCard
from card_worker.domain.rows import BatchKey, CardKey

TransactionKey: TypeAlias = tuple[str, UUID]
"""(account_id, the transaction's id)."""
TokenKey: TypeAlias = tuple[str, str]
"""(account_id, the token's digest)."""


class Needs(NamedTuple):
    """The rows that must be in the books before a command is decided."""

    cards: tuple[CardKey, ...] = ()
    makes_cards: bool = False
    """Whether the cards are to be made, and not to exist."""
    batches: tuple[BatchKey, ...] = ()
    transactions: tuple[TransactionKey, ...] = ()
    """With their cards, their holds and what was refunded of them."""
    ref_id: str | None = None
    """Whether the first of the cards, or the transaction's, has a transaction of this name."""
    holds: bool = False
    """Whether the cards' holds that are due have to be there."""
    tokens: tuple[TokenKey, ...] = ()
    """Those that may name the card instead, one for each pepper."""
    token_id: UUID | None = None
    pin_attempt: UUID | None = None
    """The one of the card's PIN that is to be judged."""
    pin_attempts: bool = False
    """Whether those of the card's PIN that count have to be there."""
    order: CreateBatch | None = None
    """The cards whose names it would take have to be there, the first few."""
    makes: UUID | None = None
    """The transaction that may come of it, by which a later command may name the card."""


@singledispatch
def needs(command: Command | CardQuery) -> Needs:
    """Return the rows that `decide` and `evolve` will look at, whether they exist or not."""
    raise AssertionError(f"{command} looks at nothing")


@needs.register
def _(_: InvalidCommand) -> Needs:
    return Needs()


@needs.register
def _(command: OnCard) -> Needs:
    return Needs(cards=(_card(command),), holds=True)


# Some of these have needs of their own: whoever registers last for a type is asked.


@needs.register
def _(command: CreateCard) -> Needs:
    return Needs(cards=(_card(command),), makes_cards=True)


@needs.register
def _(command: ActivateCard | WithdrawCard) -> Needs:
    return Needs(cards=(_card(command),))


@needs.register
def _(command: UnblockCard) -> Needs:
    return Needs(cards=(_card(command),), holds=True, pin_attempts=True)


@needs.register
def _(command: RevokeToken) -> Needs:
    return Needs(cards=(_card(command),), holds=True, token_id=command.token_id)


@needs.register
def _(command: AdjustBalance) -> Needs:
    cards, makes = (_card(command),), _made_by(command)
    return Needs(cards=cards, ref_id=command.ref_id, holds=True, makes=makes)


@needs.register
def _(command: TransferBalance) -> Needs:
    keys = _card(command), (command.account_id, command.to_card_id)
    return Needs(cards=keys, ref_id=command.ref_id, holds=True)


@needs.register
def _(command: ReplaceCard) -> Needs:
    keys = _card(command), (command.account_id, command.new_card_id)
    return Needs(cards=keys, holds=True)


@needs.register
def _(command: CaptureTransaction | VoidTransaction | RefundTransaction) -> Needs:
    named, makes = (command.account_id, command.transaction_id), _made_by(command)
    return Needs(transactions=(named,), ref_id=command.ref_id, holds=True, makes=makes)


@needs.register
def _(command: ExpireHold) -> Needs:
    return Needs(transactions=((command.account_id, command.transaction_id),), holds=True)


@needs.register
def _(asked: CardQuery) -> Needs:
    return _by_token(asked)


@needs.register
def _(command: CreateTransaction) -> Needs:
    makes = _made_by(command)
    return _by_token(command)._replace(ref_id=command.ref_id, holds=True, makes=makes)


@needs.register
def _(command: OnBatch) -> Needs:
    return Needs(batches=((command.account_id, command.batch_id),))


@needs.register
def _(command: CreateBatch) -> Needs:
    account_id = command.account_id
    return Needs(
        cards=tuple((account_id, card.card_id) for card in command.cards or ()),
        makes_cards=True,
        batches=((account_id, command.called),),
        order=command if command.card_id_pattern is not None else None,
    )


def _card(command: CreateCard | ActivateCard | WithdrawCard | OnCard) -> CardKey:
    assert command.card_id is not None  # only what is paid by token may leave it out
    return command.account_id, command.card_id


def _made_by(command: Command) -> UUID:
    return event_id(command.account_id, command.key)


def _by_token(asked: ByCardOrToken) -> Needs:
    account_id = asked.account_id
    has_pin = asked.given_pin is not None
    pin_attempt = event_id(account_id, asked.key) if has_pin else None
    if asked.card_id is not None:
        return Needs(
            cards=((account_id, asked.card_id),), pin_attempt=pin_attempt, pin_attempts=has_pin
        )
    assert asked.given_token is not None
    tokens = tuple((account_id, hash.digest) for hash in asked.given_token.hashes)
    return Needs(tokens=tokens, pin_attempt=pin_attempt, pin_attempts=has_pin)
