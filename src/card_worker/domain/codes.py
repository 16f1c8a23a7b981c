"""Tokens and PINs: of new cards, and those that commands issue, use and revoke."""

from datetime import datetime, timedelta
from uuid import UUID

from card_worker.contracts.enums import CardType, Reason
from card_worker.contracts.metadata import Json
from card_worker.contracts.secrets import BatchOptions, PinOptions, TokenBehaviour
from card_worker.contracts.tokens import CreateToken, RevokeToken, RotatePin
from card_worker.contracts.views import Problem
from card_worker.domain.books import Books
from card_worker.domain.context import Context, recipients
from card_worker.domain.events import (
    CardDrawnDown,
    CardFunded,
    Decision,
    HoldPlaced,
    IssuingEvent,
    PinLocked,
    PinRotated,
    SecretRequest,
    TokenCreated,
    TokenRevoked,
)
from card_worker.domain.ids import token_uuids
from card_worker.domain.needs import Needs, card_key, needs_card
from card_worker.domain.posting import next_version
from card_worker.domain.refusal import Refused
from card_worker.domain.rows import Account, Card, CardKey, Pin, Token
from card_worker.domain.rules import effect, on_card, table
from card_worker.secrets.formats import FOUR_DIGITS, PinFormat, TokenFormat
from card_worker.secrets.peppers import Hash

TOKENS_PER_CARD_MAX = 100
"""Usable tokens at one time. Each event of the card has all of them."""


def check_recipients(command: CreateToken | RotatePin, books: Books, _now: datetime) -> None:
    recipients(books.account(command.account_id), command.seal_to)


def decide_create_token(command: CreateToken, context: Context) -> Decision:
    has_pin = context.card.id in context.books.pins
    _check_token_format("format", command.format, with_pin=has_pin)
    # A reversal of the activation may make expired tokens usable again.
    usable = [
        token
        for token in context.books.all_tokens_of(context.card)
        if token.serves(context.now) or token.as_issued().serves(context.now)
    ]
    if len(usable) >= TOKENS_PER_CARD_MAX:
        raise Refused(Reason.LIMIT_EXCEEDED)
    request = SecretRequest(
        account_id=context.card.account_id,
        cards=((context.key, context.card.type),),
        recipients=recipients(context.account, command.seal_to),
        has_token=True,
        token=command.format,
    )
    return Decision(TokenCreated(command, context.now, context.key, request))


def apply_token_created(event: TokenCreated, books: Books) -> None:
    command = event.command
    card = next_version(books, event, has_codes=True)
    books.put_card(card)
    (issued,) = event.issued.tokens
    token = new_token(event.id, card, issued, event.request, event.at)
    token = token._replace(ref_id=command.ref_id, metadata=command.metadata)
    books.put_token(with_behaviour(token, command, event.at))


def needs_revoke_token(command: RevokeToken) -> Needs:
    return Needs(cards=(card_key(command),), holds=True, token_id=command.token_id)


def decide_revoke_token(command: RevokeToken, context: Context) -> Decision:
    token = context.books.tokens.get(command.token_id)
    if token is None or token.card != context.card.id or token.revoked_at is not None:
        raise Refused(Reason.TOKEN_NOT_FOUND)
    if token.spent_at is not None:
        raise Refused(Reason.TOKEN_SPENT)
    return Decision(TokenRevoked(command, context.now, context.key, token.id))


def apply_token_revoked(event: TokenRevoked, books: Books) -> None:
    books.put_card(next_version(books, event))
    books.put_token(books.tokens[event.token]._replace(revoked_at=event.at))


def needs_rotate_pin(command: RotatePin) -> Needs:
    return needs_card(command)._replace(pin_attempts=True)


def decide_rotate_pin(command: RotatePin, context: Context) -> Decision:
    _check_pin_format("pin.format", command.pin)
    request = SecretRequest(
        account_id=context.card.account_id,
        cards=((context.key, context.card.type),),
        recipients=recipients(context.account, command.seal_to),
        pin=pin_format(command.pin),
    )
    return Decision(PinRotated(command, context.now, context.key, request))


def apply_pin_rotated(event: PinRotated, books: Books) -> None:
    card = next_version(books, event, has_codes=True)
    books.put_card(card)
    books.reset_pin_attempts(card.id, event.at)
    _put_pins(books, event, event.request)


def apply_pin_locked(event: PinLocked, books: Books) -> None:
    card = next_version(books, event)
    books.put_card(card)
    books.pins.put(books.pins[card.id]._replace(locked_until=event.until))


def request_secrets(
    account: Account,
    cards: tuple[tuple[CardKey, CardType], ...],
    options: BatchOptions,
    seal_to: tuple[str, ...] | None,
    *,
    file: str | None = None,
    seal_pins_to: tuple[str, ...] | None = None,
) -> SecretRequest | None:
    """Return the secrets to issue for new cards; None: none. Raises Refused."""
    token, pin = options.card_token, options.pin
    if token is None and pin is None:
        return None
    prefix = "" if file is None else "options."
    if pin is not None:
        _check_pin_format(f"{prefix}pin.format", pin)
    if token is not None:
        field = f"{prefix}card_token.format"
        _check_token_format(field, token.format, with_pin=pin is not None)
    return SecretRequest(
        account_id=account.account_id,
        cards=cards,
        recipients=recipients(account, seal_to),
        has_token=token is not None,
        token=token.format if token is not None else None,
        pin=pin_format(pin),
        file=file,
        pin_recipients=seal_pins_to,
    )


