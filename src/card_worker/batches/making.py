"""Makes the cards of an order chunk by chunk, and their sealed files at the end."""

from collections.abc import Iterator, Sequence
from time import perf_counter
from typing import NamedTuple
from uuid import UUID

from card_worker.batches.work import (
    Impossible,
    Stopped,
    Work,
    add_file,
    emit,
    emit_progress,
    new_file,
)
from card_worker.bureau_file import HEADER, NO_VALUES, Values, csv_lines, split
from card_worker.contracts.enums import BatchState, EventType, Reason
from card_worker.contracts.secrets import BatchOptions
from card_worker.contracts.views import Problem
from card_worker.domain.answers import about_job, add_files
from card_worker.domain.books import Books
from card_worker.domain.codes import new_pin, new_token, pin_format, with_behaviour
from card_worker.domain.events import SecretRequest
from card_worker.domain.ids import card_uuids, token_uuids
from card_worker.domain.orders import batch_card
from card_worker.domain.rows import Batch, Card, File, FileKind, Job
from card_worker.domain.views import batch_card_views
from card_worker.secret_issuer import NONE_LEFT, NewSecrets
from card_worker.secrets.encryption import PepperMissing, decrypt, encrypt
from card_worker.secrets.peppers import Hash
from card_worker.secrets.sealing import read_recipients, seal_pieces
from card_worker.storage import jobs
from card_worker.storage.batches import add_created, change_batch
from card_worker.storage.bulk_insert import ColumnValues, insert_similar
from card_worker.storage.engine import wait_for_disk
from card_worker.storage.json_rows import find
from card_worker.storage.tables import cards, pins, token_is_usable, tokens

CARDS_PER_PIECE = 200
"""Number of cards made between two pauses if commands wait; takes less time than a command."""


class Piece(NamedTuple):
    """Cards that are inserted together."""

    card: Card
    """A card like all of them, except for their ids."""
    ids: Sequence[bytes]
    order: Sequence[int]
    """The indexes of `ids` when they are sorted. Rows are inserted in this order, which is that of
    the indexes."""


def make_chunk(work: Work, number: int) -> Job:
    """Make the cards of a chunk. Raises Stopped, Impossible, PepperMissing."""
    connection, job, batch, now, *_ = work
    if batch.state is not BatchState.RUNNING:
        raise Stopped
    _check_peppers(work)
    # If the server crashes, the chunk is missing and is requested again. Waiting for the disk would
    # delay the commits of commands.
    wait_for_disk(connection, wait=work.throttle is not None)
    files: dict[int, bytes] = {}
    for first, count in _pieces(work, *job.span(number)):
        for at, lines in enumerate(_make_piece(work, first, count)):
            files[at] = files.get(at, b"") + lines
    vault = work.issuer.vault
    encrypted = [encrypt(vault, _purpose(job, number, at), lines) for at, lines in files.items()]
    jobs.finish_chunk(
        connection, job, number, now, encrypted_secrets=" ".join(encrypted) if encrypted else None
    )
    # Last, because it blocks the other chunks.
    _, count = job.span(number)
    counted = add_created(connection, batch, count)
    if counted is None:
        raise Stopped
    return emit_progress(work, jobs.count_chunk(connection, job, now, done=count), counted)


def _pieces(work: Work, first: int, count: int) -> Iterator[tuple[int, int]]:
    """Yield (first card, count) of the pieces of a chunk: a single one, unless it is throttled."""
    if work.throttle is None:
        yield first, count
        return
    for start in range(first, first + count, CARDS_PER_PIECE):
        began = perf_counter()
        yield start, min(CARDS_PER_PIECE, first + count - start)
        work.throttle(perf_counter() - began)


def _make_piece(work: Work, first: int, count: int) -> list[bytes]:
    """Make some cards; return the lines with their secrets, for each file."""
    batch = work.batch
    names, types = batch.card_ids(first, count), batch.types(first, count)
    ids = card_uuids(batch.account_id, names)
    card = batch_card(batch, names[0], types[0], has_codes=batch.recipients is not None)
    card = card._replace(changed_at=card.time(work.now))
    columns: dict[str, ColumnValues] = {"id": ids, "card_id": names}
    if batch.card_list is not None:
        columns["type"] = types
    piece = Piece(card, ids, sorted(range(count), key=ids.__getitem__))
    insert_similar(work.connection, cards, card, columns, piece.order)
    if batch.recipients is None:
        return []
    request = _request(batch)
    new_secrets = work.issuer.issue(work.connection, request, ids, Books())
    if new_secrets is None:
        problem = Problem(field="options.card_token.format", message=NONE_LEFT)
        raise Impossible(Reason.FORMAT_INVALID, problem)
    _insert_codes(work, request, piece, new_secrets)
    return [csv_lines(names, part, types) for _, _, part in _split(batch, new_secrets.values)]


