"""What each event does to the books. It may not say no: the rules have had their say."""

from datetime import datetime, timedelta
from functools import singledispatch
from typing import Any
from uuid import NAMESPACE_OID, UUID, uuid5

from card_worker.contracts.commands import (
    UPDATABLE,
    ActivateCard,
    CreateCard,
    CreateToken,
    TokenBehaviour,
)
from card_worker.contracts.kinds import BatchState, Side, TransactionType
from card_worker.domain.books import Books, Cause, Movement
from card_worker.domain.events import (
    ActivationReversed,
    BatchCompleted,
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
    TokenCreated,
    TokenRevoked,
    TransferredIn,
    TransferredOut,
    Wanted,
    id_of,
)
from card_worker.domain.needs import batch_id
from card_worker.domain.rows import Batch, Card, Hold, Pin, State, Token, Transaction
from card_worker.secrets.formats import PinFormat, TokenFormat
from card_worker.secrets.peppers import Hash

Moved = Transaction | None


@singledispatch
def evolve(event: Event, books: Books) -> Moved:
    """Bring the books to after `event`; return the transaction it posted, if it moved money."""
    raise AssertionError(f"{event} does nothing")


def card_uuid(account_id: str, card_id: str) -> UUID:
    """Return the service's id of a card: a card_id is never used twice, so neither is this."""
    return uuid5(NAMESPACE_OID, f"{account_id}/{card_id}")


def _next(books: Books, event: CardEvent) -> Card:
    """Return the card that an event is about, a version further."""
    card = books.cards[event.card]
    return card._replace(version=card.version + 1)


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
            books.put_token(_behaving(token, event.command.card_token, event.at))
    return _load(books, card, event, version=card.version + 1)


def _load(
    books: Books, card: Card, event: CardCreated | CardActivated, *, version: int = 1
) -> Moved:
    """Make a card active: give it its currency, dates and owner, and its first money."""
    command: CreateCard | ActivateCard = event.command
    card = card._replace(
        state=State.ACTIVE,
        version=version,
        currency=command.currency,
        amount=command.amount,
        customer_id=command.customer_id,
        name=command.name if command.name is not None else card.name,
        metadata=command.metadata if command.metadata is not None else card.metadata,
        active_from=command.active_from if command.active_from is not None else event.at,
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
    books.put(_next(books, event)._replace(blocked=True))
    return None


@evolve.register
def _(event: CardUnblocked, books: Books) -> Moved:
    card = _next(books, event)._replace(blocked=False)
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
    card = _next(books, event)._replace(state=State.CLOSED)
    moved = Movement(TransactionType.TRANSFER, card.amount_balance, Side.CARD, Side.OTHER_CARD)
    return _post_if_any(books, card, moved, event)


@evolve.register
def _(event: CardClosed, books: Books) -> Moved:
    card = _next(books, event)._replace(state=State.CLOSED)
    moved = Movement(TransactionType.CASH_OUT, card.amount_balance, Side.CARD, Side.CUSTOMER)
    return _post_if_any(books, card, moved, event)


@evolve.register
def _(event: CardExpired, books: Books) -> Moved:
    card = _next(books, event)._replace(state=State.EXPIRED)
    rest = card.amount_available if event.takes_rest else 0
    moved = Movement(TransactionType.BREAKAGE, rest, Side.CARD, Side.BREAKAGE)
    return _post_if_any(books, card, moved, event)


# --- batches ----------------------------------------------------------------------------------


@evolve.register
def _(event: BatchCompleted, books: Books) -> Moved:
    command = event.command
    batch = Batch(
        account_id=command.account_id,
        batch_id=batch_id(command),
        state=BatchState.COMPLETED,
        type=command.type,
        requested=len(command.cards),
        created=len(command.cards),
        created_at=event.at,
        created_by=command.created_by,
        originated_by=command.originated_by,
        name=command.name,
        metadata=command.metadata,
    )
    books.add(batch, event.made.file)
    for asked in command.cards:
        books.put(
            Card(
                id=card_uuid(command.account_id, asked.card_id),
                account_id=command.account_id,
                card_id=asked.card_id,
                type=asked.type if asked.type is not None else command.type,
                state=State.INACTIVE,
                batch_id=batch.batch_id,
                created_at=event.at,
                created_by=command.created_by,
                originated_by=command.originated_by,
                has_codes=event.wanted is not None,
            )
        )
    if event.wanted is not None and command.options is not None:
        _add_codes(books, event, event.wanted, command.options.card_token)
    return None


# --- tokens and PINs --------------------------------------------------------------------------


@evolve.register
def _(event: TokenCreated, books: Books) -> Moved:
    command = event.command
    card = _next(books, event)._replace(has_codes=True)
    books.put(card)
    (made,) = event.made.tokens
    token = _token(id_of(event), card, made, event)
    token = token._replace(ref_id=command.ref_id, metadata=command.metadata)
    books.put_token(_behaving(token, command, event.at))
    return None


@evolve.register
def _(event: TokenRevoked, books: Books) -> Moved:
    books.put(_next(books, event))
    books.put_token(books.tokens[event.token]._replace(revoked_at=event.at))
    return None


@evolve.register
def _(event: PinRotated, books: Books) -> Moved:
    card = _next(books, event)._replace(has_codes=True)
    books.put(card)
    _put_pins(books, event, event.wanted)
    return None


def _add_codes(
    books: Books, event: Making, wanted: Wanted, behaviour: TokenBehaviour | None
) -> None:
    """Give new cards the tokens and PINs that were made for them."""
    for (key, _), made in zip(wanted.cards, event.made.tokens, strict=False):
        card = books.cards[key]
        token = _token(uuid5(card.id, "token"), card, made, event)
        books.put_token(_behaving(token, behaviour, event.at))
    _put_pins(books, event, wanted)


def _token(id: UUID, card: Card, made: tuple[Hash, str], event: Making) -> Token:
    """Return a token that was made, as it is before anybody says how long it serves."""
    assert event.wanted is not None
    kept, masked_code = made
    return Token(
        id=id,
        account_id=card.account_id,
        card=card.id,
        kid=kept.kid,
        digest=kept.digest,
        masked_code=masked_code,
        created_at=event.at,
        format=_format(event.wanted.token),
    )


def _put_pins(books: Books, event: Making, wanted: Wanted) -> None:
    for (key, _), kept in zip(wanted.cards, event.made.pins, strict=False):
        card = books.cards[key]
        books.put_pin(
            Pin(card.id, card.account_id, kept.kid, kept.digest, event.at, _format(wanted.pin))
        )


def _behaving(token: Token, behaviour: TokenBehaviour | CreateToken | None, now: datetime) -> Token:
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
