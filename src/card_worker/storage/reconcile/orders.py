"""Batches beside their cards, what is done to them, and their files."""

import base64
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from hashlib import sha256
from itertools import groupby
from typing import Any, NamedTuple
from uuid import UUID

from sqlalchemy import (
    Text,
    case,
    except_,
    func,
    literal,
    not_,
    null,
    or_,
    select,
    type_coerce,
    union_all,
)

from card_worker.contracts import keys as key_of
from card_worker.contracts.commands import event_id
from card_worker.contracts.enums import Action, BatchState, CardType, EventType
from card_worker.contracts.secrets import BatchOptions, TokenOptions
from card_worker.domain.codes import pin_format, with_behaviour
from card_worker.domain.ids import card_uuids
from card_worker.domain.orders import batch_card
from card_worker.domain.rows import Batch, BatchKey, Card, File, Holds, Job, Pin, Token
from card_worker.storage.json_rows import columns_named
from card_worker.storage.reconcile.reading import ROWS, Books, as_stored
from card_worker.storage.reconcile.report import Difference, Wrong, difference, tried, unequal
from card_worker.storage.tables import (
    batches,
    cards,
    chunks,
    file_parts,
    files,
    jobs,
    outbox,
    pins,
    reserved_names,
)

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


# --- batches ----------------------------------------------------------------------------------


def batches_add_up(books: Books) -> Iterator[Difference]:
    """Prove of each batch its order, its state, what is being done to it, and its cards."""
    for found, wrong in books.slices(batches, Batch, "batch_id"):
        yield from wrong
        ordered = _orders(books, found)
        for batch in found:
            running = _running(books, batch)
            for check, each in (
                *(("batches_were_ordered", one) for one in tried(_ordered(batch, ordered))),
                *(("batch_states_fit_their_jobs", one) for one in tried(_state(batch, running))),
            ):
                yield difference(check, *batch.key, each)
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
    listed = batch.listed
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
            or_(
                batches.c.created.is_(None),
                (batches.c.created != made.c.cards) & not_(is_removed),
            )
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
    reserved = select(*columns_named(reserved_names, ("account_id", "batch_id", "card_id")))
    rows = books.stream(union_all(reserved, has_list).order_by("account_id", "batch_id"))
    for key, named in groupby(rows, key=lambda row: (row.account_id, row.batch_id)):
        names = {name for *_, name in named if name is not None}
        for wrong in tried(_reserved(books, key, names)):
            yield difference("lists_reserve_their_names", *key, wrong)


def _reserved(books: Books, key: BatchKey, names: set[str]) -> Iterator[Wrong]:
    account_id, batch_id = key
    unreadable: list[Difference] = []
    wanted = [{"account_id": account_id, "batch_id": batch_id}]
    found = books.find(batches, Batch, wanted, unreadable, "batch_id")
    if unreadable:
        return  # as the checks of batches report
    busy = [batch for batch in found if batch.busy]
    listed = {card["card_id"] for batch in busy for card in batch.listed or ()}
    for name in sorted(names - listed):
        yield Wrong(f"reserved name {name}", batch_id, None)
    if any(batch.completed_at is None for batch in busy):
        for name in sorted(listed - names):
            yield Wrong(f"reserved name {name}", None, batch_id)


# --- jobs -------------------------------------------------------------------------------------

_BEGAN = {
    EventType.BATCH_ACCEPTED: (Action.MAKE,),
    EventType.BATCH_APPROVED: (Action.MAKE,),
    EventType.BATCH_CANCELLED: (Action.CANCEL, Action.REMOVE),
    EventType.BATCH_RECALLING: (Action.BLOCK, Action.UNBLOCK, Action.CLOSE, Action.EXTEND),
}
"""What may be done from an event on."""


_is_on_cards = jobs.c.ended_at.is_(None) & (jobs.c.action != Action.MAKE)


def jobs_add_up(books: Books) -> Iterator[Difference]:
    """Prove of each job its beginning, its turn, its batch, its end, and that it counts what its
    chunks have done."""
    for found, wrong in books.slices(jobs, Job, "id"):
        ids = {job.id for job in found} | {_end_id(job) for job in found}
        names = ("id", "account_id", "type", "subject", "event", "created_at")
        events = {row.id: row for row in books.rows(outbox, names, [{"id": id} for id in ids])}
        wanted = _keys_of_batches(found)
        known = {one.key: one for one in books.find(batches, Batch, wanted, wrong, "batch_id")}
        first_open = _first_open(books, wanted)
        yield from wrong
        for job in found:
            key = job.account_id, job.batch_id
            batch = known.get(key)
            for check, each in (
                *(
                    ("jobs_are_done_in_turn", one)
                    for one in tried(_in_turn(job, first_open.get(key)))
                ),
                *(("jobs_began_with_an_event", one) for one in tried(_began(job, batch, events))),
                *(("jobs_count_their_chunks", one) for one in tried(_counted(books, job))),
                *(("jobs_end_as_stated", one) for one in tried(_ended(job, batch, events))),
            ):
                yield difference(check, job.account_id, f"{job.batch_id}, job {job.id}", each)