def complete_order(work: Work) -> None:
    """Seal the secrets of all chunks and complete the order. Raises Stopped, PepperMissing."""
    connection, job, batch, now, *_ = work
    if batch.state is not BatchState.RUNNING:
        raise Stopped
    files = [] if batch.recipients is None else _seal(work)
    counted = add_created(connection, batch, 0)
    if counted is None:
        raise Stopped
    assert counted.created == counted.requested
    whole = counted._replace(state=BatchState.COMPLETED, busy=False, completed_at=now)
    change_batch(connection, whole)
    jobs.end(connection, job, now)
    data = about_job(job, whole)
    if batch.card_list is not None:
        data["cards"] = batch_card_views(batch, _masked_codes(work))
    add_files(data, files)
    emit(work, data, EventType.BATCH_COMPLETED, "end")


def _masked_codes(work: Work) -> dict[UUID, str]:
    """Return the masked codes of the tokens of a list's cards, by card."""
    ids = card_uuids(work.batch.account_id, work.batch.card_ids(1, work.batch.requested))
    keys = [{"card": UUID(bytes=id)} for id in ids]
    return dict(
        find(work.connection, tokens, ("card", "masked_code"), keys, where=token_is_usable)()
    )


def _check_peppers(work: Work) -> None:
    options, vault = _options(work.batch), work.issuer.vault
    for option, peppers, setting in (
        (options.card_token, vault.tokens, "TOKEN_PEPPERS"),
        (options.pin, vault.pins, "PIN_PEPPERS"),
    ):
        if option is not None and peppers is None:
            raise PepperMissing(f"a worker has no {setting}")


def _insert_codes(
    work: Work, request: SecretRequest, piece: Piece, new_secrets: NewSecrets
) -> None:
    """Insert the tokens and PINs of cards."""
    connection, batch = work.connection, work.batch
    card, ids, order = piece
    assert card.changed_at is not None
    now = card.changed_at
    if new_secrets.tokens is not None:
        kid, digests = new_secrets.tokens
        token_ids, masked = token_uuids(ids, now), new_secrets.masked_codes
        made = Hash(kid, digests[0]), masked[0]
        token = new_token(UUID(bytes=token_ids[0]), card, made, request, now)
        like = with_behaviour(token, _options(batch).card_token, now)
        columns: dict[str, ColumnValues] = {"id": token_ids, "card": ids}
        columns |= {"digest": digests, "masked_code": masked}
        insert_similar(connection, tokens, like, columns, order)
    if new_secrets.pins is not None:
        kid, digests = new_secrets.pins
        pin = new_pin(card, Hash(kid, digests[0]), request, now)
        insert_similar(connection, pins, pin, {"id": ids, "digest": digests}, order)


def _request(batch: Batch) -> SecretRequest:
    """Return the request for the secrets of a batch, without its cards."""
    options = _options(batch)
    token = options.card_token
    pin_recipients = batch.pin_recipients
    return SecretRequest(
        account_id=batch.account_id,
        cards=(),
        recipients=tuple(batch.recipients or ()),
        has_token=token is not None,
        token=None if token is None else token.format,
        pin=pin_format(options.pin),
        file=batch.batch_id,
        pin_recipients=None if pin_recipients is None else tuple(pin_recipients),
    )


def _split(batch: Batch, values: Values) -> Iterator[tuple[FileKind, Sequence[str], Values]]:
    return split(values, batch.recipients or (), batch.pin_recipients)


def _options(batch: Batch) -> BatchOptions:
    return BatchOptions.model_validate(batch.options or {})


def _seal(work: Work) -> list[File]:
    """Seal the files for their recipients. After the commit, only they can read them."""

    def lines(at: int) -> Iterator[bytes]:
        yield HEADER
        for left in jobs.chunk_results(work.connection, work.job):
            assert left.encrypted_secrets is not None
            purpose = _purpose(work.job, left.number, at)
            yield decrypt(work.issuer.vault, purpose, left.encrypted_secrets.split(" ")[at])

    files = []
    for at, (kind, named, _) in enumerate(_split(work.batch, NO_VALUES)):
        parts = new_file(work, kind)
        seal_pieces(read_recipients(named), lines(at), parts.write)
        cards = work.batch.requested
        files.append(add_file(work, kind, parts, cards=cards, recipients=named))
    return files


def _purpose(job: Job, number: int, at: int) -> str:
    """Return the purpose to which the encryption of a chunk's secrets is bound."""
    return f"{job.id}/{number}/{at}"
