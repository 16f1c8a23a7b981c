"""Each event: its columns compared with its JSON, and its content with the rows it is about."""

import json
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, NamedTuple, TypeAlias
from uuid import UUID

from sqlalchemy import select

from card_worker.contracts import keys as key_of
from card_worker.contracts.commands import event_id
from card_worker.contracts.enums import EventType, Side
from card_worker.contracts.events import is_pruned
from card_worker.contracts.json_text import write_json
from card_worker.contracts.traces import read_trace
from card_worker.domain.answers import freeze, traced
from card_worker.domain.ids import card_uuid, card_uuids, token_uuids
from card_worker.domain.rows import (
    Batch,
    Card,
    File,
    FileKind,
    Hold,
    Pin,
    Token,
    Transaction,
    tokens_serving,
)
from card_worker.domain.views import (
    PIN_DEFAULTS,
    TOKEN_DEFAULTS,
    batch_card_views,
    card_view,
    file_view,
    hold_view,
    token_view,
    transaction_view,
)
from card_worker.secrets.drawing import mask
from card_worker.secrets.formats import TokenFormat
from card_worker.storage.reconcile.ids import id_with_card
from card_worker.storage.reconcile.reading import BATCH_KEY, Reader, StoredEvent
from card_worker.storage.reconcile.report import Comparisons, fields
from card_worker.storage.retention import PRUNED_TO
from card_worker.storage.tables import (
    batches,
    cards,
    files,
    holds,
    outbox,
    pins,
    tokens,
    transactions,
)

Json: TypeAlias = dict[str, Any]


@dataclass(slots=True)
class Known:
    """The rows that the events of a slice are about."""

    cards: dict[tuple[str, str], Card] = field(default_factory=dict)
    transactions: dict[UUID, Transaction] = field(default_factory=dict)
    """Those with the ids of the events, and those that arrive on another card."""
    holds: dict[UUID, Hold] = field(default_factory=dict)
    tokens: dict[UUID, Token] = field(default_factory=dict)
    """Those that the events name."""
    usable_tokens: dict[UUID, list[Token]] = field(default_factory=dict)
    """Those that were neither spent nor revoked, by their card."""
    pins: dict[UUID, Pin] = field(default_factory=dict)
    batches: dict[tuple[str, str], Batch] = field(default_factory=dict)
    files: dict[str, File] = field(default_factory=dict)

    def load(self, reader: Reader, events: list["ReadEvent"]) -> None:
        about_cards = [event for event in events if "card" in event.data]
        names = (event.row.key for event in about_cards)
        self.cards = reader.by_key(cards, Card, names, "account_id", "card_id")
        ids = {event.row.id for event in about_cards}
        ids |= {event.arrival for event in events if "other_card_id" in event.data}
        self.transactions = reader.by_key(transactions, Transaction, ids)
        self.holds = reader.by_key(holds, Hold, {event.hold for event in events} - {None})
        token_ids = (id for event in events for id, _ in event.tokens)
        self.tokens = reader.by_key(tokens, Token, token_ids)
        coded = [card.id for card in self.cards.values() if card.has_codes]
        self.pins = reader.by_key(pins, Pin, coded)
        self.usable_tokens = reader.usable_tokens(coded)
        batch_keys = (event.row.key for event in events if "batch_id" in event.data)
        self.batches = reader.by_key(batches, Batch, batch_keys, *BATCH_KEY)
        paths = (name for event in events for name in event.files)
        self.files = reader.by_key(files, File, paths, "name")


class ReadEvent(NamedTuple):
    """An event, its JSON, and the rows that the events of its slice are about."""

    row: StoredEvent
    event: Json
    data: Json
    known: Known
    hold: UUID | None
    tokens: list[tuple[UUID, Json]]
    """The ids and views of the tokens that it shows."""
    files: dict[str, Json]
    """The views of the files that it shows, by their name."""

    @classmethod
    def of(cls, row: StoredEvent, known: Known) -> "ReadEvent":
        """Read the JSON of an event. Raises what is raised for JSON that isn't an event's."""
        event = json.loads(row.event)
        data = event["data"]
        shown = [data["token"]] if "token" in data else []
        if "card" in data:
            data["card"]["version"] + data["version"]
            shown += data["card"]["tokens"]
        hold = UUID(data["hold"]["id"]) if "hold" in data else None
        tokens = [(UUID(token["id"]), token) for token in shown]
        files = filter(None, (data.get("file"), data.get("pin_file")))
        return cls(row, event, data, known, hold, tokens, {file["name"]: file for file in files})

    @property
    def card(self) -> Card | None:
        return self.known.cards.get(self.row.key)

    @property
    def arrival(self) -> UUID:
        """Return the id of the event by which a transfer arrives on the other card."""
        return event_id(self.row.account_id, key_of.arrival(self.row.id))