def _keys_of_batches(rows: Iterable[Job | File]) -> list[dict[str, Any]]:
    keys = {(row.account_id, row.batch_id) for row in rows}
    return [{"account_id": account, "batch_id": batch} for account, batch in keys]


def _first_open(books: Books, wanted: Sequence[dict[str, Any]]) -> dict[BatchKey, int]:
    """Return the lowest sequence of the jobs on the cards of each batch that have not ended."""
    names = ("account_id", "batch_id", "sequence")
    first: dict[BatchKey, int] = {}
    for row in books.rows(jobs, names, wanted, _is_on_cards):
        key = row.account_id, row.batch_id
        first[key] = min(row.sequence, first.get(key, row.sequence))
    return first


def _in_turn(job: Job, first_open: int | None) -> Iterator[Wrong]:
    """Yield what a job has done though an earlier one on the cards of its batch has not ended. The
    job that makes them waits for none, and none waits for it."""
    if job.action is Action.MAKE or first_open is None or first_open >= job.sequence:
        return
    if job.ended_at is not None or job.open_chunks < job.chunks:
        yield Wrong("begun", f"sequence {job.sequence}", f"after the end of {first_open}")


def _end_id(job: Job) -> UUID:
    return event_id(job.account_id, key_of.of_job(job.id, "end"))


def _began(job: Job, batch: Batch | None, events: dict[UUID, Any]) -> Iterator[Wrong]:
    if batch is None:
        yield Wrong("batch", None, job.batch_id)
        return
    if not 1 <= job.first <= job.last <= batch.requested:
        yield Wrong("first, last", (job.first, job.last), f"within 1 and {batch.requested}")
    if job.chunk_cards < 1:
        yield Wrong("chunk_cards", job.chunk_cards, "above 0")
    event = events.get(job.id)
    if event is None or job.action not in _BEGAN.get(event.type, ()):
        yield Wrong(f"event with which to {job.action} began", event and event.type, "one")
        return
    yield from unequal("batch_id", job.batch_id, event.subject)
    yield from unequal("account_id", job.account_id, event.account_id)
    yield from unequal("created_at", job.created_at, event.created_at)
    data = _data(event)
    for name in ("command", "command_id"):
        yield from unequal(name, getattr(job, name), data.get(name))
    stated = data.get("recall", {"action": job.action, "first": 1, "last": batch.requested})
    for name in ("action", "first", "last"):
        yield from unequal(name, getattr(job, name), stated.get(name))
    if job.reason is not None or "recall" in data:
        yield from unequal("reason", job.reason, data.get("reason_text"))


def _data(event: Any) -> dict[str, Any]:
    """Return what an event says; nothing if it can't be read, which another check tells."""
    with suppress(ValueError, KeyError, TypeError):
        return dict(json.loads(event.event)["data"])
    return {}


def _counted(books: Books, job: Job) -> Iterator[Wrong]:
    if job.chunk_cards < 1:
        return
    statement = select(chunks.c.number, chunks.c.done_at.is_not(None)).where(chunks.c.job == job.id)
    rows = books.connection.execute(statement.order_by(chunks.c.number)).all()
    if job.ended_at is not None:
        yield from unequal("chunks, having ended", len(rows), 0)
        return
    yield from unequal("chunks", [number for number, _ in rows], list(range(1, job.end + 1)))
    done = {number for number, is_done in rows if is_done and number < job.end}
    yield from unequal("open_chunks", job.open_chunks, job.chunks - len(done))
    counted = job.done + job.already + job.refused
    proven = sum(job.span(number)[1] for number in done)
    if counted != proven and job.action is not Action.REMOVE:
        yield Wrong("done, already and refused", counted, proven)


