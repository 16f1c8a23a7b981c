"""What each event does to the books. It may not say no: the rules have had their say."""

import hashlib
from collections.abc import Iterable
from datetime import datetime, timedelta
from functools import singledispatch
from typing import Any
from uuid import NAMESPACE_OID, UUID

from card_worker import uuids
from card_worker.contracts.batches import CreateBatch, ExtendBatch
from card_worker.contracts.cards import UPDATABLE, ActivateCard, CreateCard
from card_worker.contracts.enums import Action, BatchState, CardType, Side, TransactionType
from card_worker.contracts.secrets import TokenBehaviour
from card_worker.contracts.tokens import CreateToken
from card_worker.domain.books import Books, Cause, Movement
from card_worker.domain.events import (
    ActivationReversed,
    BatchApproved,
    BatchCancelled,
    BatchCompleted,
    BatchOrdered,
    CardActivated,
    CardAdjusted,
    CardBlocked,
    CardClosed,
    CardCreated,
    CardDrawnDown,
    CardEvent,
    CardExpired,
    CardFunded,
    CardRefunded,
    CardReplaced,
    CardTookOver,
    CardUnblocked,
    CardUpdated,
    CommandRejected,
    Event,
    HoldCaptured,
    HoldExpired,
    HoldPlaced,
    HoldVoided,
    Making,
    PinRotated,
    RecallBegun,
    TokenCreated,
    TokenRevoked,
    TransferredIn,
    TransferredOut,
    Wanted,
    id_of,
)
from card_worker.domain.rows import Batch, Card, Hold, Job, Pin, State, Token, Transaction
from card_worker.secrets.formats import PinFormat, TokenFormat
from card_worker.secrets.peppers import Hash

Moved = Transaction | None
_card_uuid = uuids.named(NAMESPACE_OID)


@singledispatch
def evolve(event: Event, books: Books) -> Moved:
    """Bring the books to after `event`; return the transaction it posted, if it moved money."""
    raise AssertionError(f"{event} does nothing")


def card_uuid(account_id: str, card_id: str) -> UUID:
    """Return the service's id of a card: a card_id is never used twice, so neither is this."""
    return _card_uuid(f"{account_id}/{card_id}")


def card_uuids(account_id: str, card_ids: Iterable[str]) -> list[bytes]:
    """Return the service's ids of many cards of an account, as `card_uuid` does one by one.

    Each is its 16 bytes.
    """
    begun = hashlib.sha1(NAMESPACE_OID.bytes + f"{account_id}/".encode(), usedforsecurity=False)
    digests = []
    for card_id in card_ids:
        hashing = begun.copy()
        hashing.update(card_id.encode())
        digests.append(hashing.digest()[: uuids.BYTES])
    return uuids.cut(uuids.stamp(b"".join(digests), 5))


def token_uuids(cards: Iterable[bytes], now: datetime) -> list[bytes]:
    """Return the ids of the tokens that cards are made with: RFC 9562's version 7, the time before
    what is the card's, so that an index of them grows at its end. Each is its 16 bytes, as the
    cards' are."""
    time = int(now.timestamp() * 1000).to_bytes(6, "big")
    return uuids.cut(uuids.stamp(b"".join(time + card[len(time) :] for card in cards), 7))


def _next(books: Books, event: CardEvent, **changed: Any) -> Card:
    """Return the card that an event is about, a version further, and changed."""
    card = books.cards[event.card]
    return card._replace(version=card.version + 1, changed_at=event.at, **changed)


def _post(books: Books, card: Card, moved: Movement, event: CardEvent) -> Transaction:
    command = event.command
    cause = Cause(id_of(event), event.at, command.created_by, command.originated_by)
    return books.post(card, moved, cause)


def _post_if_any(books: Books, card: Card, moved: Movement, event: CardEvent) -> Moved:
    if moved.amount > 0:
        return _post(books, card, moved, event)
    books.put(card)
    return None


@evolve.register
def _(_event: CommandRejected, _books: Books) -> Moved:
    return None


# --- beginnings -------------------------------------------------------------------------------


