"""Files beside their batches and their parts."""

import base64
from collections.abc import Iterator
from hashlib import sha256

from sqlalchemy import select

from card_worker.domain.rows import File, FileKind
from card_worker.storage.reconcile.jobs import keys_of_batches
from card_worker.storage.reconcile.reading import Books
from card_worker.storage.reconcile.report import Difference, Wrong, report, unequal
from card_worker.storage.tables import batches, file_parts, files


def files_are_whole(books: Books) -> Iterator[Difference]:
    """Prove that a file is of a batch, and that its parts have its size and digest, or are gone
    once it was confirmed."""
    names = ("account_id", "batch_id", "requested")
    for found, wrong in books.slices(files, File, "name"):
        rows = books.rows(batches, names, keys_of_batches(found))
        known = {tuple(row[:2]): row.requested for row in rows}
        yield from wrong
        for file in found:
            requested = known.get((file.account_id, file.batch_id))
            proofs = _of_batch(file, requested), _whole(books, file)
            yield from report("files_are_whole", file.account_id, file.name, *proofs)


def _of_batch(file: File, requested: int | None) -> Iterator[Wrong]:
    if requested is None:
        yield Wrong("batch", None, file.batch_id)
    elif file.kind is not FileKind.REFUSED:
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