def columns_are_as_in_the_json(event: ReadEvent) -> Comparisons:
    """The columns make up the envelope, and the data names the same card and version."""
    row, data, version = event.row, event.data, None
    yield "event.data.account_id", data["account_id"], row.account_id
    if "card" in event.data:
        version = None if "dry_run" in data else data["version"]
        yield "event.data.card_id", data["card_id"], row.subject
        yield "event.data.card.card_id", data["card"]["card_id"], row.subject
        yield "event.data.card.version", data["card"]["version"], data["version"]
    id, type, subject, at = row.id, row.type, row.subject, row.created_at
    named: Any = {**data, "account_id": row.account_id}
    is_answer = event.event.get("answer") is True
    written = freeze(
        named, id=id, type=type, subject=subject, at=at, version=version, is_answer=is_answer
    )
    # What the message brought is nowhere else; only its form can be checked.
    if (trace := read_trace(event.event)) is not None:
        written = traced(written, trace)
    yield "partition_key", row.partition_key, written.partition_key
    if row.event != written.event:
        envelope = json.loads(written.event)
        for name in dict.fromkeys([*envelope, *event.event]):
            if name != "data":
                yield f"event.{name}", event.event.get(name), envelope.get(name)


def transactions_equal_their_events(event: ReadEvent) -> Comparisons:
    """An event about a card has the transaction that it shows, and no other."""
    if "card" not in event.data:
        return
    row, shown = event.known.transactions.get(event.row.id), event.data.get("transaction")
    if row is None or shown is None:
        amount = None if row is None else row.amount
        yield "transaction", amount, None if shown is None else shown.get("amount", "one")
        return
    yield from _views("transaction", transaction_view(row, event.row.subject), shown)
    if event.card is not None:
        yield "transaction: card", row.card, event.card.id


def card_equals_its_last_event(event: ReadEvent) -> Comparisons:
    """A card is as its last event shows it, with its tokens and PIN."""
    card, at = event.card, event.row.created_at
    if "card" not in event.data or card is None or card.version != event.data["version"]:
        return
    usable = tokens_serving(event.known.usable_tokens.get(card.id, ()), at)
    view = card_view(card, at, usable, event.known.pins.get(card.id))
    yield from _views("card", view, _with_whole_formats(event.data["card"]))
    if event.row.type is EventType.CARD_REPLACED:
        successor = card_uuid(event.row.account_id, event.data["other_card_id"])
        yield "replaced_by", card.replaced_by, successor


def _with_whole_formats(card: Json) -> Json:
    """Return a card as it is shown now: events of older versions have formats without defaults,
    no end of a lock, and tokens of which less is masked."""
    tokens = [
        {
            **token,
            "format": _whole_format(token),
            "masked_code": _masked_again(token["masked_code"], token["format"]),
        }
        for token in card["tokens"]
    ]
    pin = card["pin"] and {
        "format": PIN_DEFAULTS | (card["pin"]["format"] or {}),
        "locked_until": card["pin"].get("locked_until"),
    }
    return {**card, "tokens": tokens, "pin": pin}


def _whole_format(token: Json) -> Json | None:
    format: Json | None = token["format"]
    return format and TOKEN_DEFAULTS | format


def _masked_again(masked_code: str, format: Json | None) -> str:
    """Return what is shown of a token now, by what an event shows."""
    if not format:
        return masked_code
    with suppress(ValueError):
        (masked_code,) = mask([masked_code], TokenFormat.model_validate(format))
    return masked_code


def holds_equal_their_events(event: ReadEvent) -> Comparisons:
    """The hold of an event has the amount and the end that it shows."""
    hold = None if event.hold is None else event.known.holds.get(event.hold)
    if hold is not None:
        shown = {name: event.data["hold"][name] for name in ("amount", "expires_at")}
        yield from _views(f"hold {hold.id}", hold_view(hold), shown)
    elif event.hold is not None:
        yield f"hold {event.hold}", None, "one"


def tokens_equal_their_events(event: ReadEvent) -> Comparisons:
    """Each token that an event shows is the card's, and the token that it is about was issued or
    revoked at its time."""
    for id, shown in event.tokens if "card" in event.data else ():
        token, prefix = event.known.tokens.get(id), f"token {id}: "
        if token is None:
            yield f"token {id}", None, "one"
            continue
        yield f"{prefix}format", token_view(token)["format"], _whole_format(shown)
        masked_code = _masked_again(shown["masked_code"], shown["format"])
        expected = {"ref_id": shown["ref_id"], "masked_code": masked_code}
        if event.card is not None:
            expected["card"] = event.card.id
        if shown is event.data.get("token"):
            is_new = event.row.type is EventType.TOKEN_CREATED
            expected["created_at" if is_new else "revoked_at"] = event.row.created_at
            if not is_new:  # until then, an activation may give it another end
                ends = {name: shown[name] for name in ("expires_at", "expires_after_transaction")}
                yield from _views(f"token {id}", token_view(token), ends)
        yield from fields(token, expected, prefix)


def transfers_have_two_ends(event: ReadEvent) -> Comparisons:
    """What leaves a card for another card arrives there."""
    shown = event.data.get("transaction")
    if shown is None or shown.get("credit") != Side.OTHER_CARD:
        return
    arrived = event.known.transactions.get(event.arrival)
    other = card_uuid(event.row.account_id, event.data["other_card_id"])
    actual = None if arrived is None else (arrived.card, arrived.amount, arrived.currency)
    yield "what arrived", actual, (other, shown["amount"], shown["currency"])