def _ended(job: Job, batch: Batch | None, events: dict[UUID, Any]) -> Iterator[Wrong]:
    """Yield in what a job that has ended differs from the event of its end. A job on an order that
    was cancelled may end without one."""
    is_let_go = batch is not None and batch.state is BatchState.CANCELLED
    if job.ended_at is None or job.action is Action.REMOVE:
        return
    event = events.get(_end_id(job))
    if event is None:
        if not is_let_go:
            yield Wrong("event of its end", None, "one")
        return
    yield from unequal("ended_at", job.ended_at, event.created_at)
    yield from unequal("open_chunks", job.open_chunks, 0)
    all_of_them = job.last - job.first + 1
    yield from unequal(
        "done, already and refused", job.done + job.already + job.refused, all_of_them
    )
    stated = _data(event).get("recall")
    if stated is not None:
        for name in ("done", "already", "refused"):
            yield from unequal(name, getattr(job, name), stated[name])


def batches_count_their_jobs(books: Books) -> Iterator[Difference]:
    """Prove that the jobs of a batch have the sequences from 1 to the number that it counts."""
    its_own = (jobs.c.account_id, jobs.c.batch_id)
    sequence = jobs.c.sequence
    counts = {
        "jobs": func.count(),
        "different sequences": func.count(case((sequence > 0, sequence)).distinct()),
        "highest sequence": func.max(sequence),
    }
    labelled = [count.label(name) for name, count in counts.items()]
    begun = select(*its_own, *labelled).group_by(*its_own).subquery()
    known = (begun.c.account_id == batches.c.account_id) & (begun.c.batch_id == batches.c.batch_id)
    there = [func.coalesce(begun.c[name], 0) for name in counts]
    statement = (
        select(batches.c.account_id, batches.c.batch_id, batches.c.job_count, *there)
        .select_from(batches.outerjoin(begun, known))
        .where(or_(*(number != batches.c.job_count for number in there)))
    )
    for account_id, batch_id, counted, *numbers in books.stream(statement):
        for name, number in zip(counts, numbers, strict=True):
            for wrong in unequal(name, number, counted):
                yield difference("batches_count_their_jobs", account_id, batch_id, wrong)


def chunks_have_their_job(books: Books) -> Iterator[Difference]:
    """Prove that no chunk is of a job that doesn't exist."""
    for (job,) in books.stream(select(chunks.c.job).except_(select(jobs.c.id))):
        wrong = Wrong("job of chunks", None, "one")
        yield difference("chunks_have_their_job", "", f"job {job}", wrong)


# --- files ------------------------------------------------------------------------------------


def files_are_whole(books: Books) -> Iterator[Difference]:
    """Prove that a file is of a batch, and that its parts have its size and digest, or are gone
    once it was confirmed."""
    names = ("account_id", "batch_id", "requested")
    for found, wrong in books.slices(files, File, "name"):
        rows = books.rows(batches, names, _keys_of_batches(found))
        known = {tuple(row[:2]): row.requested for row in rows}
        yield from wrong
        for file in found:
            for each in (
                *_of_batch(file, known.get((file.account_id, file.batch_id))),
                *_whole(books, file),
            ):
                yield difference("files_are_whole", file.account_id, file.name, each)


def _of_batch(file: File, requested: int | None) -> Iterator[Wrong]:
    if requested is None:
        yield Wrong("batch", None, file.batch_id)
    elif file.holds is not Holds.REFUSED:
        yield from unequal("cards", file.cards, requested)
    elif file.cards > requested:
        yield Wrong("cards", file.cards, f"at most {requested}")
    if file.confirmed_at is not None and file.written_at is None:
        yield Wrong("written_at", None, "some time before it was confirmed")


def _whole(books: Books, file: File) -> Iterator[Wrong]:
    digest, size, parts = sha256(), 0, 0
    columns = (file_parts.c.number, file_parts.c.content)
    statement = select(*columns).where(file_parts.c.name == file.name)
    # A part is a mebibyte.
    ordered = statement.order_by(file_parts.c.number)
    for number, content in books.connection.execute(ordered, execution_options={"yield_per": 1}):
        parts += 1
        yield from unequal("number of a part", number, parts)
        try:
            plain = base64.b64decode(content, validate=True)
        except ValueError:
            yield Wrong(f"part {number}", content[:20], "Base64")
            continue
        digest.update(plain)
        size += len(plain)
    if file.confirmed_at is not None:
        yield from unequal("parts, having been confirmed", parts, 0)
        return
    yield from unequal("bytes", file.bytes, size)
    yield from unequal("sha256", file.sha256, digest.hexdigest())


def parts_have_their_file(books: Books) -> Iterator[Difference]:
    """Prove that no part is of a file that doesn't exist."""
    for (name,) in books.stream(select(file_parts.c.name).except_(select(files.c.name))):
        wrong = Wrong("file of parts", None, "one")
        yield difference("parts_have_their_file", "", name, wrong)
