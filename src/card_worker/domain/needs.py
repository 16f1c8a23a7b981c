"""What has to be loaded before a command can be decided."""

from typing import NamedTuple, TypeAlias
from uuid import UUID

from card_worker.contracts.batches import CreateBatch, OnBatch, is_about_batch
from card_worker.contracts.commands import (
    ActivateCard,
    AdjustBalance,
    ByToken,
    CaptureTransaction,
    Command,
    CreateCard,
    CreateTransaction,
    ExpireHold,
    InvalidCommand,
    RefundTransaction,
    ReplaceCard,
    RevokeToken,
    TransferBalance,
    UnblockCard,
    VoidTransaction,
    WithdrawCard,
    event_id,
)
from card_worker.contracts.queries import Look
from card_worker.domain.rows import BatchKey, CardKey

TransactionKey: TypeAlias = tuple[str, UUID]
"""(account_id, the transaction's id)."""
TokenKey: TypeAlias = tuple[str, str]
"""(account_id, the token's digest)."""


class Needs(NamedTuple):
    """The rows that must be in the books before a command is decided."""

    cards: tuple[CardKey, ...] = ()
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
    guess: UUID | None = None
    """The one of the card's PIN that is to be judged."""
    guesses: bool = False
    """Whether those of the card's PIN that count have to be there."""
    order: CreateBatch | None = None
    """The cards whose names it would take have to be there, the first few."""
    makes: UUID | None = None
    """The transaction that may come of it, by which a later command may name the card."""


def needs(command: Command | Look) -> Needs:
    """Return the rows that `decide` and `evolve` will look at, whether they exist or not."""
    account_id = command.account_id
    if isinstance(command, ByToken):
        if not isinstance(command, CreateTransaction):
            return _by_token(command)
        makes = event_id(account_id, command.key)
        return _by_token(command)._replace(ref_id=command.ref_id, holds=True, makes=makes)
    if is_about_batch(command):
        return _of_batch(command)
    match command:
        case CreateCard() | ActivateCard() | WithdrawCard():
            return Needs(cards=((account_id, command.card_id),))
        case TransferBalance():
            keys = (account_id, command.card_id), (account_id, command.to_card_id)
            return Needs(cards=keys, ref_id=command.ref_id, holds=True)
        case ReplaceCard():
            keys = (account_id, command.card_id), (account_id, command.new_card_id)
            return Needs(cards=keys, holds=True)
        case AdjustBalance():
            key, makes = (account_id, command.card_id), event_id(account_id, command.key)
            return Needs(cards=(key,), ref_id=command.ref_id, holds=True, makes=makes)
        case CaptureTransaction() | VoidTransaction() | RefundTransaction():
            named, makes = (account_id, command.transaction_id), event_id(account_id, command.key)
            return Needs(transactions=(named,), ref_id=command.ref_id, holds=True, makes=makes)
        case ExpireHold():
            return Needs(transactions=((account_id, command.transaction_id),), holds=True)
        case RevokeToken():
            key = account_id, command.card_id
            return Needs(cards=(key,), holds=True, token_id=command.token_id)
        case InvalidCommand():
            return Needs()
        case _:
            forgives = isinstance(command, UnblockCard)
            return Needs(cards=((account_id, command.card_id),), holds=True, guesses=forgives)


def _of_batch(command: CreateBatch | OnBatch) -> Needs:
    account_id = command.account_id
    if not isinstance(command, CreateBatch):
        return Needs(batches=((account_id, command.batch_id),))
    return Needs(
        cards=tuple((account_id, card.card_id) for card in command.cards or ()),
        batches=((account_id, command.called),),
        order=command if command.card_id_pattern is not None else None,
    )


def _by_token(asked: ByToken) -> Needs:
    account_id = asked.account_id
    has_pin = asked.given_pin is not None
    guess = event_id(account_id, asked.key) if has_pin else None
    if asked.card_id is not None:
        return Needs(cards=((account_id, asked.card_id),), guess=guess, guesses=has_pin)
    assert asked.given_token is not None
    tokens = tuple((account_id, hash.digest) for hash in asked.given_token.hashes)
    return Needs(tokens=tokens, guess=guess, guesses=has_pin)
