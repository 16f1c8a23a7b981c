"""The books: the rows that a group of commands needs, in memory while the rules run over them."""

from collections import ChainMap
from collections.abc import Callable, Iterator, Mapping, MutableMapping, Sequence
from dataclasses import dataclass, field, fields
from datetime import UTC, datetime, timedelta
from typing import Generic, NamedTuple, TypeVar
from uuid import UUID

from card_worker.domain.needs import Needs
from card_worker.domain.rows import (
    Account,
    Batch,
    BatchKey,
    Card,
    CardKey,
    File,
    FilePart,
    Hold,
    Job,
    Outcome,
    Pin,
    PinAttempt,
    State,
    Token,
    Transaction,
    tokens_serving,
)
from card_worker.secrets.vault import GivenToken

CHECKED_WITHIN = timedelta(hours=1)
"""A PIN attempt that is older and has no outcome belongs to a dead letter."""
LONG_AGO = datetime.min.replace(tzinfo=UTC)

Key = TypeVar("Key")
Row = TypeVar("Row")


class Changed(NamedTuple, Generic[Row]):
    """How the rows of a kind differ: the new ones, and (before, after) of the others."""

    new: list[Row]
    changed: list[tuple[Row, Row]]


class Shelf(Mapping[Key, Row]):
    """Rows of one kind by their key. It remembers how changed rows were before."""

    __slots__ = ("_before", "_key_of", "_rows")

    def __init__(
        self, key_of: Callable[[Row], Key], rows: MutableMapping[Key, Row] | None = None
    ) -> None:
        self._key_of = key_of
        self._rows = {} if rows is None else rows
        self._before: dict[Key, Row | None] = {}

    def __getitem__(self, key: Key) -> Row:
        return self._rows[key]

    def __contains__(self, key: object) -> bool:
        return key in self._rows

    def __iter__(self) -> Iterator[Key]:
        return iter(self._rows)

    def __len__(self) -> int:
        return len(self._rows)

    def load(self, row: Row) -> None:
        """Add a row as it is stored."""
        self._rows[self._key_of(row)] = row

    def put(self, row: Row) -> None:
        """Add or change a row. It is written with the next save."""
        key = self._key_of(row)
        if key not in self._before:
            self._before[key] = self._rows.get(key)
        self._rows[key] = row

    def aside(self) -> "Shelf[Key, Row]":
        """Return a shelf with the same rows, whose changes leave this one as it is."""
        return Shelf(self._key_of, ChainMap({}, self._rows))

    def take_changes(self) -> Changed[Row]:
        """Return how the rows differ from those at the last call, or from those loaded."""
        if not self._before:
            return Changed([], [])
        rows = [(before, self._rows[key]) for key, before in self._before.items()]
        self._before = {}
        return Changed(
            new=[row for before, row in rows if before is None],
            changed=[(before, row) for before, row in rows if before is not None],
        )


class Changes(NamedTuple):
    """What is written to the database."""

    cards: Changed[Card]
    holds: Changed[Hold]
    tokens: Changed[Token]
    pins: Changed[Pin]
    pin_attempts: Changed[PinAttempt]
    batches: Changed[Batch]
    jobs: list[Job]
    files: list[File]
    file_parts: list[FilePart]
    transactions: list[Transaction]


def _key(row: Card | Batch) -> tuple[str, str]:
    return row.key


def _id(row: Hold | Token | Pin | PinAttempt) -> UUID:
    return row.id