@evolve.register
def _(event: CardCreated, books: Books) -> Moved:
    command = event.command
    card = Card(
        id=card_uuid(*event.card),
        account_id=command.account_id,
        card_id=command.card_id,
        type=command.type,
        state=State.ACTIVE,
        created_at=event.at,
        created_by=command.created_by,
        originated_by=command.originated_by,
        has_codes=event.wanted is not None,
    )
    loaded = _load(books, card, event)
    if event.wanted is not None:
        _add_codes(books, event, event.wanted, command.card_token)
    return loaded


@evolve.register
def _(event: CardActivated, books: Books) -> Moved:
    card = books.cards[event.card]
    if event.command.card_token is not None:
        for token in books.tokens_of(card, event.at):
            books.put_token(behaving(token, event.command.card_token, event.at))
    return _load(books, card, event, version=card.version + 1)


def _load(
    books: Books, card: Card, event: CardCreated | CardActivated, *, version: int = 1
) -> Moved:
    """Make a card active: give it its currency, dates and owner, and its first money."""
    command: CreateCard | ActivateCard = event.command
    card = card._replace(
        state=State.ACTIVE,
        version=version,
        changed_at=event.at,
        currency=command.currency,
        amount=command.amount,
        customer_id=command.customer_id,
        name=command.name if command.name is not None else card.name,
        metadata=command.metadata if command.metadata is not None else card.metadata,
        active_from=command.active_from,
        activated_at=event.at,
        expires_at=command.expires_at,
    )
    moved = Movement(TransactionType.FUND, command.amount, Side.ISSUER, Side.CARD)
    return _post_if_any(books, card, moved, event)


@evolve.register
def _(event: CardTookOver, books: Books) -> Moved:
    # The old card's event has come first, but took nothing from it that is needed here.
    command = event.command
    old = books.cards[command.account_id, command.card_id]
    if event.card in books.cards:
        card = _next(books, event)
    else:
        card = Card(
            id=card_uuid(*event.card),
            account_id=command.account_id,
            card_id=command.new_card_id,
            type=old.type,
            state=State.ACTIVE,
            created_at=event.at,
            created_by=command.created_by,
            originated_by=command.originated_by,
            changed_at=event.at,
        )
    card = card._replace(
        state=State.ACTIVE,
        currency=old.currency,
        amount=event.amount,
        customer_id=old.customer_id,
        name=old.name,
        metadata=old.metadata,
        active_from=old.active_from,
        activated_at=event.at,
        expires_at=old.expires_at,
    )
    moved = Movement(TransactionType.TRANSFER, event.amount, Side.OTHER_CARD, Side.CARD)
    return _post_if_any(books, card, moved, event)


# --- money in and out -------------------------------------------------------------------------


@evolve.register
def _(event: CardFunded, books: Books) -> Moved:
    command = event.command
    moved = Movement(
        TransactionType.FUND,
        command.amount,
        Side.ISSUER,
        Side.CARD,
        ref_id=command.ref_id,
        metadata=command.metadata,
    )
    _use(books, event)
    return _post(books, _next(books, event), moved, event)


@evolve.register
def _(event: CardDrawnDown, books: Books) -> Moved:
    command = event.command
    _use(books, event)
    moved = Movement(
        TransactionType.DRAWDOWN,
        command.amount,
        Side.CARD,
        Side.MERCHANT,
        ref_id=command.ref_id,
        metadata=command.metadata,
    )
    return _post(books, _next(books, event), moved, event)


@evolve.register
def _(event: CardRefunded, books: Books) -> Moved:
    command, parent_id = event.command, event.command.transaction_id
    books.refunded[parent_id] = books.refunded.get(parent_id, 0) + event.amount
    moved = Movement(
        TransactionType.FUND,
        event.amount,
        Side.ISSUER,
        Side.CARD,
        ref_id=command.ref_id,
        parent_id=parent_id,
        metadata=command.metadata,
    )
    return _post(books, _next(books, event), moved, event)


@evolve.register
def _(event: CardAdjusted, books: Books) -> Moved:
    amount, ref_id = event.command.amount, event.command.ref_id
    debit, credit = (Side.ISSUER, Side.CARD) if amount > 0 else (Side.CARD, Side.ISSUER)
    moved = Movement(TransactionType.ADJUSTMENT, abs(amount), debit, credit, ref_id=ref_id)
    return _post(books, _next(books, event), moved, event)


