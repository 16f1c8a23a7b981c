"""Cards beside their events, their transactions, their holds and their PIN, card by card."""

from collections import Counter
from collections.abc import Callable, Iterator
from typing import TypeAlias
from uuid import UUID

from card_worker.contracts.enums import Side, TransactionType
from card_worker.contracts.json_text import write_time
from card_worker.domain.ids import card_uuid
from card_worker.domain.rows import State, Transaction
from card_worker.storage.reconcile.histories import Seen, slices_of_cards
from card_worker.storage.reconcile.reading import Books
from card_worker.storage.reconcile.report import Difference, Wrong, report, unequal

CardCheck: TypeAlias = Callable[[Seen], Iterator[Wrong]]


def id_is_of_its_name(seen: Seen) -> Iterator[Wrong]:
    """Prove that the id is the one that account and card_id lead to."""
    yield from unequal("id", seen.card.id, card_uuid(*seen.card.key))


def has_each_event_once(seen: Seen) -> Iterator[Wrong]:
    """Prove that the version is that of the last event, and that each version has one event.

    A card of a batch has version 1 without an event.
    """
    times = Counter(event.version for event in seen.events)
    last = max(times, default=1)
    yield from unequal("version", seen.card.version, last)
    if times[1] and seen.card.batch_id is not None:
        yield Wrong("batch_id", seen.card.batch_id, None)
    first = 2 if seen.card.batch_id is not None and not times[1] else 1
    for version in range(first, last + 1):
        if times[version] != 1:
            yield Wrong(f"events with version {version}", times[version], 1)


def events_are_in_order(seen: Seen) -> Iterator[Wrong]:
    """Prove that a later version has a later position, so that it is published later."""
    last = 0
    for event in seen.events:
        if event.position < last:
            yield Wrong(f"position of version {event.version}", event.position, f"above {last}")
        last = event.position


def state_follows_from_events(seen: Seen) -> Iterator[Wrong]:
    """Prove state, block, activation and last change by the types and times of the events.

    A card without an event was changed last when its order made it; in a list that isn't noted.
    """
    card, replayed = seen.card, seen.replayed
    if card.state not in replayed.states:
        yield Wrong("state", card.state, " or ".join(replayed.states))
    yield from unequal("blocked", card.blocked, replayed.blocked)
    yield from unequal("activated_at", card.activated_at, replayed.activated_at)
    if replayed.changed_at is not None:
        yield from unequal("changed_at", card.changed_at, replayed.changed_at)
    elif card.changed_at is not None and card.changed_at < card.created_at:
        yield Wrong("changed_at", card.changed_at, f"not before {write_time(card.created_at)}")


def state_fits_money(seen: Seen) -> Iterator[Wrong]:
    """Prove that who is active has a currency, and who is inactive or closed has no money."""
    card = seen.card
    if card.state in (State.ACTIVE, State.EXPIRED):
        if card.currency is None:
            yield Wrong("currency", None, f"one, since it is {card.state}")
        return
    yield from unequal(f"amount_balance ({card.state})", card.amount_balance, 0)
    yield from unequal(f"amount_reserved ({card.state})", card.amount_reserved, 0)
    if card.state is State.INACTIVE:
        for name in ("currency", "customer_id", "active_from", "expires_at"):
            yield from unequal(f"{name} (inactive)", getattr(card, name), None)


AMOUNTS = (
    "amount_balance",
    "amount_funds",
    "amount_drawdown",
    "amount_pending",
    "amount_reserved",
    "amount",
)


