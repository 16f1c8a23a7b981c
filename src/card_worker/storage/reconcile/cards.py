"""Each card compared with its events, its transactions, its holds and its PIN."""

from collections import Counter
from itertools import pairwise
from uuid import UUID

from card_worker.contracts.enums import Side, TransactionType
from card_worker.contracts.json_text import write_time
from card_worker.domain.ids import card_uuid
from card_worker.domain.rows import Hold, State, Transaction
from card_worker.storage.reconcile.histories import CardRows, slices_of_cards
from card_worker.storage.reconcile.reading import Reader
from card_worker.storage.reconcile.report import Comparisons, fields

FUND, DRAWDOWN = TransactionType.FUND, TransactionType.DRAWDOWN
PENDING, VOIDED = TransactionType.PENDING_CAPTURE, TransactionType.VOIDED
REVERSAL = TransactionType.REVERSAL
_SIDES: dict[TransactionType, tuple[Side, Side]] = {
    FUND: (Side.ISSUER, Side.CARD),
    DRAWDOWN: (Side.CARD, Side.MERCHANT),
    PENDING: (Side.AVAILABLE, Side.RESERVED),
    VOIDED: (Side.RESERVED, Side.AVAILABLE),
    REVERSAL: (Side.CARD, Side.ISSUER),
    TransactionType.ADJUSTMENT: (Side.ISSUER, Side.CARD),
    TransactionType.TRANSFER: (Side.OTHER_CARD, Side.CARD),
    TransactionType.CASH_OUT: (Side.CARD, Side.CUSTOMER),
    TransactionType.BREAKAGE: (Side.CARD, Side.BREAKAGE),
}
"""Debit and credit of each type."""
_TWO_WAYS = frozenset([TransactionType.ADJUSTMENT, TransactionType.TRANSFER])
"""The types whose debit and credit may also be exchanged."""
_PARENTS: dict[TransactionType, tuple[TransactionType | None, ...]] = {
    FUND: (None, DRAWDOWN),
    DRAWDOWN: (None, PENDING),
    VOIDED: (PENDING,),
}
"""The types that the parent of a transaction may have; None: it may have no parent."""


def has_each_event_once(rows: CardRows) -> Comparisons:
    """The version is that of the last event. Each version has one event, in their order.

    A card of a batch has version 1 without an event.
    """
    times = Counter(event.version for event in rows.events)
    last = max(times, default=1)
    yield "version", rows.card.version, last
    if times[1]:
        yield "batch_id", rows.card.batch_id, None
    first = 2 if rows.card.batch_id is not None and not times[1] else 1
    # If the last version is far too high, only the first of the missing ones are reported.
    for version in range(first, min(last, first + len(rows.events)) + 1):
        yield f"events with version {version}", times[version], 1
    for before, event in pairwise(rows.events):
        if event.position < before.position:
            above = f"above {before.position}"
            yield f"position of version {event.version}", event.position, above


def state_follows_from_events(rows: CardRows) -> Comparisons:
    """State, block, activation, PIN and last change follow from the types and times of the events.

    Without an event, `changed_at` is when the order created the card, if that is known.
    """
    card, replayed = rows.card, rows.replayed
    yield "id", card.id, card_uuid(*card.key)
    if card.state not in replayed.states:
        yield "state", card.state, " or ".join(replayed.states)
    yield "blocked", card.blocked, replayed.blocked
    yield "activated_at", card.activated_at, replayed.activated_at
    yield "activation", card.activation, replayed.activations
    if not replayed.is_replaced:
        yield "replaced_by", card.replaced_by, None
    if rows.events:
        yield "changed_at", card.changed_at, rows.events[-1].created_at
    elif card.changed_at is not None and card.changed_at < card.created_at:
        yield "changed_at", card.changed_at, f"not before {write_time(card.created_at)}"
    if rows.pin is not None and replayed.pin_at is not None:
        yield "PIN: changed_at", rows.pin.changed_at, replayed.pin_at


def state_fits_money(rows: CardRows) -> Comparisons:
    """An active or expired card has a currency; an inactive or closed card has no money."""
    card = rows.card
    if card.state in (State.ACTIVE, State.EXPIRED):
        if card.currency is None:
            yield "currency", None, f"one, since the card is {card.state}"
        return
    empty: dict[str, object] = {"amount_balance": 0, "amount_reserved": 0}
    if card.state is State.INACTIVE:
        empty |= dict.fromkeys(("currency", "active_from", "expires_at"))
    for name, value in empty.items():
        yield f"{name} ({card.state})", getattr(card, name), value