@evolve.register
def _(event: TransferredOut, books: Books) -> Moved:
    ref_id = event.command.ref_id
    moved = Movement(
        TransactionType.TRANSFER, event.amount, Side.CARD, Side.OTHER_CARD, ref_id=ref_id
    )
    return _post(books, _next(books, event), moved, event)


@evolve.register
def _(event: TransferredIn, books: Books) -> Moved:
    # Without the reference: it is the other card's, and may stand for something else on this one.
    moved = Movement(TransactionType.TRANSFER, event.amount, Side.OTHER_CARD, Side.CARD)
    return _post(books, _next(books, event), moved, event)


# --- holds ------------------------------------------------------------------------------------


@evolve.register
def _(event: HoldPlaced, books: Books) -> Moved:
    command = event.command
    moved = Movement(
        TransactionType.PENDING_CAPTURE,
        command.amount,
        Side.AVAILABLE,
        Side.RESERVED,
        ref_id=command.ref_id,
        metadata=command.metadata,
    )
    _use(books, event)
    pending = _post(books, _next(books, event), moved, event)
    books.put_hold(
        Hold(
            id=pending.id,
            account_id=pending.account_id,
            card=pending.card,
            amount=pending.amount,
            created_at=event.at,
            expires_at=event.expires_at,
        )
    )
    return pending


@evolve.register
def _(event: HoldCaptured, books: Books) -> Moved:
    command = event.command
    hold = books.holds[command.transaction_id]
    books.put_hold(hold._replace(captured=hold.captured + event.amount))
    moved = Movement(
        TransactionType.DRAWDOWN,
        event.amount,
        Side.CARD,
        Side.MERCHANT,
        ref_id=command.ref_id,
        parent_id=hold.id,
        metadata=command.metadata,
        captures=True,
    )
    return _post(books, _next(books, event), moved, event)


@evolve.register
def _(event: HoldVoided, books: Books) -> Moved:
    released = _release(books, event.hold)
    moved = released._replace(ref_id=event.command.ref_id, metadata=event.command.metadata)
    return _post(books, _next(books, event), moved, event)


@evolve.register
def _(event: HoldExpired, books: Books) -> Moved:
    return _post(books, _next(books, event), _release(books, event.hold), event)


def _release(books: Books, id: UUID) -> Movement:
    hold = books.holds[id]
    books.put_hold(hold._replace(released=hold.released + hold.amount_open))
    return Movement(
        TransactionType.VOIDED, hold.amount_open, Side.RESERVED, Side.AVAILABLE, parent_id=id
    )


# --- a card's days, and its ends --------------------------------------------------------------


@evolve.register
def _(event: CardUpdated, books: Books) -> Moved:
    command, card = event.command, _next(books, event)
    changed = {name: getattr(command, name) for name in command.model_fields_set & UPDATABLE}
    if "expires_at" in changed and card.state is State.EXPIRED:
        card = card._replace(state=State.ACTIVE)
    books.put(card._replace(**changed))
    return None


@evolve.register
def _(event: CardBlocked, books: Books) -> Moved:
    books.put(_next(books, event, blocked=True))
    return None


@evolve.register
def _(event: CardUnblocked, books: Books) -> Moved:
    card = _next(books, event, blocked=False)
    books.put(card)
    books.forgive(card.id, event.at)
    return None


@evolve.register
def _(event: ActivationReversed, books: Books) -> Moved:
    card = _next(books, event)
    moved = Movement(TransactionType.REVERSAL, card.amount, Side.CARD, Side.ISSUER)
    reversal = _post_if_any(books, card, moved, event)
    # As a batch makes it, but for what it is called.
    books.put(
        books.cards[event.card]._replace(
            state=State.INACTIVE,
            currency=None,
            amount=0,
            customer_id=None,
            active_from=None,
            activated_at=None,
            expires_at=None,
        )
    )
    return reversal


@evolve.register
def _(event: CardReplaced, books: Books) -> Moved:
    card = _next(books, event, state=State.CLOSED)
    moved = Movement(TransactionType.TRANSFER, card.amount_balance, Side.CARD, Side.OTHER_CARD)
    return _post_if_any(books, card, moved, event)


@evolve.register
def _(event: CardClosed, books: Books) -> Moved:
    card = _next(books, event, state=State.CLOSED)
    moved = Movement(TransactionType.CASH_OUT, card.amount_balance, Side.CARD, Side.CUSTOMER)
    return _post_if_any(books, card, moved, event)