def add_codes(
    books: Books, event: IssuingEvent, request: SecretRequest, behaviour: TokenBehaviour | None
) -> None:
    """Add the tokens and PINs that were issued for new cards."""
    cards = [books.cards[key] for key, _ in request.cards]
    ids = token_uuids((card.id.bytes for card in cards), event.at)
    for id, card, issued in zip(ids, cards, event.issued.tokens, strict=False):
        token = new_token(UUID(bytes=id), card, issued, request, event.at)
        books.put_token(with_behaviour(token, behaviour, event.at))
    _put_pins(books, event, request)


def _put_pins(books: Books, event: IssuingEvent, request: SecretRequest) -> None:
    for (key, _), hash in zip(request.cards, event.issued.pins, strict=False):
        books.pins.put(new_pin(books.cards[key], hash, request, event.at))


def new_token(
    id: UUID, card: Card, issued: tuple[Hash, str], request: SecretRequest, now: datetime
) -> Token:
    """Return a new token of a card, without an end."""
    hash, masked_code = issued
    return Token(
        id=id,
        account_id=card.account_id,
        card=card.id,
        kid=hash.kid,
        digest=hash.digest,
        masked_code=masked_code,
        created_at=now,
        format=_dump(request.token),
    )


def new_pin(card: Card, hash: Hash, request: SecretRequest, now: datetime) -> Pin:
    """Return a new PIN of a card."""
    return Pin(card.id, card.account_id, hash.kid, hash.digest, now, _dump(request.pin))


def with_behaviour(
    token: Token, behaviour: TokenBehaviour | CreateToken | None, now: datetime
) -> Token:
    """Return the token with a behaviour. Fields that this doesn't give stay as they are."""
    if behaviour is None:
        return token
    if behaviour.expires_in is not None:
        token = token._replace(expires_at=now + timedelta(seconds=behaviour.expires_in))
    if behaviour.expires_after_transaction is not None:
        token = token._replace(expires_after_transaction=behaviour.expires_after_transaction)
    return token


def change_behaviour(
    books: Books, card: Card, behaviour: TokenBehaviour | None, now: datetime
) -> None:
    """Give the usable tokens of a card the behaviour that its activation has, if it has one."""
    for token in () if behaviour is None else books.tokens_of(card, now):
        issued = token._replace(
            issued_expires_at=token.expires_at,
            issued_expires_after_transaction=token.expires_after_transaction,
        )
        books.put_token(with_behaviour(issued, behaviour, now))


def restore_behaviour(books: Books, card: Card) -> None:
    """Give the tokens of a card the behaviour that they had before its activation."""
    for token in books.all_tokens_of(card):
        restored = token.as_issued()
        if restored != token:
            books.put_token(restored)


def use_codes(books: Books, event: CardFunded | CardDrawnDown | HoldPlaced) -> None:
    """Spend a token that is for one payment; hash token and PIN again with the newest peppers."""
    given, pin = event.command.given_token, event.command.given_pin
    if given is not None:
        token = books.token(given)
        assert token is not None
        spent_at = event.at if token.expires_after_transaction else None
        kid, digest = given.renewed(Hash(token.kid, token.digest))
        if spent_at is not None or token.kid != kid:
            books.put_token(token._replace(kid=kid, digest=digest, spent_at=spent_at))
    if pin is not None:
        stored = books.pins[books.cards[event.card].id]
        newest = pin.hash(stored.id)
        if stored.kid != newest.kid or stored.locked_until is not None:
            books.pins.put(stored._replace(kid=newest.kid, digest=newest.digest, locked_until=None))


def _check_token_format(field: str, format: TokenFormat | None, *, with_pin: bool) -> None:
    weakness = None if format is None else format.weakness(with_pin=with_pin)
    if weakness is not None:
        raise Refused(Reason.FORMAT_INVALID, Problem(field=field, message=weakness))


def _check_pin_format(field: str, pin: PinOptions) -> None:
    weakness = (pin.format or FOUR_DIGITS).weakness
    if weakness is not None:
        raise Refused(Reason.FORMAT_INVALID, Problem(field=field, message=weakness))


def pin_format(pin: PinOptions | None) -> PinFormat | None:
    """Return the format of a PIN, four digits by default; None without a PIN."""
    return None if pin is None else pin.format or FOUR_DIGITS


def _dump(format: TokenFormat | PinFormat | None) -> dict[str, Json] | None:
    return None if format is None else format.model_dump(mode="json", exclude_defaults=True)


RULES = table(
    on_card(CreateToken, needs_card, decide_create_token, check=check_recipients),
    on_card(RevokeToken, needs_revoke_token, decide_revoke_token),
    on_card(RotatePin, needs_rotate_pin, decide_rotate_pin, check=check_recipients),
)
EFFECTS = table(
    effect(TokenCreated, apply_token_created),
    effect(TokenRevoked, apply_token_revoked),
    effect(PinRotated, apply_pin_rotated),
    effect(PinLocked, apply_pin_locked),
)