@dataclass(slots=True)
class Books:
    """Rows on shelves, and indexes of them. Rows are values: a change replaces them.

    The indexes hold values too. Only the fields themselves, mappings and lists, change.
    """

    cards: Shelf[CardKey, Card] = field(default_factory=lambda: Shelf(_key))
    batches: Shelf[BatchKey, Batch] = field(default_factory=lambda: Shelf(_key))
    holds: Shelf[UUID, Hold] = field(default_factory=lambda: Shelf(_id))
    """By the id of their pending transaction: those that commands name, and those expired."""
    tokens: Shelf[UUID, Token] = field(default_factory=lambda: Shelf(_id))
    """Those that commands name, and all usable ones of the cards."""
    pins: Shelf[UUID, Pin] = field(default_factory=lambda: Shelf(_id))
    """By the id of their card."""
    pin_attempts: Shelf[UUID, PinAttempt] = field(default_factory=lambda: Shelf(_id))
    """Those to check, and all that count on their cards."""
    orders: MutableMapping[str, Mapping[str, Batch]] = field(default_factory=dict)
    """The batches that are busy, by account_id and batch_id."""
    reserved: MutableMapping[CardKey, str] = field(default_factory=dict)
    """The batch_id of the listed order that reserves a card_id, while it is in `orders`."""
    taken: MutableMapping[BatchKey, Sequence[str]] = field(default_factory=dict)
    """The first few card_ids of an order that cards have already."""
    card_keys: MutableMapping[UUID, CardKey] = field(default_factory=dict)
    """The key of a card by its id."""
    due: MutableMapping[UUID, tuple[UUID, ...]] = field(default_factory=dict)
    """The expired holds of a card, as they were loaded."""
    named: MutableMapping[UUID, Transaction] = field(default_factory=dict)
    """Transactions by their id: those that commands name, and those posted here."""
    refunded: MutableMapping[UUID, int] = field(default_factory=dict)
    """The amount refunded of a drawdown, in minor units."""
    replaced: MutableMapping[UUID, UUID] = field(default_factory=dict)
    """A card that was replaced, by the id of the card that has replaced it."""
    refs: MutableMapping[tuple[UUID, str], UUID] = field(default_factory=dict)
    """The transaction's id by (card, ref_id)."""
    accounts: MutableMapping[str, Account] = field(default_factory=dict)
    """Those that were set up."""
    digests: MutableMapping[str, UUID] = field(default_factory=dict)
    """The token's id by its digest."""
    tokens_by_card: MutableMapping[UUID, tuple[UUID, ...]] = field(default_factory=dict)
    pin_attempts_by_card: MutableMapping[UUID, tuple[UUID, ...]] = field(default_factory=dict)
    transactions: list[Transaction] = field(default_factory=list)
    """Those posted here, in order."""
    now: datetime = LONG_AGO
    """The time of the commit by the database's clock; locks of PINs begin and end by this alone.
    The time of an event may be later, see `time`."""
    _new_jobs: list[Job] = field(default_factory=list)
    _new_files: list[tuple[File, FilePart]] = field(default_factory=list)
    _saved: int = 0
    """How many of `transactions` are saved."""

    def account(self, account_id: str) -> Account:
        return self.accounts.get(account_id) or Account(account_id)

    def card_by_id(self, id: UUID) -> Card:
        """Return the card with the service's own id."""
        return self.cards[self.card_keys[id]]

    def successor_of(self, card: Card) -> Card:
        """Return the card that has replaced a card, or the card itself if none has."""
        while card.replaced_by is not None:
            card = self.card_by_id(card.replaced_by)
        return card

    def has_successors_of(self, card: Card) -> bool:
        """Say whether all cards that have replaced a card are in the books."""
        while card.replaced_by is not None:
            if card.replaced_by not in self.card_keys:
                return False
            card = self.card_by_id(card.replaced_by)
        return True

    def cards_for(self, needs: Needs) -> list[Card]:
        """Return the existing cards that a command names, in any way; its own first."""
        cards = [self.cards[key] for key in needs.cards if key in self.cards]
        for _, digest in needs.tokens:
            if digest in self.digests:
                cards.append(self.card_by_id(self.tokens[self.digests[digest]].card))
        for _, id in needs.transactions:
            if id in self.named:
                card = self.card_by_id(self.named[id].card)
                cards.append(self.successor_of(card) if needs.successor else card)
        return cards

    def time(self, needs: Needs, now: datetime) -> datetime:
        """Return the time of a command that comes at `now`.

        It is never before the last event of a card that the command names: a clock may be set
        back, a failover leads to another clock, and `now` was read before the cards were locked.
        """
        return max([now, *[card.time(now) for card in self.cards_for(needs)]])

    def due_holds(self, card: Card, now: datetime) -> list[Hold]:
        """Return the card's expired holds that still lock an amount."""
        holds = (self.holds[id] for id in self.due.get(card.id, ()))
        return [hold for hold in holds if hold.amount_open and hold.is_due(now)]

    def available(self, card: Card, now: datetime) -> int:
        """Return what may be spent: an expired hold locks nothing, released or not."""
        return card.amount_available + sum(hold.amount_open for hold in self.due_holds(card, now))

    def token(self, given: GivenToken) -> Token | None:
        """Return the token with a given value, whichever pepper it was hashed with."""
        found = (self.digests.get(hash.digest) for hash in given.hashes)
        return next((self.tokens[id] for id in found if id is not None), None)

    def tokens_of(self, card: Card, now: datetime) -> list[Token]:
        """Return the card's tokens that are usable at `now`, the oldest first."""
        return tokens_serving(self.all_tokens_of(card), now)

    def all_tokens_of(self, card: Card) -> list[Token]:
        """Return the card's tokens, in no order; revoked and spent ones may be missing."""
        return [self.tokens[id] for id in self.tokens_by_card.get(card.id, ())]

    def pin_attempts_of(self, card: UUID) -> list[PinAttempt]:
        """Return the PIN attempts of a card that count."""
        attempts = (self.pin_attempts[id] for id in self.pin_attempts_by_card.get(card, ()))
        return [attempt for attempt in attempts if attempt.outcome is not Outcome.CLEARED]

    def load_card(self, card: Card) -> None:
        """Add a card as it is stored."""
        self.cards.load(card)
        self.card_keys[card.id] = card.key

    def put_card(self, card: Card) -> None:
        """Add or change a card."""
        self.cards.put(card)
        if card.id not in self.card_keys:
            self.card_keys[card.id] = card.key

    def load_token(self, token: Token) -> None:
        """Add a token as it is stored."""
        self._index_token(token)
        self.tokens.load(token)

    def put_token(self, token: Token) -> None:
        """Add or change a token."""
        self._index_token(token)
        self.tokens.put(token)

    def _index_token(self, token: Token) -> None:
        if token.id not in self.tokens:
            known = self.tokens_by_card.get(token.card, ())
            self.tokens_by_card[token.card] = (*known, token.id)
        self.digests[token.digest] = token.id

    def load_pin_attempt(self, attempt: PinAttempt) -> None:
        """Add a PIN attempt as it is stored."""
        if attempt.id not in self.pin_attempts and attempt.card is not None:
            known = self.pin_attempts_by_card.get(attempt.card, ())
            self.pin_attempts_by_card[attempt.card] = (*known, attempt.id)
        self.pin_attempts.load(attempt)

    def reset_pin_attempts(self, card: UUID, now: datetime) -> None:
        """Make the wrong PIN attempts of a card count no more.

        Attempts that are still to be checked go on counting, but for one whose message must be a
        dead letter by now. If that message comes after all, it is refused without a check.
        """
        for attempt in self.pin_attempts_of(card):
            if attempt.outcome is Outcome.WRONG or attempt.created_at + CHECKED_WITHIN < now:
                self.pin_attempts.put(attempt._replace(outcome=Outcome.CLEARED))

    def unlock_pin(self, card: UUID, now: datetime) -> None:
        """End the lock of a card's PIN, and make its wrong attempts count no more."""
        self.reset_pin_attempts(card, now)
        pin = self.pins.get(card)
        if pin is not None and pin.locked_until is not None:
            self.pins.put(pin._replace(locked_until=None))

    def is_taken(self, key: CardKey) -> bool:
        """Say whether a card has this key, or a batch will create one with it."""
        return key in self.cards or self.busy_with(key) is not None

    def busy_with(self, key: CardKey) -> Batch | None:
        """Return the batch that is creating, removing or withdrawing this card, if there is one."""
        orders = self.orders.get(key[0])
        if not orders:
            return None
        card = self.cards.get(key)
        if card is None:
            listed = orders.get(self.reserved.get(key, ""))
            named = (order for order in orders.values() if order.names_by_pattern(key[1]))
            return listed or next(named, None)
        if card.batch_id is None or card.state is not State.INACTIVE:
            return None
        return orders.get(card.batch_id)

    def put_batch(self, batch: Batch) -> None:
        """Add or change a batch."""
        self.batches.put(batch)
        orders = dict(self.orders.get(batch.account_id, {}))
        if batch.busy:
            orders[batch.batch_id] = batch
            for card in batch.card_list or ():
                self.reserved[batch.account_id, card["card_id"]] = batch.batch_id
        else:
            orders.pop(batch.batch_id, None)
        self.orders[batch.account_id] = orders

    def add_job(self, job: Job) -> None:
        """Add a job on the cards of a batch."""
        self._new_jobs.append(job)

    def add_file(self, file: File, part: FilePart) -> None:
        """Add a new file that has all of its content in one part."""
        self._new_files.append((file, part))

    def add_transaction(self, transaction: Transaction) -> None:
        """Add a transaction that was posted now."""
        self.transactions.append(transaction)
        self.named[transaction.id] = transaction
        if transaction.ref_id is not None:
            self.refs[transaction.card, transaction.ref_id] = transaction.id

    def aside(self) -> "Books":
        """Return books with the same rows, whose changes leave these as they are: for a dry run."""
        books = Books.__new__(Books)
        for each in fields(self):
            setattr(books, each.name, _aside(getattr(self, each.name)))
        return books

    def take_changes(self) -> Changes:
        """Return how the rows differ from those at the last call, or from those loaded."""
        changes = Changes(
            cards=self.cards.take_changes(),
            holds=self.holds.take_changes(),
            tokens=self.tokens.take_changes(),
            pins=self.pins.take_changes(),
            pin_attempts=self.pin_attempts.take_changes(),
            batches=self.batches.take_changes(),
            jobs=self._new_jobs,
            files=[file for file, _ in self._new_files],
            file_parts=[part for _, part in self._new_files],
            transactions=self.transactions[self._saved :],
        )
        assert all(_follows(after, before) for before, after in changes.cards.changed)
        self._new_jobs, self._new_files = [], []
        self._saved = len(self.transactions)
        return changes


def _follows(after: Card, before: Card) -> bool:
    """Say whether a card can be the next state of another: a later version, not earlier."""
    changed_at = after.changed_at
    return (
        after.version > before.version
        and changed_at is not None
        and before.time(changed_at) == changed_at
    )


def _aside(value: object) -> object:
    """Return what can be changed in the place of a field of books."""
    match value:
        case Shelf():
            return value.aside()
        case MutableMapping():
            return ChainMap({}, value)
        case list():
            return list(value)
    return value
