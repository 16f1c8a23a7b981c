"""Each batch compared with its order, its cards and the names it reserves; its jobs and files."""

import base64
import json
from collections import defaultdict
from collections.abc import Collection
from contextlib import suppress
from hashlib import sha256
from itertools import groupby
from operator import itemgetter
from typing import Any
from uuid import UUID

from sqlalchemy import null, select, union_all

from card_worker.contracts import keys as key_of
from card_worker.contracts.commands import event_id
from card_worker.contracts.enums import Action, BatchState, EventType
from card_worker.contracts.events import is_pruned
from card_worker.contracts.secrets import BatchOptions
from card_worker.domain.codes import new_pin, new_token, pin_format, with_behaviour
from card_worker.domain.events import SecretRequest
from card_worker.domain.orders import batch_card
from card_worker.domain.rows import Batch, BatchKey, Card, File, FileKind, Job, Pin, Token
from card_worker.secrets.peppers import Hash
from card_worker.storage.json_rows import columns_named
from card_worker.storage.reconcile.reading import BATCH_KEY, ROWS, Reader, StoredEvent
from card_worker.storage.reconcile.report import Comparisons, fields
from card_worker.storage.tables import (
    batches,
    cards,
    chunks,
    file_parts,
    files,
    jobs,
    outbox,
    pins,
    reserved_card_ids,
)

_ORDERED = (EventType.BATCH_ACCEPTED, EventType.BATCH_AWAITING_APPROVAL, EventType.BATCH_COMPLETED)
_NEVER_CHANGES = ("type", "created_at", "created_by", "originated_by", "batch_id")
_BEGUN_BY = {
    EventType.BATCH_ACCEPTED: (Action.MAKE,),
    EventType.BATCH_APPROVED: (Action.MAKE,),
    EventType.BATCH_CANCELLED: (Action.CANCEL, Action.REMOVE),
    EventType.BATCH_RECALLING: (Action.BLOCK, Action.UNBLOCK, Action.CLOSE, Action.EXTEND),
}
"""The actions that can begin with an event."""
_has_not_ended = jobs.c.ended_at.is_(None)


def check_batches(reader: Reader) -> None:
    for found in reader.slices(batches, Batch):
        orders = reader.by_key(outbox, StoredEvent, map(_order_id, found))
        actions = defaultdict[BatchKey, list[Action]](list)
        keys = [batch.key for batch in found]
        for job in reader.find(jobs, Job, keys, *BATCH_KEY, where=_has_not_ended):
            actions[job.account_id, job.batch_id].append(job.action)
        for batch in found:
            reader.found.compare(
                *batch.key,
                batches_were_ordered(batch, orders.get(_order_id(batch))),
                batch_states_fit_their_jobs(batch, actions[batch.key]),
                batches_have_their_cards(reader, batch),
            )


def _order_id(batch: Batch) -> UUID:
    return event_id(batch.account_id, key_of.by_id(batch.command_id or batch.batch_id))


def batches_were_ordered(batch: Batch, order: StoredEvent | None) -> Comparisons:
    """A batch has an order that was answered, with either a pattern or a list of cards."""
    if order is None or order.type not in _ORDERED or order.subject != batch.batch_id:
        yield "command_id", batch.command_id, "that of the order, which was answered"
    if (batch.card_list is None) == (batch.pattern is None):
        yield "pattern", batch.pattern, "a pattern, or a list of cards"
    if batch.card_list is not None:
        yield "requested", batch.requested, len(batch.card_list)


def batch_states_fit_their_jobs(batch: Batch, actions: Collection[Action]) -> Comparisons:
    """The state of a batch fits its open jobs, its number of cards, and whether it is complete."""
    state, is_whole, action, created = batch.state, batch.completed_at is not None, None, None
    match state:
        case BatchState.AWAITING_APPROVAL:
            created, busy = 0, True
        case BatchState.RUNNING:
            action, busy = Action.MAKE, True
        case BatchState.COMPLETED:
            created, busy = batch.requested, False
        case BatchState.CANCELLED:
            removal = Action.CANCEL if is_whole else Action.REMOVE
            busy = batch.busy or removal in actions
            action = removal if busy else None
            created = batch.requested if is_whole else None if busy else 0
    yield f"busy ({state})", batch.busy, busy
    if action is not None and action not in actions:
        yield f"job of a batch that is {state} and busy", None, f"one to {action}"
    if created is not None:
        yield f"created ({state})", batch.created, created
    if state is not BatchState.CANCELLED and is_whole is not (state is BatchState.COMPLETED):
        yield f"completed_at ({state})", batch.completed_at, None if is_whole else "a time"


