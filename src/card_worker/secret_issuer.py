"""Issues tokens and PINs: draws secrets, hashes them, seals them to recipients, and drops them."""

import base64
import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from datetime import datetime
from typing import NamedTuple, get_args

from sqlalchemy import Connection

from card_worker.bureau_file import HEADER, Values, csv_lines, file_name, split
from card_worker.contracts.enums import Reason
from card_worker.contracts.views import Problem
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
from card_worker.secrets.drawing import draw_pins, draw_tokens, mask
from card_worker.secrets.formats import PinFormat, TokenFormat
from card_worker.secrets.peppers import Hashes
from card_worker.secrets.sealing import Recipient, read_recipients, seal, seal_text
from card_worker.secrets.vault import Vault
from card_worker.storage.json_rows import find
from card_worker.storage.tables import tokens

NONE_LEFT = "hardly any value is left"
ISSUING = frozenset(get_args(IssuingEvent))
FORMAT_FIELDS = {TokenCreated: "format", BatchCompleted: "options.card_token.format"}
"""The field of a command that names the format of a token, where it isn't card_token.format."""
DRAWS_MAX = 20
BITS_UNIQUE = 64
"""Tokens with so many random bits are never equal. If they were, a constraint would be violated."""


class SecretTools(NamedTuple):
    """The functions that draw secrets and seal them."""

    draw_tokens: Callable[[TokenFormat | None, int], list[str]] = draw_tokens
    draw_pins: Callable[[PinFormat, int], list[str]] = draw_pins
    seal: Callable[[Sequence[Recipient], bytes], bytes] = seal
    seal_text: Callable[[Sequence[Recipient], str], str] = seal_text


class NewSecrets(NamedTuple):
    """The secrets of cards, in their order, and what is stored of them."""

    values: Values
    tokens: Hashes | None
    masked_codes: list[str]
    pins: Hashes | None

    def issued(self) -> IssuedSecrets:
        """Return what is stored, with one entry for each card."""
        tokens = zip(self.tokens.each(), self.masked_codes, strict=True) if self.tokens else ()
        return IssuedSecrets(tuple(tokens), tuple(self.pins.each()) if self.pins else ())


class SecretIssuer:
    """Issues secrets with the peppers of a vault."""

    def __init__(self, vault: Vault, tools: SecretTools | None = None) -> None:
        self.vault = vault
        self._tools = tools or SecretTools()

    def fill(self, connection: Connection, books: Books, decision: Decision) -> Decision:
        """Return a decision with the secrets that its answer requests.

        Return a refusal if the format has hardly any unused value left.
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
            field = FORMAT_FIELDS.get(type(event), "card_token.format")
            problem = Problem(field=field, message=NONE_LEFT)
            refusal = CommandRejected(event.command, event.at, Reason.FORMAT_INVALID, (problem,))
            return Decision(refusal)
        issued = new_secrets.issued()
        if not event.command.dry_run:
            issued = self._sealed(issued, request, new_secrets.values, event)
        return decision._replace(answer=replace(event, issued=issued))

    def issue(
        self, connection: Connection, request: SecretRequest, ids: Sequence[bytes], books: Books
    ) -> NewSecrets | None:
        """Return new secrets for cards with these ids, 16 bytes each.

        None if the format has hardly any unused value left. `books` has the tokens that this
        commit has issued already.
        """
        token_values = pin_values = [""] * len(ids)
        token_hashes, masked, pin_hashes = None, list[str](), None
        if request.has_token:
            assert self.vault.tokens is not None
            drawn = self._draw_tokens(connection, books, request, len(ids))
            if drawn is None:
                return None
            token_values = drawn
            token_hashes = self.vault.tokens.hash_tokens(request.account_id, drawn)
            masked = mask(drawn, request.token)
        if request.pin is not None:
            assert self.vault.pins is not None
            pin_values = self._tools.draw_pins(request.pin, len(ids))
            pin_hashes = self.vault.pins.hash_pins(ids, pin_values)
        return NewSecrets(Values(token_values, pin_values), token_hashes, masked, pin_hashes)

    def _draw_tokens(
        self, connection: Connection, books: Books, request: SecretRequest, count: int
    ) -> list[str] | None:
        """Draw tokens that the account never had; None if hardly any is left."""
        values = self._tools.draw_tokens(request.token, count)
        format = request.token
        if format is None or format.bits(format.length) >= BITS_UNIQUE:
            return values
        for _ in range(DRAWS_MAX):
            taken = self._taken(connection, books, request.account_id, values)
            if not taken:
                return values
            drawn = self._tools.draw_tokens(format, len(taken))
            for index, value in zip(taken, drawn, strict=True):
                values[index] = value
        return None

    def _taken(
        self, connection: Connection, books: Books, account_id: str, values: Sequence[str]
    ) -> list[int]:
        """Return the indexes of the values that the account had before, or that are repeated."""
        assert self.vault.tokens is not None
        hashes = [self.vault.tokens.token_hashes(account_id, value) for value in values]
        digests = [{"digest": hash.digest} for each in hashes for hash in each]
        known = {row[0] for row in find(connection, tokens, ("digest",), digests)()}
        taken = []
        for index, each in enumerate(hashes):
            if any(hash.digest in known or hash.digest in books.digests for hash in each):
                taken.append(index)
            known.add(each[0].digest)
        return taken

    def _sealed(
        self, issued: IssuedSecrets, request: SecretRequest, values: Values, event: IssuingEvent
    ) -> IssuedSecrets:
        recipients = read_recipients(request.recipients)
        if request.file is None:
            (account_id, card_id), _ = request.cards[0]
            content = {"account_id": account_id, "card_id": card_id}
            content |= {"token": values.tokens[0], "pin": values.pins[0]}
            plain = json.dumps({name: value for name, value in content.items() if value})
            return issued._replace(sealed=self._tools.seal_text(recipients, plain))
        return issued._replace(files=tuple(self._files(request, values, event.at)))

    def _files(
        self, request: SecretRequest, values: Values, now: datetime
    ) -> Iterator[tuple[File, FilePart]]:
        assert request.file is not None
        names = [card_id for (_, card_id), _ in request.cards]
        types = [type for _, type in request.cards]
        for kind, recipients, values_in_file in split(
            values, request.recipients, request.pin_recipients
        ):
            plain = HEADER + csv_lines(names, values_in_file, types)
            sealed = self._tools.seal(read_recipients(recipients), plain)
            file = File(
                name=file_name(request.account_id, request.file, kind),
                account_id=request.account_id,
                batch_id=request.file,
                kind=kind,
                sha256=hashlib.sha256(sealed).hexdigest(),
                cards=len(request.cards),
                bytes=len(sealed),
                recipients=list(recipients),
                created_at=now,
            )
            yield file, FilePart(file.name, 1, base64.b64encode(sealed).decode("ascii"))