def batches_equal_their_events(event: ReadEvent) -> Comparisons:
    """What never changes of a batch is as its events show it, and so are the times and persons of
    its order, approval, completion and cancellation."""
    row, data = event.row, event.data
    batch = event.known.batches.get(event.row.key)
    if "batch_id" not in data:
        return
    if batch is None:
        yield "batch", None, "one"
        return
    expected = {name: data[name] for name in ("requested", "name", "metadata", "created_by")}
    expected["pattern"] = data.get("card_id_pattern")
    match row.type:
        case EventType.BATCH_ACCEPTED | EventType.BATCH_AWAITING_APPROVAL:
            expected |= {"created_at": row.created_at, "command_id": data["command_id"]}
        case EventType.BATCH_APPROVED:
            expected["approved_by"] = data["approved_by"]
        case EventType.BATCH_COMPLETED:
            expected["completed_at"] = row.created_at
            yield "created", data["created"], data["requested"]
        case EventType.BATCH_CANCELLED:
            expected["state"] = data["state"]
            if batch.busy:
                expected["created"] = data["created"]
    yield from fields(batch, expected)


def listed_cards_equal_their_event(reader: Reader, event: ReadEvent) -> Comparisons:
    """The end of a list shows its cards as they were created, each with its token."""
    shown, batch = event.data.get("cards"), event.known.batches.get(event.row.key)
    if batch is None or event.row.type is not EventType.BATCH_COMPLETED:
        return
    if shown is None:
        # Events of version 0.1.0 have none if the list was approved.
        if batch.card_list and batch.approved_by is None:
            yield "cards", None, f"{batch.requested}"
        return
    options: Any = batch.options or {}
    format = (options.get("card_token") or {}).get("format")
    for card in shown:
        if card.get("masked_code") is not None:
            card["masked_code"] = _masked_again(card["masked_code"], format)
    ids = card_uuids(batch.account_id, batch.card_ids(1, batch.requested))
    if batch.approved_by is None:
        named = (UUID(bytes=id) for id in token_uuids(ids, event.row.created_at))
        masked = {}
        found = list(reader.by_key(tokens, Token, named).values())
    else:
        # A chunk created the cards earlier: tokens that were used or revoked can't be found.
        masked = {UUID(card["id"]): card["masked_code"] for card in shown}
        usable = reader.usable_tokens(UUID(bytes=id) for id in ids).values()
        found = [token for each in usable for token in each if token.id == id_with_card(token)]
    views = batch_card_views(batch, masked | {token.card: token.masked_code for token in found})
    yield "cards", len(shown), len(views)
    for view, card in zip(views, shown, strict=False):
        yield from _views(f"card {view['card_id']}", view, card)


def files_equal_their_events(event: ReadEvent) -> Comparisons:
    """Each file that an event shows exists, with that digest and size."""
    for name, shown in event.files.items():
        file, row = event.known.files.get(name), event.row
        if file is None:
            yield f"file {name}", None, "one"
            continue
        yield from _views(f"file {name}", file_view(file), shown)
        time = "confirmed_at" if row.type is EventType.BATCH_CONFIRMED else "created_at"
        expected = {"batch_id": row.subject, "account_id": row.account_id, time: row.created_at}
        if "recall" in event.data:
            expected["kind"] = FileKind.REFUSED
        elif row.type is EventType.BATCH_COMPLETED:
            is_pins = shown is event.data.get("pin_file")
            expected["kind"] = FileKind.PINS if is_pins else FileKind.CODES
        yield from fields(file, expected, f"file {name}: ")


def check_events(reader: Reader) -> None:
    pruned_to = reader.connection.execute(select(PRUNED_TO)).scalar_one()
    for rows in reader.slices(outbox, StoredEvent):
        events, known = list[ReadEvent](), Known()
        for row in rows:
            if row.position <= pruned_to and is_pruned(row.event):
                continue
            try:
                events.append(ReadEvent.of(row, known))
            except (AttributeError, KeyError, TypeError, ValueError):
                wrong = "event", row.event[:40], "JSON of an event with data"
                reader.found.add("events_are_json", row.account_id, row.name, wrong)
        known.load(reader, events)
        for event in events:
            checks = [columns_are_as_in_the_json(event)]
            if "dry_run" not in event.data:  # a dry run changes nothing
                checks += [
                    transactions_equal_their_events(event),
                    card_equals_its_last_event(event),
                    holds_equal_their_events(event),
                    tokens_equal_their_events(event),
                    transfers_have_two_ends(event),
                    batches_equal_their_events(event),
                    listed_cards_equal_their_event(reader, event),
                    files_equal_their_events(event),
                ]
            reader.found.compare(event.row.account_id, event.row.name, *checks)


def _views(what: str, actual: Any, shown: Json) -> Comparisons:
    """Compare the fields that both a row's view and an event have."""
    text = write_json(actual)
    if text == write_json(shown):
        return  # as nearly always
    view = json.loads(text)
    for name in shown:
        if name in view:
            yield f"{what}: {name}", view[name], shown[name]
