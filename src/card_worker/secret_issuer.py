"""Making the tokens and PINs that events bring into the world: drawn, hashed, sealed, forgotten."""

import base64
import csv
import hashlib
import io
import json
from collections.abc import Callable, Iterator, Sequence
from datetime import datetime
from math import log2
from typing import NamedTuple, get_args
from urllib.parse import quote
from uuid import UUID

from sqlalchemy import Connection

from card_worker.contracts.enums import Reason
from card_worker.contracts.events import Problem
from card_worker.domain.books import Books
from card_worker.domain.events import (
    BatchCompleted,
    CommandRejected,
    Decision,
    Made,
    Making,
    TokenCreated,
    Wanted,
)
from card_worker.domain.evolve import card_uuid
from card_worker.domain.rows import File, FilePart, Holds
from card_worker.secrets.drawing import PREFIX, draw_pins, draw_tokens, mask
from card_worker.secrets.formats import PinFormat, TokenFormat
from card_worker.secrets.peppers import Hash, Hashes
from card_worker.secrets.sealing import Recipient, read_recipients, seal, seal_text
from card_worker.secrets.vault import Vault
from card_worker.storage.json_rows import find
from card_worker.storage.tables import tokens

COLUMNS = ("card_id", "token", "pin", "type")
"""Of the file of a batch."""
HEAD = f"{','.join(COLUMNS)}\r\n".encode()
NONE_LEFT = "hardly any value is left"
MAKING = frozenset(get_args(Making))
DRAWS_MAX = 20
BITS_APART = 64
"""Among so many bits no value is drawn twice; where it were, its constraint says so."""
NAME_CHARS_MAX = 100


class Craft(NamedTuple):
    """Where values come from, and how they are sealed."""

    draw_tokens: Callable[[TokenFormat | None, int], list[str]] = draw_tokens
    draw_pins: Callable[[PinFormat, int], list[str]] = draw_pins
    seal: Callable[[Sequence[Recipient], bytes], bytes] = seal
    seal_text: Callable[[Sequence[Recipient], str], str] = seal_text


class Values(NamedTuple):
    """Tokens and PINs in clear, one for each card; empty where there is none."""

    tokens: list[str]
    pins: list[str]

    @property
    def first(self) -> tuple[str, str]:
        return self.tokens[0], self.pins[0]


NO_VALUES = Values([], [])


class Minted(NamedTuple):
    """The secrets of many cards, in their order: what is kept of them, and their values."""

    values: Values
    tokens: Hashes | None
    masked_codes: list[str]
    pins: Hashes | None

    def made(self) -> Made:
        """Return what is kept, card by card."""
        made = Made()
        if self.tokens is not None:
            kid, digests = self.tokens
            hashes = (Hash(kid, digest) for digest in digests)
            made = made._replace(tokens=tuple(zip(hashes, self.masked_codes, strict=True)))
        if self.pins is not None:
            kid, digests = self.pins
            made = made._replace(pins=tuple(Hash(kid, digest) for digest in digests))
        return made