def amounts_are_sums(rows: CardRows) -> Comparisons:
    """Each amount is the sum of transactions; the first load is that of the activation.

    Postings are the transactions since then.
    """
    total = Counter[TransactionType]()
    balance = captured = load = 0
    for transaction in rows.history:
        total[transaction.type] += transaction.amount
        balance += _change(transaction)
        if transaction.type is DRAWDOWN and transaction.parent_id is not None:
            captured += transaction.amount
        if transaction.id == rows.replayed.activation:
            load = transaction.amount
    expected = {
        "amount_balance": balance,
        "amount_funds": total[FUND] - total[REVERSAL],
        "amount_drawdown": total[DRAWDOWN],
        "amount_pending": total[PENDING],
        "amount_reserved": total[PENDING] - total[VOIDED] - captured,
        "amount": load,
        "postings": sum(
            transaction.version >= rows.replayed.activated_in for transaction in rows.history
        ),
    }
    yield from fields(rows.card, expected)


def _change(transaction: Transaction) -> int:
    """Return by how much a transaction changes the balance."""
    sign = (transaction.credit is Side.CARD) - (transaction.debit is Side.CARD)
    return sign * transaction.amount


def history_is_a_chain(rows: CardRows) -> Comparisons:
    """Each transaction has an event of the card, begins with the balance and the currency of the
    one before, and moves an amount above 0 between the sides of its type."""
    events, balance, currency = {event.id: event for event in rows.events}, 0, None
    for transaction in rows.history:
        prefix = f"transaction {transaction.id}, version {transaction.version}: "
        event, (debit, credit) = events.get(transaction.id), _SIDES[transaction.type]
        if transaction.type in _TWO_WAYS and transaction.debit is Side.CARD:
            debit, credit = credit, debit
        expected: dict[str, object] = {
            "account_id": rows.card.account_id,
            "balance_before": balance,
            "balance_after": transaction.balance_before + _change(transaction),
            "currency": currency or transaction.currency,
            "debit": debit,
            "credit": credit,
        }
        if event is not None:
            expected |= {"version": event.version, "created_at": event.created_at}
        else:
            yield f"{prefix}event", None, "one"
        yield from fields(transaction, expected, prefix)
        if transaction.amount <= 0:
            yield f"{prefix}amount", transaction.amount, "above 0"
        balance = transaction.balance_after
        # A card whose activation was reversed can have another currency after that.
        currency = None if transaction.type is REVERSAL else transaction.currency
    if currency is not None:
        yield "currency", rows.card.currency, currency


def parents_are_earlier_on_the_card(rows: CardRows) -> Comparisons:
    """What a transaction captures or releases is earlier on the same card.

    What it refunds may be on a card that this one has replaced; see `refunds_follow_drawdowns`.
    """
    before: dict[UUID | None, Transaction] = {}
    for transaction in rows.history:
        parent = before.get(transaction.parent_id)
        if transaction.type is FUND and transaction.parent_id is not None and parent is None:
            continue
        allowed = _PARENTS.get(transaction.type, (None,))
        kind = None if parent is None else parent.type
        if kind not in allowed or (kind is None and transaction.parent_id is not None):
            types = " or ".join(str(each or "none") for each in allowed)
            what = f"transaction {transaction.id}: parent_id"
            yield what, transaction.parent_id, f"{types} of this card, before it"
        before[transaction.id] = transaction


def holds_equal_their_transactions(rows: CardRows) -> Comparisons:
    """Each pending transaction has its hold, with what was captured and released of it."""
    moved = Counter[tuple[TransactionType, UUID | None]]()
    for transaction in rows.history:
        moved[transaction.type, transaction.parent_id] += transaction.amount
    pending = [transaction for transaction in rows.history if transaction.type is PENDING]
    for transaction in pending:
        id, hold = transaction.id, rows.holds.get(transaction.id)
        if hold is None:
            yield f"hold {id}", None, f"one of {transaction.amount}"
            continue
        expected = Hold(
            id=id,
            account_id=rows.card.account_id,
            card=rows.card.id,
            amount=transaction.amount,
            created_at=transaction.created_at,
            expires_at=hold.expires_at,
            captured=moved[DRAWDOWN, id],
            released=moved[VOIDED, id],
        )
        yield from fields(hold, expected._asdict(), f"hold {id}: ")
    if pending:
        locked = sum(hold.amount_open for hold in rows.holds.values())
        yield "amount_reserved, compared with the holds", rows.card.amount_reserved, locked


def check_cards(reader: Reader) -> None:
    for slice_ in slices_of_cards(reader):
        for rows in slice_:
            reader.found.compare(
                *rows.card.key,
                has_each_event_once(rows),
                state_follows_from_events(rows),
                state_fits_money(rows),
                amounts_are_sums(rows),
                history_is_a_chain(rows),
                parents_are_earlier_on_the_card(rows),
                holds_equal_their_transactions(rows),
            )
