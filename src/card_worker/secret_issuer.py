"""Issuing tokens and PINs: their values are drawn, hashed, sealed for their owners, and dropped."""

import base64
import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from datetime import datetime
from math import log2
from typing import NamedTuple, get_args

from sqlalchemy import Connection

from card_worker.bureau_file import HEADER, Values, csv_lines, file_name, split
from card_worker.contracts.enums import Reason
from card_worker.contracts.events import Problem
from card_worker.domain.books import Books
from card_worker.domain.events import (
    BatchCompleted,
    CommandRejected,
    Decision,
    IssuedSecrets,
    IssuingEvent,
    SecretRequest,
    TokenCreated,
)
from card_worker.domain.ids import card_uuid
from card_worker.domain.rows import File, FilePart
from card_worker.secrets.drawing import PREFIX, draw_pins, draw_tokens, mask
from card_worker.secrets.formats import PinFormat, TokenFormat
from card_worker.secrets.peppers import Hash, Hashes
from card_worker.secrets.sealing import Recipient, read_recipients, seal, seal_text
from card_worker.secrets.vault import Vault
from card_worker.storage.json_rows import find
from card_worker.storage.tables import tokens

NONE_LEFT = "hardly any value is left"
ISSUING = frozenset(get_args(IssuingEvent))
DRAWS_MAX = 20
BITS_APART = 64
"""With so many bits no value is drawn twice. If it were, a constraint would stop the commit."""


class SecretTools(NamedTuple):
    """The functions that draw values and seal them."""

    draw_tokens: Callable[[TokenFormat | None, int], list[str]] = draw_tokens
    draw_pins: Callable[[PinFormat, int], list[str]] = draw_pins
    seal: Callable[[Sequence[Recipient], bytes], bytes] = seal
    seal_text: Callable[[Sequence[Recipient], str], str] = seal_text


class NewSecrets(NamedTuple):
    """The secrets of many cards, in their order: their values, and what is stored of them."""

    values: Values
    tokens: Hashes | None
    masked_codes: list[str]
    pins: Hashes | None

    def issued(self) -> IssuedSecrets:
        """Return what is stored, one entry for each card."""
        issued = IssuedSecrets()
        if self.tokens is not None:
            kid, digests = self.tokens
            hashes = (Hash(kid, digest) for digest in digests)
            issued = issued._replace(tokens=tuple(zip(hashes, self.masked_codes, strict=True)))
        if self.pins is not None:
            kid, digests = self.pins
            issued = issued._replace(pins=tuple(Hash(kid, digest) for digest in digests))
        return issued