def amounts_are_sums(seen: Seen) -> Iterator[Wrong]:
    """Prove each amount by the transactions, and the first load by that of the activation."""
    card = seen.card
    if not seen.history:
        for name in AMOUNTS:
            yield from unequal(name, getattr(card, name), 0)
        return
    received = sum(one.amount for one in seen.history if one.credit is Side.CARD)
    left = sum(one.amount for one in seen.history if one.debit is Side.CARD)
    funded, reversed_ = _sum(seen, TransactionType.FUND), _sum(seen, TransactionType.REVERSAL)
    load = next((one.amount for one in seen.history if one.id == seen.replayed.load), 0)
    sums = (
        received - left,
        funded - reversed_,
        _sum(seen, TransactionType.DRAWDOWN),
        _sum(seen, TransactionType.PENDING_CAPTURE),
        _reserved(seen),
        load,
    )
    for name, proven in zip(AMOUNTS, sums, strict=True):
        yield from unequal(name, getattr(card, name), proven)


def _sum(seen: Seen, *types: TransactionType) -> int:
    return sum(one.amount for one in seen.moved(*types))


def _reserved(seen: Seen) -> int:
    """Return what pending transactions have locked, less what was captured and released of it."""
    taken = [one for one in seen.moved(TransactionType.DRAWDOWN) if one.parent_id is not None]
    released = _sum(seen, TransactionType.VOIDED)
    locked = _sum(seen, TransactionType.PENDING_CAPTURE)
    return locked - released - sum(one.amount for one in taken)


def history_is_a_chain(seen: Seen) -> Iterator[Wrong]:
    """Prove that each transaction is of this account and begins where the one before has ended."""
    card, balance, last = seen.card, 0, None
    for one in seen.history:
        at = f"transaction {one.id}, version {one.version}"
        yield from unequal(f"{at}: account_id", one.account_id, card.account_id)
        yield from unequal(f"{at}: balance_before", one.balance_before, balance)
        change = (one.credit is Side.CARD) - (one.debit is Side.CARD)
        after = one.balance_before + change * one.amount
        yield from unequal(f"{at}: balance_after", one.balance_after, after)
        # Only a card whose activation was reversed can begin again in another currency.
        if last is not None and last.type is not TransactionType.REVERSAL:
            yield from unequal(f"{at}: currency", one.currency, last.currency)
        balance, last = one.balance_after, one
    if last is not None and last.type is not TransactionType.REVERSAL:
        yield from unequal("currency", card.currency, last.currency)


def transactions_have_their_event(seen: Seen) -> Iterator[Wrong]:
    """Prove that each transaction has the id, the version and the time of an event of the card."""
    events = {event.id: event for event in seen.events}
    for one in seen.history:
        event = events.get(one.id)
        if event is None:
            yield Wrong(f"event of transaction {one.id}, version {one.version}", None, "one")
            continue
        yield from unequal(f"transaction {one.id}: version", one.version, event.version)
        yield from unequal(f"transaction {one.id}: created_at", one.created_at, event.created_at)


_FROM_CARD = frozenset([TransactionType.ADJUSTMENT, TransactionType.TRANSFER])
_SIDES: dict[TransactionType, tuple[Side, Side]] = {
    TransactionType.FUND: (Side.ISSUER, Side.CARD),
    TransactionType.DRAWDOWN: (Side.CARD, Side.MERCHANT),
    TransactionType.PENDING_CAPTURE: (Side.AVAILABLE, Side.RESERVED),
    TransactionType.VOIDED: (Side.RESERVED, Side.AVAILABLE),
    TransactionType.REVERSAL: (Side.CARD, Side.ISSUER),
    TransactionType.ADJUSTMENT: (Side.ISSUER, Side.CARD),
    TransactionType.TRANSFER: (Side.OTHER_CARD, Side.CARD),
    TransactionType.CASH_OUT: (Side.CARD, Side.CUSTOMER),
    TransactionType.BREAKAGE: (Side.CARD, Side.BREAKAGE),
}
"""Debit and credit of each type; adjustments and transfers go the other way as well."""


def sides_fit_types(seen: Seen) -> Iterator[Wrong]:
    """Prove that at least 1 comes from where its type says, and goes where that says."""
    for one in seen.history:
        sides, proven = (one.debit, one.credit), _SIDES[one.type]
        if one.type in _FROM_CARD and one.debit is Side.CARD:
            proven = proven[1], proven[0]
        yield from unequal(f"transaction {one.id}: debit and credit", sides, proven)
        if one.amount <= 0:
            yield Wrong(f"transaction {one.id}: amount", one.amount, "above 0")


