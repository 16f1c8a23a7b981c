"""The rows that must be loaded before a command is decided."""

from typing import NamedTuple, TypeAlias
from uuid import UUID

from card_worker.contracts.batches import CreateBatch
from card_worker.contracts.commands import Command, event_id
from card_worker.contracts.transactions import (
    ByCardOrToken,
    CaptureTransaction,
    RefundTransaction,
    VoidTransaction,
)
from card_worker.domain.rows import BatchKey, CardKey
from card_worker.domain.states import OnExistingCard, OnNewCard

TransactionKey: TypeAlias = tuple[str, UUID]
"""(account_id, the transaction's id)."""
TokenKey: TypeAlias = tuple[str, str]
"""(account_id, the token's digest)."""


class Needs(NamedTuple):
    """The rows that must be in the books before a command is decided."""

    cards: tuple[CardKey, ...] = ()
    makes_cards: bool = False
    """Whether the command creates the cards; else they should exist."""
    batches: tuple[BatchKey, ...] = ()
    transactions: tuple[TransactionKey, ...] = ()
    """With their cards, their holds and the amounts refunded of them."""
    successor: bool = False
    """Whether the card of the transaction stands for the one that has replaced it."""
    is_successor: bool = False
    """Whether it must be known if the cards have replaced others."""
    ref_id: str | None = None
    """The reference to look up among the transactions of the first card."""
    holds: bool = False
    """Whether the expired holds of the cards are needed."""
    tokens: tuple[TokenKey, ...] = ()
    """The possible digests of the token that names the card, one for each pepper."""
    token_id: UUID | None = None
    pin_attempt: UUID | None = None
    """The PIN attempt to check."""
    pin_attempts: bool = False
    """Whether the PIN attempts that count on the card are needed."""
    order: CreateBatch | None = None
    """The order whose card_ids are looked up: the first few that cards have already."""
    makes: UUID | None = None
    """The id of the transaction that the command may make: a later command may name it."""


def needs_card(command: OnExistingCard | OnNewCard) -> Needs:
    """Return the needs of a command on one card that exists."""
    return Needs(cards=(card_key(command),), holds=True)


def needs_transaction(command: CaptureTransaction | VoidTransaction | RefundTransaction) -> Needs:
    """Return the needs of a command on one transaction."""
    key = command.account_id, command.transaction_id
    return Needs(
        transactions=(key,), ref_id=command.ref_id, holds=True, makes=made_transaction(command)
    )


def needs_access(request: ByCardOrToken) -> Needs:
    """Return the needs of a command or query that may name its card by a token."""
    account_id = request.account_id
    has_pin = request.given_pin is not None
    pin_attempt = event_id(account_id, request.key) if has_pin else None
    if request.card_id is not None:
        key = account_id, request.card_id
        return Needs(cards=(key,), pin_attempt=pin_attempt, pin_attempts=has_pin)
    assert request.given_token is not None
    tokens = tuple((account_id, hash.digest) for hash in request.given_token.hashes)
    return Needs(tokens=tokens, pin_attempt=pin_attempt, pin_attempts=has_pin)


def card_key(command: OnExistingCard | OnNewCard) -> CardKey:
    assert command.card_id is not None  # only a command with a token may leave it out
    return command.account_id, command.card_id


def made_transaction(command: Command) -> UUID:
    """Return the id of the transaction that a command makes: that of its answer."""
    return event_id(command.account_id, command.key)
