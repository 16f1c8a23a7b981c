"""Batches beside their order, their cards and their events."""

from collections.abc import Callable, Iterator, Sequence
from itertools import groupby
from typing import Any, NamedTuple
from uuid import UUID

from sqlalchemy import Text, except_, func, literal, not_, null, or_, select, type_coerce, union_all

from card_worker.contracts import keys as key_of
from card_worker.contracts.commands import event_id
from card_worker.contracts.enums import Action, BatchState, CardType, EventType
from card_worker.contracts.secrets import BatchOptions, TokenOptions
from card_worker.domain.codes import pin_format, with_behaviour
from card_worker.domain.ids import card_uuids
from card_worker.domain.orders import batch_card
from card_worker.domain.rows import Batch, BatchKey, Card, Pin, Token
from card_worker.storage.json_rows import columns_named
from card_worker.storage.reconcile.reading import ROWS, Books, as_stored
from card_worker.storage.reconcile.report import Difference, Wrong, difference, report, unequal
from card_worker.storage.tables import batches, cards, jobs, outbox, pins, reserved_card_ids

_BIRTH = ("type", "created_at", "created_by", "originated_by", "batch_id")
_UNTOUCHED = (
    "currency",
    "amount",
    "customer_id",
    "name",
    "metadata",
    "active_from",
    "activated_at",
)
_ORDERED = (EventType.BATCH_ACCEPTED, EventType.BATCH_AWAITING_APPROVAL, EventType.BATCH_COMPLETED)


def batches_add_up(books: Books) -> Iterator[Difference]:
    """Prove of each batch its order, its state, what is being done to it, and its cards."""
    for found, wrong in books.slices(batches, Batch, "batch_id"):
        yield from wrong
        ordered = _orders(books, found)
        for batch in found:
            running = _running(books, batch)
            yield from report("batches_were_ordered", *batch.key, _ordered(batch, ordered))
            yield from report("batch_states_fit_their_jobs", *batch.key, _state(batch, running))
            # Nothing can be said of the cards of a batch whose names or options make no sense.
            try:
                yield from _cards(books, batch)
            except (LookupError, TypeError, ValueError, AssertionError) as error:
                each = Wrong("pattern, list or options", repr(error)[:200], "as they were ordered")
                yield difference("batches_have_their_cards", *batch.key, each)


def _orders(books: Books, found: Sequence[Batch]) -> dict[UUID, Any]:
    ids = [{"id": _order_id(batch)} for batch in found]
    return {row.id: row for row in books.rows(outbox, ("id", "type", "subject"), ids)}


def _order_id(batch: Batch) -> UUID:
    return event_id(batch.account_id, key_of.by_id(batch.command_id or batch.batch_id))


def _ordered(batch: Batch, ordered: dict[UUID, Any]) -> Iterator[Wrong]:
    event = ordered.get(_order_id(batch))
    if event is None or event.type not in _ORDERED or event.subject != batch.batch_id:
        yield Wrong("command_id", batch.command_id, "that of the order, which was answered")
    listed = batch.card_list
    if (listed is None) == (batch.pattern is None):
        yield Wrong("pattern", batch.pattern, "one, or a list of cards")
    if listed is not None:
        yield from unequal("requested", batch.requested, len(listed))


def _running(books: Books, batch: Batch) -> list[Action]:
    """Return what is being done to the cards of a batch."""
    if not batch.busy and batch.state is not BatchState.RUNNING:
        return []
    its_own = (jobs.c.account_id == batch.account_id) & (jobs.c.batch_id == batch.batch_id)
    statement = select(as_stored(jobs.c.action)).where(its_own, jobs.c.ended_at.is_(None))
    return list(books.connection.execute(statement).scalars())


def _state(batch: Batch, running: Sequence[Action]) -> Iterator[Wrong]:
    whole = batch.completed_at is not None
    wanted: Action | None = None
    created: int | None = None
    match batch.state:
        case BatchState.AWAITING_APPROVAL:
            created, busy = 0, True
        case BatchState.RUNNING:
            wanted, busy = Action.MAKE, True
        case BatchState.COMPLETED:
            created, busy = batch.requested, False
        case _:
            busy = batch.busy
            wanted = (Action.CANCEL if whole else Action.REMOVE) if busy else None
            created = batch.requested if whole else None if busy else 0
    yield from unequal(f"busy ({batch.state})", batch.busy, busy)
    if wanted is not None and wanted not in running:
        yield Wrong(f"job of a batch that is {batch.state} and busy", None, f"one to {wanted}")
    if created is not None:
        yield from unequal(f"created ({batch.state})", batch.created, created)
    is_completed = batch.state is BatchState.COMPLETED
    if batch.state is not BatchState.CANCELLED and whole is not is_completed:
        proven = "one" if is_completed else None
        yield Wrong(f"completed_at ({batch.state})", batch.completed_at, proven)


