"""Commands that put a card into use: create, activate, reverse the activation, replace, update.

For each command: the rows it needs, its decision, and what its events do to the books.
"""

from collections.abc import Iterator
from datetime import datetime, timedelta
from typing import TypedDict

from card_worker.contracts import keys
from card_worker.contracts.cards import (
    UPDATABLE,
    ActivateCard,
    CreateCard,
    ReplaceCard,
    ReverseActivation,
    UpdateCard,
)
from card_worker.contracts.enums import Reason, Side, TransactionType
from card_worker.contracts.secrets import BatchOptions
from card_worker.contracts.views import Problem
from card_worker.domain.books import Books
from card_worker.domain.codes import (
    add_codes,
    change_behaviour,
    request_secrets,
    restore_behaviour,
)
from card_worker.domain.context import Context, check_expiry, named_card, recipients
from card_worker.domain.events import (
    ActivationReversed,
    CardActivated,
    CardCreated,
    CardReplaced,
    CardUpdated,
    Decision,
    ReplacementActivated,
    ReplacementCreated,
)
from card_worker.domain.ids import card_uuid
from card_worker.domain.needs import Needs, card_key, needs_card
from card_worker.domain.posting import Movement, Posted, next_version, post_unless_zero
from card_worker.domain.refusal import Refused
from card_worker.domain.rows import Card, State
from card_worker.domain.rules import effect, on_card, rule, table
from card_worker.domain.states import reason_against
from card_worker.secrets.formats import FORMULA, is_formula


def needs_create(command: CreateCard) -> Needs:
    return Needs(cards=(card_key(command),), makes_cards=True)


def decide_create(command: CreateCard, books: Books, now: datetime) -> Decision:
    key = command.account_id, command.card_id
    if books.is_taken(key):
        raise Refused(Reason.CARD_EXISTS)
    request = request_secrets(
        books.account(command.account_id),
        ((key, command.type),),
        BatchOptions(card_token=command.card_token, pin=command.pin),
        command.seal_to,
    )
    _check_load(books, command)
    return Decision(CardCreated(command, now, key, request))


def check_create(command: CreateCard, books: Books, now: datetime) -> None:
    check_dates(command, books, now)
    if command.card_token is None and command.pin is None:
        return
    if is_formula(command.card_id):
        raise Refused(Reason.INVALID, Problem(field="card_id", message=FORMULA))
    recipients(books.account(command.account_id), command.seal_to)


def apply_created(event: CardCreated, books: Books) -> Posted:
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
        has_codes=event.request is not None,
    )
    posted = _load(books, card, event, version=1)
    if event.request is not None:
        add_codes(books, event, event.request, command.card_token)
    return posted


def needs_activate(command: ActivateCard) -> Needs:
    return Needs(cards=(card_key(command),))


def decide_activate(command: ActivateCard, books: Books, now: datetime) -> Decision:
    card = named_card(books, command, now)
    if card.blocked:
        raise Refused(Reason.CARD_BLOCKED)
    if command.card_token is not None and not books.tokens_of(card, now):
        raise Refused(Reason.TOKEN_NOT_FOUND)
    _check_load(books, command)
    return Decision(CardActivated(command, now, card.key))


def apply_activated(event: CardActivated, books: Books) -> Posted:
    card = books.cards[event.card]
    change_behaviour(books, card, event.command.card_token, event.at)
    return _load(books, card, event, version=card.version + 1)


def check_dates(command: CreateCard | ActivateCard, _books: Books, now: datetime) -> None:
    check_expiry(command.expires_at, now)
    start, end = command.active_from, command.expires_at
    if start is not None and end is not None and end <= start:
        problem = Problem(field="expires_at", message="must be after active_from")
        raise Refused(Reason.INVALID, problem)


def _check_load(books: Books, command: CreateCard | ActivateCard) -> None:
    account = books.account(command.account_id)
    if account.currencies is not None and command.currency not in account.currencies:
        raise Refused(Reason.CURRENCY_MISMATCH)
    for limit in (account.load_max, account.balance_max):
        if limit is not None and command.amount > limit:
            raise Refused(Reason.LIMIT_EXCEEDED)


def _load(books: Books, card: Card, event: CardCreated | CardActivated, *, version: int) -> Posted:
    """Make a card active, with its currency, dates, owner and first load."""
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
        **_activation(card, event),
    )
    movement = Movement(
        TransactionType.FUND, command.amount, Side.ISSUER, Side.CARD, funding=command.funding
    )
    return post_unless_zero(books, card, movement, event)


class _Activation(TypedDict):
    activation: int
    activated_by: str | None
    activated_from: str | None
    postings: int


def _activation(
    card: Card, event: CardCreated | CardActivated | ReplacementCreated | ReplacementActivated
) -> _Activation:
    """Return what an activation leaves on its card."""
    return {
        "activation": card.activation + 1,
        "activated_by": event.command.created_by,
        "activated_from": event.command.originated_by,
        "postings": 0,
    }


def needs_reverse_activation(command: ReverseActivation) -> Needs:
    return needs_card(command)._replace(is_successor=True)