class Mint:
    """What makes secrets, for a worker that has a vault."""

    def __init__(self, vault: Vault, craft: Craft | None = None) -> None:
        self.vault = vault
        self._craft = craft or Craft()

    def fill(self, connection: Connection, books: Books, decision: Decision) -> Decision:
        """Return the decision with the secrets made that its answer brings into the world.

        With a refusal instead, when no value of the format is left.
        """
        event = decision.answer
        # By its type first, since a union is slow to ask and most events make nothing.
        if type(event) not in MAKING or not isinstance(event, Making) or event.wanted is None:
            return decision
        wanted = event.wanted
        ids = [card_uuid(*key).bytes for key, _ in wanted.cards]
        minted = self.make(connection, wanted, ids, books)
        if minted is None:
            problem = Problem(field=_format_field(event), message=NONE_LEFT)
            refusal = CommandRejected(event.command, event.at, Reason.FORMAT_INVALID, (problem,))
            return Decision(refusal)
        made = minted.made()
        if not event.command.dry_run:  # what isn't stored opens nothing, so nobody is told
            made = self._sealed(made, wanted, minted.values, event)
        return decision._replace(answer=event._replace(made=made))

    def make(
        self, connection: Connection, wanted: Wanted, ids: Sequence[bytes], books: Books
    ) -> Minted | None:
        """Make secrets for cards with these ids, each its 16 bytes.

        None when hardly any value of the format is left. `books` may hold tokens that were made
        in this commit.
        """
        values = self._draw(connection, books, wanted, len(ids))
        if values is None:
            return None
        minted = Minted(values, None, [], None)
        if wanted.has_token:
            assert self.vault.tokens is not None
            hashes = self.vault.tokens.hash_tokens(wanted.account_id, values.tokens)
            masked = mask(values.tokens, _prefix(wanted.token))
            minted = minted._replace(tokens=hashes, masked_codes=masked)
        if wanted.pin is not None:
            assert self.vault.pins is not None
            minted = minted._replace(pins=self.vault.pins.hash_pins(ids, values.pins))
        return minted

    def _draw(
        self, connection: Connection, books: Books, wanted: Wanted, count: int
    ) -> Values | None:
        tokens, pins = [""] * count, [""] * count
        if wanted.pin is not None:
            pins = self._craft.draw_pins(wanted.pin, count)
        if wanted.has_token:
            drawn = self._tokens(connection, books, wanted, count)
            if drawn is None:
                return None
            tokens = drawn
        return Values(tokens, pins)

    def _tokens(
        self, connection: Connection, books: Books, wanted: Wanted, count: int
    ) -> list[str] | None:
        """Draw tokens that the account hasn't had; None when hardly any is left."""
        values = self._craft.draw_tokens(wanted.token, count)
        if wanted.token is None or _bits(wanted.token) >= BITS_APART:
            return values
        for _ in range(DRAWS_MAX):
            again = self._taken(connection, books, wanted.account_id, values)
            if not again:
                return values
            drawn = self._craft.draw_tokens(wanted.token, len(again))
            for place, value in zip(again, drawn, strict=True):
                values[place] = value
        return None

    def _taken(
        self, connection: Connection, books: Books, account_id: str, values: Sequence[str]
    ) -> list[int]:
        """Return the places of the values that were drawn before, now or ever."""
        assert self.vault.tokens is not None
        hashes = [self.vault.tokens.find_token(account_id, value) for value in values]
        wanted = [{"digest": hash.digest} for known in hashes for hash in known]
        taken = {row[0] for row in find(connection, tokens, ("digest",), wanted)()}
        again = []
        for place, known in enumerate(hashes):
            if any(hash.digest in taken or hash.digest in books.digests for hash in known):
                again.append(place)
            taken.add(known[0].digest)
        return again

    def _sealed(self, made: Made, wanted: Wanted, values: Values, event: Making) -> Made:
        recipients = read_recipients(wanted.recipients)
        if wanted.file is None:
            ((account_id, card_id), _), token, pin = wanted.cards[0], *values.first
            told = {"account_id": account_id, "card_id": card_id, "token": token, "pin": pin}
            plain = json.dumps({name: value for name, value in told.items() if value})
            return made._replace(sealed=self._craft.seal_text(recipients, plain))
        return made._replace(files=tuple(self._files(wanted, values, event.at)))

    def _files(
        self, wanted: Wanted, values: Values, now: datetime
    ) -> Iterator[tuple[File, FilePart]]:
        assert wanted.file is not None
        names = [card_id for (_, card_id), _ in wanted.cards]
        kinds = [kind for _, kind in wanted.cards]
        for holds, named, told in files_of(wanted, values):
            plain = HEAD + as_csv(names, told, kinds)
            sealed = self._craft.seal(read_recipients(named), plain)
            file = File(
                name=file_name(wanted.account_id, wanted.file, holds),
                account_id=wanted.account_id,
                batch_id=wanted.file,
                holds=holds,
                sha256=hashlib.sha256(sealed).hexdigest(),
                cards=len(wanted.cards),
                bytes=len(sealed),
                recipients=list(named),
                created_at=now,
            )
            yield file, FilePart(file.name, 1, base64.b64encode(sealed).decode("ascii"))


def files_of(wanted: Wanted, values: Values) -> Iterator[tuple[Holds, tuple[str, ...], Values]]:
    """Yield the files that secrets are told in: what each holds, for whom, and its values."""
    if wanted.pin_recipients is None:
        yield Holds.CODES, wanted.recipients, values
        return
    none = [""] * len(values.pins)
    yield Holds.CODES, wanted.recipients, values._replace(pins=none)
    yield Holds.PINS, wanted.pin_recipients, values._replace(tokens=none)


def _format_field(event: Making) -> str:
    match event:
        case TokenCreated():
            return "format"
        case BatchCompleted():
            return "options.card_token.format"
    return "card_token.format"


def _bits(format: TokenFormat) -> float:
    return format.length * log2(len(format.alphabet))


def _prefix(format: TokenFormat | None) -> str:
    return PREFIX if format is None else format.prefix


def as_csv(card_ids: Sequence[str], values: Values, kinds: Sequence[str]) -> bytes:
    """Return a line for each card."""
    rows = list(zip(card_ids, values.tokens, values.pins, kinds, strict=True))
    plain = "".join([f"{id},{token},{pin},{kind}\r\n" for id, token, pin, kind in rows])
    # Hardly ever is there anything to quote, and to look at each field takes three times as long.
    ends = plain.count("\r"), plain.count("\n")
    if '"' not in plain and plain.count(",") == 3 * len(rows) and ends == (len(rows), len(rows)):
        return plain.encode()
    text = io.StringIO(newline="")
    csv.writer(text).writerows(rows)
    return text.getvalue().encode()


def file_name(account_id: str, batch_id: str, holds: Holds, job: UUID | None = None) -> str:
    """Return where a file of a batch lies: a name that any folder and store can hold.

    `job` tells the files of several recalls apart. Percent-encoding leaves ASCII letters, digits
    and `_.-~%`: names that are for something else have other characters.
    """
    name = quote(batch_id, safe="")
    if name.endswith(".pins"):  # or it would be taken for the PINs of another batch
        name = f"{name.removesuffix('.pins')}%2Epins"
    if len(name) > NAME_CHARS_MAX:
        name = f"{name[:NAME_CHARS_MAX]}-{hashlib.sha256(batch_id.encode()).hexdigest()[:16]}"
    match holds:
        case Holds.CODES:
            return f"{account_id}/{name}.csv.age"
        case Holds.PINS:
            return f"{account_id}/{name}.pins.csv.age"
        case Holds.REFUSED:
            return f"{account_id}/{name}.refused-{job}.csv"