@evolve.register
def _(event: CardExpired, books: Books) -> Moved:
    card = _next(books, event, state=State.EXPIRED)
    rest = card.amount_available if event.takes_rest else 0
    moved = Movement(TransactionType.BREAKAGE, rest, Side.CARD, Side.BREAKAGE)
    return _post_if_any(books, card, moved, event)


# --- batches ----------------------------------------------------------------------------------


@evolve.register
def _(event: BatchCompleted, books: Books) -> Moved:
    command = event.command
    batch = _batch(event, BatchState.COMPLETED)
    books.put_batch(batch._replace(created=batch.requested, completed_at=event.at))
    for file, part in event.made.files:
        books.add_file(file, part)
    for asked in command.cards or ():
        kind = asked.type or command.type
        books.put(batch_card(batch, asked.card_id, kind, has_codes=event.wanted is not None))
    if event.wanted is not None and command.options is not None:
        _add_codes(books, event, event.wanted, command.options.card_token)
    return None


@evolve.register
def _(event: BatchOrdered, books: Books) -> Moved:
    state = BatchState.AWAITING_APPROVAL if event.waits else BatchState.RUNNING
    batch = _batch(event, state)._replace(busy=True)
    if event.recipients is not None:
        pin_recipients = event.command.seal_pins_to
        batch = batch._replace(
            recipients=list(event.recipients),
            pin_recipients=None if pin_recipients is None else list(pin_recipients),
        )
    if event.waits:
        books.put_batch(batch)
    else:
        _begin(books, batch, Action.MAKE, event)
    return None


@evolve.register
def _(event: BatchApproved, books: Books) -> Moved:
    batch = books.batches[event.command.account_id, event.command.batch_id]
    batch = batch._replace(state=BatchState.RUNNING, approved_by=event.command.created_by)
    _begin(books, batch, Action.MAKE, event)
    return None


@evolve.register
def _(event: BatchCancelled, books: Books) -> Moved:
    batch = books.batches[event.command.account_id, event.command.batch_id]
    is_whole = batch.completed_at is not None
    batch = batch._replace(state=BatchState.CANCELLED, busy=is_whole or batch.created > 0)
    if batch.busy:
        _begin(books, batch, Action.CANCEL if is_whole else Action.REMOVE, event)
    else:
        books.put_batch(batch)
    return None


@evolve.register
def _(event: RecallBegun, books: Books) -> Moved:
    command = event.command
    batch = books.batches[command.account_id, command.batch_id]
    action = Action(command.command.removeprefix("batches."))
    _begin(books, batch, action, event, first=command.first, last=event.last)
    return None


def batch_card(batch: Batch, card_id: str, kind: CardType, *, has_codes: bool) -> Card:
    """Return a card as its batch makes it. It is as old as the batch."""
    return Card(
        id=card_uuid(batch.account_id, card_id),
        account_id=batch.account_id,
        card_id=card_id,
        type=kind,
        state=State.INACTIVE,
        batch_id=batch.batch_id,
        created_at=batch.created_at,
        created_by=batch.created_by,
        originated_by=batch.originated_by,
        has_codes=has_codes,
    )


def _batch(event: BatchCompleted | BatchOrdered, state: BatchState) -> Batch:
    command = event.command
    listed = command.cards
    options = command.options
    return Batch(
        account_id=command.account_id,
        batch_id=command.called,
        state=state,
        type=command.type,
        requested=command.requested,
        created=0,
        created_at=event.at,
        created_by=command.created_by,
        originated_by=command.originated_by,
        name=command.name,
        metadata=command.metadata,
        command_id=command.command_id,
        pattern=command.card_id_pattern,
        listed=None
        if listed is None
        else [card.model_dump(mode="json", exclude_none=True) for card in listed],
        options=None
        if options is None
        else options.model_dump(mode="json", exclude_defaults=True) or None,
    )


