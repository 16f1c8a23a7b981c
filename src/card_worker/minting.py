"""Making the tokens and PINs that events bring into the world: drawn, hashed, sealed, forgotten."""

import base64
import csv
import hashlib
import io
import json
from collections.abc import Callable, Sequence
from math import log2
from typing import NamedTuple, get_args
from urllib.parse import quote

from sqlalchemy import Connection

from card_worker.contracts.events import Problem
from card_worker.contracts.kinds import Reason
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
from card_worker.domain.rows import File
from card_worker.secrets.drawing import PREFIX, draw_pins, draw_tokens, mask
from card_worker.secrets.formats import PinFormat, TokenFormat
from card_worker.secrets.sealing import Recipient, read_recipients, seal, seal_text
from card_worker.secrets.vault import Vault
from card_worker.storage.finding import find
from card_worker.storage.tables import tokens

COLUMNS = ("card_id", "token", "pin", "type")
"""Of the file of a batch."""
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
        wanted, count = event.wanted, len(event.wanted.cards)
        values = self._tokens(connection, books, wanted) if wanted.has_token else [""] * count
        if values is None:
            problem = Problem(field=_format_field(event), message="hardly any value is left")
            refusal = CommandRejected(event.command, event.at, Reason.FORMAT_INVALID, (problem,))
            return Decision(refusal)
        pins = [""] * count if wanted.pin is None else self._craft.draw_pins(wanted.pin, count)
        made = self._kept(wanted, values, pins)
        if not event.command.dry_run:  # what isn't stored opens nothing, so nobody is told
            made = self._sealed(made, wanted, values, pins, event)
        return decision._replace(answer=event._replace(made=made))

    def _kept(self, wanted: Wanted, values: Sequence[str], pins: Sequence[str]) -> Made:
        made = Made()
        if wanted.has_token:
            assert self.vault.tokens is not None
            hash_token = self.vault.tokens.hash_token
            prefix = _prefix(wanted.token)
            kept = ((hash_token(wanted.account_id, one), mask(one, prefix)) for one in values)
            made = made._replace(tokens=tuple(kept))
        if wanted.pin is not None:
            assert self.vault.pins is not None
            hash_pin = self.vault.pins.hash_pin
            of_cards = zip(wanted.cards, pins, strict=True)
            hashes = (hash_pin(card_uuid(*key), pin) for (key, _), pin in of_cards)
            made = made._replace(pins=tuple(hashes))
        return made

    def _tokens(self, connection: Connection, books: Books, wanted: Wanted) -> list[str] | None:
        """Draw tokens that the account hasn't had; None when hardly any is left."""
        values = self._craft.draw_tokens(wanted.token, len(wanted.cards))
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

    def _sealed(
        self, made: Made, wanted: Wanted, values: Sequence[str], pins: Sequence[str], event: Making
    ) -> Made:
        recipients = read_recipients(wanted.recipients)
        if wanted.file is None:
            ((account_id, card_id), _), token, pin = wanted.cards[0], values[0], pins[0]
            told = {"account_id": account_id, "card_id": card_id, "token": token, "pin": pin}
            plain = json.dumps({name: value for name, value in told.items() if value})
            return made._replace(sealed=self._craft.seal_text(recipients, plain))
        sealed = self._craft.seal(recipients, _as_csv(wanted, values, pins))
        file = File(
            account_id=wanted.account_id,
            batch_id=wanted.file,
            name=file_name(wanted.account_id, wanted.file),
            sha256=hashlib.sha256(sealed).hexdigest(),
            cards=len(wanted.cards),
            bytes=len(sealed),
            recipients=list(wanted.recipients),
            sealed=base64.b64encode(sealed).decode("ascii"),
            created_at=event.at,
        )
        return made._replace(file=file)


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


def _as_csv(wanted: Wanted, values: Sequence[str], pins: Sequence[str]) -> bytes:
    text = io.StringIO(newline="")
    lines = csv.writer(text)
    lines.writerow(COLUMNS)
    for ((_, card_id), kind), token, pin in zip(wanted.cards, values, pins, strict=True):
        lines.writerow((card_id, token, pin, kind.value))
    return text.getvalue().encode()


def file_name(account_id: str, batch_id: str) -> str:
    """Return where the file of a batch lies: a name that any folder and store can hold."""
    name = quote(batch_id, safe="")
    if len(name) > NAME_CHARS_MAX:
        name = f"{name[:NAME_CHARS_MAX]}-{hashlib.sha256(batch_id.encode()).hexdigest()[:16]}"
    return f"{account_id}/{name}.csv.age"