_PARENTS: dict[TransactionType, tuple[TransactionType | None, ...]] = {
    TransactionType.FUND: (None, TransactionType.DRAWDOWN),
    TransactionType.DRAWDOWN: (None, TransactionType.PENDING_CAPTURE),
    TransactionType.VOIDED: (TransactionType.PENDING_CAPTURE,),
}
"""What the transaction may be that one of this type names; None: it may name none."""


def parents_are_earlier_on_the_card(seen: Seen) -> Iterator[Wrong]:
    """Prove that what a transaction captures, releases or refunds is earlier on the same card, and
    that not more of a drawdown is refunded than there was."""
    before: dict[UUID | None, Transaction] = {}
    refunded = Counter[UUID | None]()
    for one in seen.history:
        parent = before.get(one.parent_id)
        allowed = _PARENTS.get(one.type, (None,))
        kind = None if parent is None else parent.type
        if kind not in allowed or (kind is None and one.parent_id is not None):
            known = " or ".join(str(each or "none") for each in allowed)
            proven = f"{known} of this card, before it"
            yield Wrong(f"transaction {one.id}: parent_id", one.parent_id, proven)
        if one.type is TransactionType.FUND and parent is not None:
            refunded[parent.id] += one.amount
        before[one.id] = one
    for id, amount in refunded.items():
        if amount > before[id].amount:
            most = f"at most {before[id].amount}"
            yield Wrong(f"transaction {id}: refunded of it", amount, most)


def holds_are_as_moved(seen: Seen) -> Iterator[Wrong]:
    """Prove that each pending transaction has its hold, with what was captured and released."""
    pending = {one.id: one for one in seen.moved(TransactionType.PENDING_CAPTURE)}
    if not pending:
        return  # then nothing is locked, as the amounts are sums
    captured, released = Counter[UUID | None](), Counter[UUID | None]()
    for one in seen.moved(TransactionType.DRAWDOWN):
        captured[one.parent_id] += one.amount
    for one in seen.moved(TransactionType.VOIDED):
        released[one.parent_id] += one.amount
    for id, one in pending.items():
        hold = seen.holds.get(id)
        if hold is None:
            yield Wrong(f"hold {id}", None, f"one of {one.amount}")
            continue
        for name, proven in (
            ("account_id", seen.card.account_id),
            ("card", seen.card.id),
            ("amount", one.amount),
            ("captured", captured[id]),
            ("released", released[id]),
            ("created_at", one.created_at),
        ):
            yield from unequal(f"hold {id}: {name}", getattr(hold, name), proven)
    locked = sum(hold.amount_open for hold in seen.holds.values())
    yield from unequal("amount_reserved, beside its holds", seen.card.amount_reserved, locked)


def pin_is_the_last(seen: Seen) -> Iterator[Wrong]:
    """Prove that the PIN is from when the card got its last one."""
    if seen.pin is not None and seen.replayed.pin_at is not None:
        yield from unequal("PIN: changed_at", seen.pin.changed_at, seen.replayed.pin_at)


CARD_CHECKS: tuple[CardCheck, ...] = (
    id_is_of_its_name,
    has_each_event_once,
    events_are_in_order,
    state_follows_from_events,
    state_fits_money,
    amounts_are_sums,
    history_is_a_chain,
    transactions_have_their_event,
    sides_fit_types,
    parents_are_earlier_on_the_card,
    holds_are_as_moved,
    pin_is_the_last,
)


def cards_add_up(books: Books) -> Iterator[Difference]:
    """Do the checks of each card, and name events of cards that don't exist."""
    for slice_ in slices_of_cards(books):
        yield from slice_.wrong
        for seen in slice_.cards:
            for check in CARD_CHECKS:
                yield from report(check.__name__, *seen.card.key, check(seen))