class SecretIssuer:
    """Issues secrets with the peppers of a vault."""

    def __init__(self, vault: Vault, tools: SecretTools | None = None) -> None:
        self.vault = vault
        self._tools = tools or SecretTools()

    def fill(self, connection: Connection, books: Books, decision: Decision) -> Decision:
        """Return the decision with the secrets that its answer requests.

        It is a refusal instead when no value of the format is left.
        """
        event = decision.answer
        # The type is checked first: isinstance of a union is slow, and few events issue secrets.
        if type(event) not in ISSUING or not isinstance(event, IssuingEvent):
            return decision
        if event.request is None:
            return decision
        request = event.request
        ids = [card_uuid(*key).bytes for key, _ in request.cards]
        new_secrets = self.issue(connection, request, ids, books)
        if new_secrets is None:
            problem = Problem(field=_format_field(event), message=NONE_LEFT)
            refusal = CommandRejected(event.command, event.at, Reason.FORMAT_INVALID, (problem,))
            return Decision(refusal)
        issued = new_secrets.issued()
        if not event.command.dry_run:  # these secrets aren't stored, so they open nothing
            issued = self._sealed(issued, request, new_secrets.values, event)
        return decision._replace(answer=replace(event, issued=issued))

    def issue(
        self, connection: Connection, request: SecretRequest, ids: Sequence[bytes], books: Books
    ) -> NewSecrets | None:
        """Return new secrets for cards with these ids, 16 bytes each.

        None when hardly any value of the format is left. `books` has the tokens that were issued
        in this commit.
        """
        values = self._draw(connection, books, request, len(ids))
        if values is None:
            return None
        new_secrets = NewSecrets(values, None, [], None)
        if request.has_token:
            assert self.vault.tokens is not None
            hashes = self.vault.tokens.hash_tokens(request.account_id, values.tokens)
            masked = mask(values.tokens, _prefix(request.token))
            new_secrets = new_secrets._replace(tokens=hashes, masked_codes=masked)
        if request.pin is not None:
            assert self.vault.pins is not None
            new_secrets = new_secrets._replace(pins=self.vault.pins.hash_pins(ids, values.pins))
        return new_secrets

    def _draw(
        self, connection: Connection, books: Books, request: SecretRequest, count: int
    ) -> Values | None:
        tokens, pins = [""] * count, [""] * count
        if request.pin is not None:
            pins = self._tools.draw_pins(request.pin, count)
        if request.has_token:
            drawn = self._tokens(connection, books, request, count)
            if drawn is None:
                return None
            tokens = drawn
        return Values(tokens, pins)

    def _tokens(
        self, connection: Connection, books: Books, request: SecretRequest, count: int
    ) -> list[str] | None:
        """Draw tokens that the account never had; None when hardly any is left."""
        values = self._tools.draw_tokens(request.token, count)
        if request.token is None or _bits(request.token) >= BITS_APART:
            return values
        for _ in range(DRAWS_MAX):
            again = self._taken(connection, books, request.account_id, values)
            if not again:
                return values
            drawn = self._tools.draw_tokens(request.token, len(again))
            for place, value in zip(again, drawn, strict=True):
                values[place] = value
        return None

    def _taken(
        self, connection: Connection, books: Books, account_id: str, values: Sequence[str]
    ) -> list[int]:
        """Return the places of the values that the account already has."""
        assert self.vault.tokens is not None
        hashes = [self.vault.tokens.token_hashes(account_id, value) for value in values]
        digests = [{"digest": hash.digest} for known in hashes for hash in known]
        taken = {row[0] for row in find(connection, tokens, ("digest",), digests)()}
        again = []
        for place, known in enumerate(hashes):
            if any(hash.digest in taken or hash.digest in books.digests for hash in known):
                again.append(place)
            taken.add(known[0].digest)
        return again

    def _sealed(
        self, issued: IssuedSecrets, request: SecretRequest, values: Values, event: IssuingEvent
    ) -> IssuedSecrets:
        recipients = read_recipients(request.recipients)
        if request.file is None:
            ((account_id, card_id), _), token, pin = request.cards[0], *values.first
            content = {"account_id": account_id, "card_id": card_id, "token": token, "pin": pin}
            plain = json.dumps({name: value for name, value in content.items() if value})
            return issued._replace(sealed=self._tools.seal_text(recipients, plain))
        return issued._replace(files=tuple(self._files(request, values, event.at)))

    def _files(
        self, request: SecretRequest, values: Values, now: datetime
    ) -> Iterator[tuple[File, FilePart]]:
        assert request.file is not None
        names = [card_id for (_, card_id), _ in request.cards]
        types = [type for _, type in request.cards]
        for holds, recipients, values_in_file in split(
            values, request.recipients, request.pin_recipients
        ):
            plain = HEADER + csv_lines(names, values_in_file, types)
            sealed = self._tools.seal(read_recipients(recipients), plain)
            file = File(
                name=file_name(request.account_id, request.file, holds),
                account_id=request.account_id,
                batch_id=request.file,
                holds=holds,
                sha256=hashlib.sha256(sealed).hexdigest(),
                cards=len(request.cards),
                bytes=len(sealed),
                recipients=list(recipients),
                created_at=now,
            )
            yield file, FilePart(file.name, 1, base64.b64encode(sealed).decode("ascii"))


def _format_field(event: IssuingEvent) -> str:
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