def batches_have_their_cards(reader: Reader, batch: Batch) -> Comparisons:
    """The cards that a batch names exist, in the number that it counts. Checks each of them."""
    if batch.created == 0:
        return
    options = BatchOptions.model_validate(batch.options or {})
    has_codes = options.card_token is not None or options.pin is not None
    # While its cards are being removed, `created` stays as it was.
    is_removed = batch.state is BatchState.CANCELLED and batch.completed_at is None
    is_whole, count = batch.created == batch.requested and not is_removed, 0
    for first in range(1, batch.requested + 1, ROWS):
        size = min(ROWS, batch.requested - first + 1)
        named = zip(batch.card_ids(first, size), batch.types(first, size), strict=True)
        created = [batch_card(batch, name, type, has_codes=has_codes) for name, type in named]
        found = reader.by_key(cards, Card, (card.id for card in created))
        unchanged = [card.id for card in found.values() if card.version == 1 and card.has_codes]
        tokens, found_pins = reader.usable_tokens(unchanged), reader.by_key(pins, Pin, unchanged)
        for expected in created:
            id, name, card = expected.id, expected.card_id, found.get(expected.id)
            if card is not None and (is_whole or card.batch_id == batch.batch_id):
                count += 1
                codes = tokens.get(id, []), found_pins.get(id)
                equal = cards_equal_their_batch(card, expected, options, *codes)
                reader.found.compare(batch.account_id, name, equal)
            elif is_whole:
                missing = "card of the batch", None, "one"
                reader.found.add("batches_have_their_cards", batch.account_id, name, missing)
        reader.progress("cards of batches", first + size - 1, batch.requested)
    if not is_removed:
        yield "created, compared with the cards of its names", batch.created, count


def cards_equal_their_batch(
    card: Card, created: Card, options: BatchOptions, tokens: list[Token], pin: Pin | None
) -> Comparisons:
    """A card, its token and PIN are as the batch created them, unless a command has changed it."""
    if card.version > 1:
        yield from fields(card, {name: getattr(created, name) for name in _NEVER_CHANGES})
        return
    yield from fields(card, created._replace(changed_at=card.changed_at)._asdict())
    yield "tokens", len(tokens), 0 if options.card_token is None else 1
    yield "PINs", 0 if pin is None else 1, 0 if options.pin is None else 1
    format = None if options.card_token is None else options.card_token.format
    request = SecretRequest(card.account_id, (), (), token=format, pin=pin_format(options.pin))
    issued_at = card.changed_at
    for token in tokens[:1]:
        issued_at = issued_at or token.created_at  # cards of a list may have no `changed_at`
        issued = Hash(token.kid, token.digest), token.masked_code
        expected = new_token(token.id, card, issued, request, issued_at)
        expected = with_behaviour(expected, options.card_token, issued_at)
        yield from fields(token, expected._asdict(), f"token {token.id}: ")
    if pin is not None:
        hash, changed_at = Hash(pin.kid, pin.digest), issued_at or pin.changed_at
        yield from fields(pin, new_pin(card, hash, request, changed_at)._asdict(), "PIN: ")


def check_reserved_names(reader: Reader) -> None:
    key = columns_named(batches, BATCH_KEY)
    busy = select(*key, null().label("card_id")).where(batches.c.busy, batches.c.pattern.is_(None))
    reserved = select(*columns_named(reserved_card_ids, (*BATCH_KEY, "card_id")))
    rows = reader.stream(union_all(reserved, busy).order_by(*BATCH_KEY))
    for (account_id, batch_id), group in groupby(rows, key=itemgetter(0, 1)):
        names = {name for *_, name in group if name is not None}
        found = reader.find(batches, Batch, [(account_id, batch_id)], *BATCH_KEY)
        check = lists_reserve_their_names(batch_id, names, next(iter(found), None))
        reader.found.compare(account_id, batch_id, check)


def lists_reserve_their_names(batch_id: str, names: set[str], batch: Batch | None) -> Comparisons:
    """A list of cards has reserved its names while it is busy, and nothing else has."""
    busy = batch.card_list if batch is not None and batch.busy else None
    listed = {card["card_id"] for card in busy or ()}
    for name in sorted(names - listed):
        yield f"reserved name {name}", batch_id, None
    # A list whose cards are all created may still have reserved them.
    if batch is not None and batch.completed_at is None:
        for name in sorted(listed - names):
            yield f"reserved name {name}", None, batch_id


def check_jobs(reader: Reader) -> None:
    for found in reader.slices(jobs, Job):
        keys = [(job.account_id, job.batch_id) for job in found]
        known = reader.by_key(batches, Batch, keys, *BATCH_KEY)
        ids = (id for job in found for id in (job.id, _end_id(job)))
        events = reader.by_key(outbox, StoredEvent, ids)
        for job, key in zip(found, keys, strict=True):
            batch = known.get(key)
            reader.found.compare(
                job.account_id,
                f"{job.batch_id}, job {job.id}",
                jobs_begin_as_stated(job, batch, events.get(job.id)),
                jobs_count_their_chunks(reader, job),
                jobs_end_as_stated(job, batch, events.get(_end_id(job))),
                removals_count_their_cards(job, events.get(job.id)),
            )


def _end_id(job: Job) -> UUID:
    return event_id(job.account_id, key_of.of_job(job.id, "end"))


def _data(event: StoredEvent) -> dict[str, Any]:
    """Return the data of an event; none if it can't be read, which another check reports."""
    with suppress(ValueError, KeyError, TypeError):
        return dict(json.loads(event.event)["data"])
    return {}