class _Named(NamedTuple):
    """Some of the cards that a batch names, in the order of their numbers."""

    names: list[str]
    types: list[CardType]
    ids: list[UUID]
    cards: dict[UUID, Card]
    """Those that are there."""


def _cards(books: Books, batch: Batch) -> Iterator[Difference]:
    """Yield what is wrong with the cards that a batch names."""
    if batch.created == 0:
        return
    is_whole, count = batch.created == batch.requested and not _is_removed(batch), 0
    for named in _named(books, batch):
        for check, name, wrong in _named_wrong(books, batch, named, is_whole=is_whole):
            yield difference(check, batch.account_id, name, wrong)
        count += sum(is_whole or _is_of(card, batch) for card in named.cards.values())
    if count != batch.created and not _is_removed(batch):
        each = Wrong("created", batch.created, f"{count}, the cards there are of its names")
        yield difference("batches_have_their_cards", *batch.key, each)


def _named(books: Books, batch: Batch) -> Iterator[_Named]:
    for first in range(1, batch.requested + 1, ROWS):
        count = min(ROWS, batch.requested - first + 1)
        names, types = batch.card_ids(first, count), batch.types(first, count)
        ids = [UUID(bytes=id) for id in card_uuids(batch.account_id, names)]
        # What can't be read is reported by the checks of cards.
        found = books.find(cards, Card, [{"id": id} for id in ids], [])
        yield _Named(names, types, ids, {card.id: card for card in found})
        books.progress("cards of batches", first + count - 1, batch.requested)


def _named_wrong(
    books: Books, batch: Batch, named: _Named, *, is_whole: bool
) -> Iterator[tuple[str, str, Wrong]]:
    """Yield the check, the card and what is wrong with it."""
    has_codes = _has_codes(batch)
    untouched = _untouched_codes(books, batch, named.cards)
    for name, kind, id in zip(named.names, named.types, named.ids, strict=True):
        card = named.cards.get(id)
        if card is None:
            if is_whole:
                yield "batches_have_their_cards", name, Wrong("card of the batch", None, "one")
        elif is_whole or _is_of(card, batch):
            made = batch_card(batch, name, kind, has_codes=has_codes)
            for wrong in (*_as_made(card, made), *untouched(card)):
                yield "cards_equal_their_batch", name, wrong


def _is_of(card: Card, batch: Batch) -> bool:
    return card.batch_id == batch.batch_id


def _is_removed(batch: Batch) -> bool:
    """Say whether the cards of a batch are being removed, while it counts on."""
    return batch.state is BatchState.CANCELLED and batch.completed_at is None


def _has_codes(batch: Batch) -> bool:
    options = BatchOptions.model_validate(batch.options or {})
    return options.card_token is not None or options.pin is not None


def _as_made(card: Card, made: Card) -> Iterator[Wrong]:
    """Yield in what a card differs from what its batch has made."""
    names = _BIRTH if card.version > 1 else (*_BIRTH, *_UNTOUCHED, "has_codes")
    for name in names:
        yield from unequal(name, getattr(card, name), getattr(made, name))


def _untouched_codes(
    books: Books, batch: Batch, found: dict[UUID, Card]
) -> Callable[[Card], Iterator[Wrong]]:
    """Return what yields the codes that a card doesn't have as its batch has made them, if nothing
    has happened to it since."""
    options = BatchOptions.model_validate(batch.options or {})
    ids = [card.id for card in found.values() if card.version == 1 and card.has_codes]
    # What can't be read is reported by the checks of tokens and PINs.
    serving = books.serving(ids, [])
    kept = {pin.id: pin for pin in books.find(pins, Pin, [{"id": id} for id in ids], [])}

    def untouched(card: Card) -> Iterator[Wrong]:
        if card.version > 1:
            return
        left, pin = serving.get(card.id, []), kept.get(card.id)
        yield from unequal("tokens", len(left), 0 if options.card_token is None else 1)
        yield from unequal("PINs", 0 if pin is None else 1, 0 if options.pin is None else 1)
        made_at = card.changed_at
        for token in left[:1]:
            made_at = made_at or token.created_at
            yield from _as_ordered(token, options.card_token)
            yield from unequal("token: created_at", token.created_at, made_at)
        wanted = pin_format(options.pin)
        if pin is not None and wanted is not None:
            format = wanted.model_dump(mode="json", exclude_defaults=True)
            yield from unequal("PIN: format", pin.format, format)
            if made_at is not None:
                yield from unequal("PIN: changed_at", pin.changed_at, made_at)

    return untouched