def _begin(
    books: Books,
    batch: Batch,
    action: Action,
    event: BatchOrdered | BatchApproved | BatchCancelled | RecallBegun,
    *,
    first: int = 1,
    last: int | None = None,
) -> None:
    """Begin an action on the batch's cards."""
    command = event.command
    batch = batch._replace(job_count=batch.job_count + 1)
    books.put_batch(batch)
    job = Job.on(
        batch,
        action,
        first,
        batch.requested if last is None else last,
        id=id_of(event),
        command=command.command,
        command_id=command.command_id,
        created_at=event.at,
        last_activity_at=event.at,
        last_progress_at=event.at,
        created_by=command.created_by,
        originated_by=command.originated_by,
        reason=None if isinstance(command, CreateBatch | ExtendBatch) else command.reason,
        expires_at=command.expires_at if isinstance(command, ExtendBatch) else None,
    )
    books.begin(job)


# --- tokens and PINs --------------------------------------------------------------------------


@evolve.register
def _(event: TokenCreated, books: Books) -> Moved:
    command = event.command
    card = _next(books, event, has_codes=True)
    books.put(card)
    (made,) = event.made.tokens
    token = new_token(id_of(event), card, made, event.wanted, event.at)
    token = token._replace(ref_id=command.ref_id, metadata=command.metadata)
    books.put_token(behaving(token, command, event.at))
    return None


@evolve.register
def _(event: TokenRevoked, books: Books) -> Moved:
    books.put(_next(books, event))
    books.put_token(books.tokens[event.token]._replace(revoked_at=event.at))
    return None


@evolve.register
def _(event: PinRotated, books: Books) -> Moved:
    card = _next(books, event, has_codes=True)
    books.put(card)
    _put_pins(books, event, event.wanted)
    return None


def _add_codes(
    books: Books, event: Making, wanted: Wanted, behaviour: TokenBehaviour | None
) -> None:
    """Give new cards the tokens and PINs that were made for them."""
    cards = [books.cards[key] for key, _ in wanted.cards]
    ids = token_uuids((card.id.bytes for card in cards), event.at)
    for id, card, made in zip(ids, cards, event.made.tokens, strict=False):
        token = new_token(UUID(bytes=id), card, made, wanted, event.at)
        books.put_token(behaving(token, behaviour, event.at))
    _put_pins(books, event, wanted)


def new_token(id: UUID, card: Card, made: tuple[Hash, str], wanted: Wanted, now: datetime) -> Token:
    """Return a token that was made, as it is before anybody says how long it serves."""
    kept, masked_code = made
    return Token(
        id=id,
        account_id=card.account_id,
        card=card.id,
        kid=kept.kid,
        digest=kept.digest,
        masked_code=masked_code,
        created_at=now,
        format=_format(wanted.token),
    )


def new_pin(card: Card, kept: Hash, wanted: Wanted, now: datetime) -> Pin:
    """Return a PIN that was made."""
    return Pin(card.id, card.account_id, kept.kid, kept.digest, now, _format(wanted.pin))


def _put_pins(books: Books, event: Making, wanted: Wanted) -> None:
    for (key, _), kept in zip(wanted.cards, event.made.pins, strict=False):
        books.put_pin(new_pin(books.cards[key], kept, wanted, event.at))


def behaving(token: Token, behaviour: TokenBehaviour | CreateToken | None, now: datetime) -> Token:
    """Return the token with what is said of how long it serves; the rest stays."""
    if behaviour is None:
        return token
    if behaviour.expires_in is not None:
        token = token._replace(expires_at=now + timedelta(seconds=behaviour.expires_in))
    if behaviour.expires_after_transaction is not None:
        token = token._replace(expires_after_transaction=behaviour.expires_after_transaction)
    return token


def _use(books: Books, event: CardFunded | CardDrawnDown | HoldPlaced) -> None:
    """Spend a token that serves once; keep what was given under the newest peppers."""
    given, pin = event.command.given_token, event.command.given_pin
    if given is not None:
        token = books.token(given)
        assert token is not None
        spent_at = event.at if token.expires_after_transaction else None
        if spent_at is not None or token.kid != given.newest.kid:
            kid, digest = given.newest
            books.put_token(token._replace(kid=kid, digest=digest, spent_at=spent_at))
    if pin is not None:
        kept = books.pins[books.cards[event.card].id]
        newest_pin = pin.hash(kept.id)
        if kept.kid != newest_pin.kid:
            books.put_pin(kept._replace(kid=newest_pin.kid, digest=newest_pin.digest))


def _format(format: TokenFormat | PinFormat | None) -> dict[str, Any] | None:
    return None if format is None else format.model_dump(mode="json", exclude_defaults=True)