def jobs_begin_as_stated(job: Job, batch: Batch | None, event: StoredEvent | None) -> Comparisons:
    """A job does what the event of its beginning says, to cards of its batch."""
    if batch is None:
        yield "batch", None, job.batch_id
        return
    if not 1 <= job.first <= job.last <= batch.requested:
        yield "first, last", (job.first, job.last), f"within 1 and {batch.requested}"
    if job.chunk_cards < 1:
        yield "chunk_cards", job.chunk_cards, "above 0"
    if event is None or job.action not in _BEGUN_BY.get(event.type, ()):
        yield f"event with which to {job.action} began", event and event.type, "one"
        return
    if is_pruned(event.event):
        return
    data = _data(event)
    recall = data.get("recall", {"action": job.action, "first": 1, "last": batch.requested})
    expected = {name: recall.get(name) for name in ("action", "first", "last")}
    expected |= {name: data.get(name) for name in ("command", "command_id")}
    expected |= {name: getattr(event, name) for name in ("account_id", "created_at")}
    expected["batch_id"] = event.subject
    expected["reason"] = data.get("reason_text")
    yield from fields(job, expected)


def jobs_count_their_chunks(reader: Reader, job: Job) -> Comparisons:
    """An open job has all its chunks, and counts what they have done; an ended job has none."""
    if job.chunk_cards < 1:
        return
    statement = select(chunks.c.number, chunks.c.done_at.is_not(None)).where(chunks.c.job == job.id)
    found = reader.connection.execute(statement.order_by(chunks.c.number)).all()
    if job.ended_at is not None:
        yield "chunks of a job that has ended", len(found), 0
        return
    yield "chunks", [number for number, _ in found], list(range(1, job.end + 1))
    done = [number for number, is_done in found if is_done and number < job.end]
    yield "open_chunks", job.open_chunks, job.chunks - len(done)
    if job.action is not Action.REMOVE:
        counted = job.done + job.already + job.refused
        yield "done, already and refused", counted, sum(job.span(number)[1] for number in done)


def jobs_end_as_stated(job: Job, batch: Batch | None, event: StoredEvent | None) -> Comparisons:
    """A job that has ended has done what the event of its end says.

    A job on an order that was cancelled may end without an event.
    """
    if job.ended_at is None or job.action is Action.REMOVE:
        return
    if event is None:
        if batch is None or batch.state is not BatchState.CANCELLED:
            yield "event of its end", None, "one"
        return
    expected: dict[str, object] = {"ended_at": event.created_at, "open_chunks": 0}
    recall = _data(event).get("recall")
    if recall is not None:
        expected |= {name: recall[name] for name in ("done", "already", "refused")}
    yield from fields(job, expected)
    counted = job.done + job.already + job.refused
    yield "done, already and refused", counted, job.last - job.first + 1


def removals_count_their_cards(job: Job, event: StoredEvent | None) -> Comparisons:
    """A removal refuses no card. At its end it has removed those that were created."""
    if job.action is not Action.REMOVE:
        return
    yield "already, refused", (job.already, job.refused), (0, 0)
    if job.ended_at is not None and event is not None and not is_pruned(event.event):
        yield from fields(job, {"open_chunks": 0, "done": _data(event).get("created")})


def check_files(reader: Reader) -> None:
    for found in reader.slices(files, File):
        keys = [(file.account_id, file.batch_id) for file in found]
        known = reader.by_key(batches, Batch, keys, *BATCH_KEY)
        for file, key in zip(found, keys, strict=True):
            whole = files_are_whole(reader, file, known.get(key))
            reader.found.compare(file.account_id, file.name, whole)


def files_are_whole(reader: Reader, file: File, batch: Batch | None) -> Comparisons:
    """A file is of a batch. Its parts have its size and digest; a confirmed file has no parts."""
    if batch is None:
        yield "batch", None, file.batch_id
    elif file.kind is not FileKind.REFUSED:
        yield "cards", file.cards, batch.requested
    elif file.cards > batch.requested:
        yield "cards", file.cards, f"at most {batch.requested}"
    if file.confirmed_at is not None and file.written_at is None:
        yield "written_at", None, "a time before it was confirmed"
    digest, size, parts = sha256(), 0, 0
    statement = select(file_parts.c.number, file_parts.c.content).order_by(file_parts.c.number)
    statement = statement.where(file_parts.c.name == file.name)  # a part has a mebibyte
    rows = reader.connection.execute(statement, execution_options={"yield_per": 1})
    for parts, (number, content) in enumerate(rows, 1):
        yield "number of a part", number, parts
        try:
            plain = base64.b64decode(content, validate=True)
        except ValueError:
            yield f"part {number}", content[:20], "Base64"
            continue
        digest.update(plain)
        size += len(plain)
    if file.confirmed_at is not None:
        yield "parts of a confirmed file", parts, 0
        return
    yield "bytes", file.bytes, size
    yield "sha256", file.sha256, digest.hexdigest()