def _as_ordered(token: Token, ordered: TokenOptions | None) -> Iterator[Wrong]:
    format = ordered.format if ordered is not None else None
    made = Token(
        **{name: getattr(token, name) for name in ("id", "account_id", "card", "kid", "digest")},
        masked_code=token.masked_code,
        created_at=token.created_at,
        format=None if format is None else format.model_dump(mode="json", exclude_defaults=True),
    )
    made = with_behaviour(made, ordered, token.created_at)
    for name in ("ref_id", "format", "expires_at", "expires_after_transaction", "metadata"):
        yield from unequal(f"token {token.id}: {name}", getattr(token, name), getattr(made, name))


def cards_have_their_batch(books: Books) -> Iterator[Difference]:
    """Prove that each batch that cards name is there, and counts as many as name it."""
    its_own = (cards.c.account_id, cards.c.batch_id)
    made = (
        select(*its_own, func.count().label("cards"))
        .where(cards.c.batch_id.is_not(None))
        .group_by(*its_own)
        .subquery()
    )
    known = (made.c.account_id == batches.c.account_id) & (made.c.batch_id == batches.c.batch_id)
    is_removed = (batches.c.state == BatchState.CANCELLED) & batches.c.completed_at.is_(None)
    statement = (
        select(made.c.account_id, made.c.batch_id, batches.c.created, made.c.cards)
        .select_from(made.outerjoin(batches, known))
        .where(
            or_(batches.c.created.is_(None), (batches.c.created != made.c.cards) & not_(is_removed))
        )
    )
    for account_id, batch_id, created, count in books.stream(statement):
        what = "batch that cards name" if created is None else "created"
        wrong = Wrong(what, created, f"{count}, the cards that name it")
        yield difference("cards_have_their_batch", account_id, batch_id, wrong)


_STATED_BY = (
    (batches.c.state == BatchState.CANCELLED, EventType.BATCH_CANCELLED),
    (batches.c.completed_at.is_not(None), EventType.BATCH_COMPLETED),
    (batches.c.approved_by.is_not(None), EventType.BATCH_APPROVED),
    (batches.c.state == BatchState.AWAITING_APPROVAL, EventType.BATCH_AWAITING_APPROVAL),
)
"""Which event a batch must have had that is so."""


def batch_states_have_their_event(books: Books) -> Iterator[Difference]:
    """Prove that a batch which was cancelled, completed or approved has the event that says so."""
    which = (batches.c.account_id, batches.c.batch_id)
    wanted = [select(*which, literal(type.value)).where(so) for so, type in _STATED_BY]
    events = (outbox.c.account_id, outbox.c.subject, type_coerce(outbox.c.type, Text))
    published = select(*events).where(outbox.c.type.in_([type for _, type in _STATED_BY]))
    missing = except_(union_all(*wanted).subquery().select(), published)
    for account_id, batch_id, type in books.stream(missing):
        wrong = Wrong(f"event {type}", None, "one, or another state")
        yield difference("batch_states_have_their_event", account_id, batch_id, wrong)


def lists_reserve_their_names(books: Books) -> Iterator[Difference]:
    """Prove that the names reserved for a batch are those of its list while it is busy, and none
    else. A list whose cards are all made may still have reserved them."""
    its_own = (batches.c.account_id, batches.c.batch_id)
    has_list = select(*its_own, null()).where(batches.c.busy, batches.c.pattern.is_(None))
    reserved = select(*columns_named(reserved_card_ids, ("account_id", "batch_id", "card_id")))
    rows = books.stream(union_all(reserved, has_list).order_by("account_id", "batch_id"))
    for key, named in groupby(rows, key=lambda row: (row.account_id, row.batch_id)):
        names = {name for *_, name in named if name is not None}
        yield from report("lists_reserve_their_names", *key, _reserved(books, key, names))


def _reserved(books: Books, key: BatchKey, names: set[str]) -> Iterator[Wrong]:
    account_id, batch_id = key
    unreadable: list[Difference] = []
    wanted = [{"account_id": account_id, "batch_id": batch_id}]
    found = books.find(batches, Batch, wanted, unreadable, "batch_id")
    if unreadable:
        return  # as the checks of batches report
    busy = [batch for batch in found if batch.busy]
    listed = {card["card_id"] for batch in busy for card in batch.card_list or ()}
    for name in sorted(names - listed):
        yield Wrong(f"reserved name {name}", batch_id, None)
    if any(batch.completed_at is None for batch in busy):
        for name in sorted(listed - names):
            yield Wrong(f"reserved name {name}", None, batch_id)