def decide_reverse_activation(command: ReverseActivation, context: Context) -> Decision:
    card = context.card
    # Refunds of the card that it has replaced come to it: it must not be sold to somebody else.
    if card.id in context.books.replaced:
        raise Refused(Reason.NOT_REVERSIBLE)
    # Nothing was posted but the load, and no load of 0 is.
    if card.postings != bool(card.amount) or card.amount != card.amount_funds:
        raise Refused(Reason.NOT_REVERSIBLE)
    assert card.activated_at is not None
    if context.now > card.activated_at + timedelta(seconds=context.account.reversal_window_s):
        raise Refused(Reason.NOT_REVERSIBLE)
    return Decision(ActivationReversed(command, context.now, context.key))


def apply_activation_reversed(event: ActivationReversed, books: Books) -> Posted:
    card = next_version(books, event)
    movement = Movement(TransactionType.REVERSAL, card.amount, Side.CARD, Side.ISSUER)
    reversal = post_unless_zero(books, card, movement, event)
    # As its batch created it, but for its name and metadata.
    restore_behaviour(books, card)
    books.put_card(
        books.cards[event.card]._replace(
            state=State.INACTIVE,
            currency=None,
            amount=0,
            customer_id=None,
            active_from=None,
            activated_at=None,
            activated_by=None,
            activated_from=None,
            expires_at=None,
        )
    )
    return reversal


def needs_replace(command: ReplaceCard) -> Needs:
    return Needs(cards=(card_key(command), (command.account_id, command.new_card_id)), holds=True)


def reasons_against_replace(books: Books, command: ReplaceCard, now: datetime) -> Iterator[Reason]:
    new_key = command.account_id, command.new_card_id
    new = books.cards.get(new_key)
    if books.busy_with(new_key) is not None:
        yield Reason.BATCH_STATE
    if new is not None:
        reason = reason_against(ActivateCard, new.status(now))
        if reason is not None or new.blocked:
            yield reason or Reason.CARD_BLOCKED


def decide_replace(command: ReplaceCard, context: Context) -> Decision:
    new_key = command.account_id, command.new_card_id
    new = context.books.cards.get(new_key)
    context.check_all_available()
    replaced, amount = CardReplaced(command, context.now, context.key), context.card.amount_balance
    begin = ReplacementCreated if new is None else ReplacementActivated
    key = keys.arrival(replaced.id)
    return Decision(replaced, after=(begin(command, context.now, new_key, amount, key=key),))


def apply_replaced(event: CardReplaced, books: Books) -> Posted:
    successor = card_uuid(event.command.account_id, event.command.new_card_id)
    card = next_version(books, event, state=State.CLOSED, replaced_by=successor)
    books.replaced[successor] = card.id
    movement = Movement(TransactionType.TRANSFER, card.amount_balance, Side.CARD, Side.OTHER_CARD)
    return post_unless_zero(books, card, movement, event)


def apply_replacement_created(event: ReplacementCreated, books: Books) -> Posted:
    command = event.command
    old = books.cards[command.account_id, command.card_id]
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
    return _take_over(books, card, event)


def apply_replacement_activated(event: ReplacementActivated, books: Books) -> Posted:
    return _take_over(books, next_version(books, event), event)


def _take_over(
    books: Books, card: Card, event: ReplacementCreated | ReplacementActivated
) -> Posted:
    """Give a card what the old one had. The old card is closed by now, but keeps these fields."""
    old = books.cards[event.command.account_id, event.command.card_id]
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
        **_activation(card, event),
    )
    movement = Movement(TransactionType.TRANSFER, event.amount, Side.OTHER_CARD, Side.CARD)
    return post_unless_zero(books, card, movement, event)


def check_new_expiry(command: UpdateCard, _books: Books, now: datetime) -> None:
    check_expiry(command.expires_at, now)


def decide_update(command: UpdateCard, context: Context) -> Decision:
    new, old = command.expires_at, context.card.expires_at
    if new is not None and (old is None or new <= old):
        raise Refused(Reason.EXPIRY_NOT_LATER)
    return Decision(CardUpdated(command, context.now, context.key))


def apply_updated(event: CardUpdated, books: Books) -> None:
    command, card = event.command, next_version(books, event)
    changed = {name: getattr(command, name) for name in command.model_fields_set & UPDATABLE}
    if "expires_at" in changed and card.state is State.EXPIRED:
        card = card._replace(state=State.ACTIVE)
    books.put_card(card._replace(**changed))


RULES = table(
    rule(CreateCard, needs_create, decide_create, check=check_create),
    rule(ActivateCard, needs_activate, decide_activate, check=check_dates),
    on_card(ReverseActivation, needs_reverse_activation, decide_reverse_activation),
    on_card(ReplaceCard, needs_replace, decide_replace, reasons=reasons_against_replace),
    on_card(UpdateCard, needs_card, decide_update, check=check_new_expiry),
)
EFFECTS = table(
    effect(CardCreated, apply_created),
    effect(CardActivated, apply_activated),
    effect(ActivationReversed, apply_activation_reversed),
    effect(CardReplaced, apply_replaced),
    effect(ReplacementCreated, apply_replacement_created),
    effect(ReplacementActivated, apply_replacement_activated),
    effect(CardUpdated, apply_updated),
)
