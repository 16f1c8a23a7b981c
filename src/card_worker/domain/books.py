"""The books: the rows a group of commands needs, held in memory while the rules run over them."""

from collections import ChainMap
from collections.abc import Mapping, MutableMapping, Sequence
from dataclasses import dataclass, field, fields
from datetime import datetime, timedelta
from typing import Any, Generic, NamedTuple, TypeVar
from uuid import UUID

from card_worker.contracts.enums import Side, TransactionType
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
)
from card_worker.secrets.vault import GivenToken

JUDGED_WITHIN = timedelta(hours=1)

Key = TypeVar("Key")
Row = TypeVar("Row")


class Movement(NamedTuple):
    """Money on its way from one side to another, in minor units of the card's currency."""

    type: TransactionType
    amount: int
    debit: Side
    credit: Side
    ref_id: str | None = None
    parent_id: UUID | None = None
    metadata: dict[str, Any] | None = None
    captures: bool = False
    """Whether it was locked before."""


class Cause(NamedTuple):
    """The event that moves money. It does so once or not at all, so the transaction has its id."""

    id: UUID
    at: datetime
    created_by: str | None
    originated_by: str | None


class Changed(NamedTuple, Generic[Row]):
    """How the rows of a kind differ: those that are new, and the others as they were and are."""

    new: list[Row]
    changed: list[tuple[Row, Row]]


class Changes(NamedTuple):
    """What a database has to be told."""

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


@dataclass(slots=True)
class Books:
    """Rows by what callers call them. Rows are values: a change puts another in the place.

    So is all else that the fields hold: only the fields themselves, mappings and lists, change.
    """

    cards: MutableMapping[CardKey, Card] = field(default_factory=dict)
    batches: MutableMapping[BatchKey, Batch] = field(default_factory=dict)
    orders: MutableMapping[str, Mapping[str, Batch]] = field(default_factory=dict)
    """The batches that are busy, by their account, and there by their names."""
    reserved: MutableMapping[CardKey, str] = field(default_factory=dict)
    """The batch_id of the list that reserves a card_id; while it is in `orders`."""
    taken: MutableMapping[BatchKey, Sequence[str]] = field(default_factory=dict)
    """Cards, by the batch that orders some of their names: the first few."""
    ids: MutableMapping[UUID, CardKey] = field(default_factory=dict)
    """What the card with the service's own id is called."""
    holds: MutableMapping[UUID, Hold] = field(default_factory=dict)
    """By the id of their pending transaction: those that are named, and those that are due."""
    due: MutableMapping[UUID, tuple[UUID, ...]] = field(default_factory=dict)
    """The holds whose time is up, by card, as they were loaded."""
    named: MutableMapping[UUID, Transaction] = field(default_factory=dict)
    """Transactions by their id: those that are named, and those made here."""
    refunded: MutableMapping[UUID, int] = field(default_factory=dict)
    """How much of a drawdown has been refunded, in minor units."""
    refs: MutableMapping[tuple[UUID, str], UUID] = field(default_factory=dict)
    """(card, ref_id) of those that are asked for and taken; the transaction's id."""
    accounts: MutableMapping[str, Account] = field(default_factory=dict)
    """Those that were set up."""
    tokens: MutableMapping[UUID, Token] = field(default_factory=dict)
    """Those that are named, and all that still serve of the cards here."""
    digests: MutableMapping[str, UUID] = field(default_factory=dict)
    """Which token has the digest."""
    tokens_by_card: MutableMapping[UUID, tuple[UUID, ...]] = field(default_factory=dict)
    pins: MutableMapping[UUID, Pin] = field(default_factory=dict)
    """By the id of their card."""
    pin_attempts: MutableMapping[UUID, PinAttempt] = field(default_factory=dict)
    """PINs that were given: those that are to be judged, and all that count on their cards."""
    pin_attempts_by_card: MutableMapping[UUID, tuple[UUID, ...]] = field(default_factory=dict)
    transactions: list[Transaction] = field(default_factory=list)
    """What was moved here, in order."""
    _cards_before: MutableMapping[CardKey, Card | None] = field(default_factory=dict)
    _holds_before: MutableMapping[UUID, Hold | None] = field(default_factory=dict)
    _tokens_before: MutableMapping[UUID, Token | None] = field(default_factory=dict)
    _pins_before: MutableMapping[UUID, Pin | None] = field(default_factory=dict)
    _pin_attempts_before: MutableMapping[UUID, PinAttempt | None] = field(default_factory=dict)
    _batches_before: MutableMapping[BatchKey, Batch | None] = field(default_factory=dict)
    _new_jobs: list[Job] = field(default_factory=list)
    _new_files: list[tuple[File, FilePart]] = field(default_factory=list)
    _told: int = 0

    def account(self, account_id: str) -> Account:
        return self.accounts.get(account_id) or Account(account_id)

    def cards_for(self, needs: Needs) -> list[Card]:
        """Return the cards that a command names, by whatever, and that exist; its own first."""
        cards = [self.cards[key] for key in needs.cards if key in self.cards]
        for _, digest in needs.tokens:
            if digest in self.digests:
                cards.append(self.cards[self.ids[self.tokens[self.digests[digest]].card]])
        for _, id in needs.transactions:
            if id in self.named:
                cards.append(self.cards[self.ids[self.named[id].card]])
        return cards

    def time(self, needs: Needs, now: datetime) -> datetime:
        """Return the time of a command that comes at `now`.

        It is never before the last event of a card that the command names: clocks are stepped, a
        failover leads to another clock, and `now` was read before the cards were locked.
        """
        return max([now, *[card.time(now) for card in self.cards_for(needs)]])

    def due_holds(self, card: Card, now: datetime) -> list[Hold]:
        """Return the card's holds that still lock something although their time is up."""
        holds = (self.holds[id] for id in self.due.get(card.id, ()))
        return [hold for hold in holds if hold.amount_open and hold.is_due(now)]

    def token(self, given: GivenToken) -> Token | None:
        """Return the token that a caller has given, under whichever pepper it is kept."""
        found = (self.digests.get(hash.digest) for hash in given.hashes)
        return next((self.tokens[id] for id in found if id is not None), None)

    def tokens_of(self, card: Card, now: datetime) -> list[Token]:
        """Return the card's tokens that serve at `now`, the oldest first."""
        mine = (self.tokens[id] for id in self.tokens_by_card.get(card.id, ()))
        serving = (token for token in mine if token.serves(now))
        return sorted(serving, key=lambda token: (token.created_at, token.id))

    def pin_attempts_of(self, card: UUID) -> list[PinAttempt]:
        """Return the PIN attempts of a card that count."""
        mine = (self.pin_attempts[id] for id in self.pin_attempts_by_card.get(card, ()))
        return [attempt for attempt in mine if attempt.outcome is not Outcome.SETTLED]

    def put(self, card: Card) -> None:
        """Let a card be as given: one that changes, or one that is new."""
        key = card.key
        self._cards_before.setdefault(key, self.cards.get(key))
        self.cards[key] = card
        self.ids[card.id] = key

    def put_hold(self, hold: Hold) -> None:
        """Let a hold be as given."""
        self._holds_before.setdefault(hold.id, self.holds.get(hold.id))
        self.holds[hold.id] = hold

    def put_token(self, token: Token) -> None:
        """Let a token be as given: one that changes, or one that is new."""
        self._tokens_before.setdefault(token.id, self.tokens.get(token.id))
        self.know_token(token)

    def know_token(self, token: Token) -> None:
        """Take in a token as it is kept."""
        if token.id not in self.tokens:
            known = self.tokens_by_card.get(token.card, ())
            self.tokens_by_card[token.card] = (*known, token.id)
        self.tokens[token.id] = token
        self.digests[token.digest] = token.id

    def put_pin(self, pin: Pin) -> None:
        """Let a card's PIN be as given."""
        self._pins_before.setdefault(pin.id, self.pins.get(pin.id))
        self.pins[pin.id] = pin

    def know_pin_attempt(self, attempt: PinAttempt) -> None:
        """Take in a PIN attempt as it was noted."""
        if attempt.id not in self.pin_attempts and attempt.card is not None:
            known = self.pin_attempts_by_card.get(attempt.card, ())
            self.pin_attempts_by_card[attempt.card] = (*known, attempt.id)
        self.pin_attempts[attempt.id] = attempt

    def put_pin_attempt(self, attempt: PinAttempt) -> None:
        """Let a PIN attempt be as given."""
        self._pin_attempts_before.setdefault(attempt.id, self.pin_attempts.get(attempt.id))
        self.pin_attempts[attempt.id] = attempt

    def forgive(self, card: UUID, now: datetime) -> None:
        """Let the wrong PIN attempts of a card count no more.

        Those that are still to be judged go on counting, but for one whose message must have become
        a dead letter. Should it come after all, it is refused without a look.
        """
        for attempt in self.pin_attempts_of(card):
            if attempt.outcome is Outcome.WRONG or attempt.created_at + JUDGED_WITHIN < now:
                self.put_pin_attempt(attempt._replace(outcome=Outcome.SETTLED))

    def is_taken(self, key: CardKey) -> bool:
        """Say whether a card has this name, or a batch will give it to one."""
        return key in self.cards or self.busy_with(key) is not None

    def busy_with(self, key: CardKey) -> Batch | None:
        """Return the batch whose card this is, if it is still to be made, removed or let go."""
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
        """Let a batch be as given: one that changes, or one that is new."""
        self._batches_before.setdefault(batch.key, self.batches.get(batch.key))
        self.batches[batch.key] = batch
        orders = dict(self.orders.get(batch.account_id, {}))
        if batch.busy:
            orders[batch.batch_id] = batch
            for card in batch.listed or ():
                self.reserved[batch.account_id, card["card_id"]] = batch.batch_id
        else:
            orders.pop(batch.batch_id, None)
        self.orders[batch.account_id] = orders

    def begin(self, job: Job) -> None:
        """Let something be done to the cards of a batch, piece by piece."""
        self._new_jobs.append(job)

    def add_file(self, file: File, part: FilePart) -> None:
        """Let a new file have all of its content in one part."""
        self._new_files.append((file, part))

    def post(self, card: Card, moved: Movement, cause: Cause) -> Transaction:
        """Move money and write it down. Nothing else changes an amount.

        `card` is the card as its event leaves it, but for the money.
        """
        assert moved.amount > 0
        assert card.currency is not None
        after = _apply(card, moved)
        transaction = Transaction(
            id=cause.id,
            account_id=card.account_id,
            card=card.id,
            type=moved.type,
            amount=moved.amount,
            currency=card.currency,
            debit=moved.debit,
            credit=moved.credit,
            balance_before=card.amount_balance,
            balance_after=after.amount_balance,
            version=card.version,
            created_at=cause.at,
            created_by=cause.created_by,
            originated_by=cause.originated_by,
            ref_id=moved.ref_id,
            parent_id=moved.parent_id,
            metadata=moved.metadata,
        )
        self.put(after)
        self.transactions.append(transaction)
        self.named[transaction.id] = transaction
        if moved.ref_id is not None:
            self.refs[card.id, moved.ref_id] = transaction.id
        return transaction

    def aside(self) -> "Books":
        """Return books that start as these and leave these as they are: for a dry run."""
        return Books(**{one.name: _laid_aside(getattr(self, one.name)) for one in fields(self)})

    def take_changes(self) -> Changes:
        """Return how the rows differ from those at the last call, or from those loaded."""
        changes = Changes(
            cards=_changed(self._cards_before, self.cards),
            holds=_changed(self._holds_before, self.holds),
            tokens=_changed(self._tokens_before, self.tokens),
            pins=_changed(self._pins_before, self.pins),
            pin_attempts=_changed(self._pin_attempts_before, self.pin_attempts),
            batches=_changed(self._batches_before, self.batches),
            jobs=self._new_jobs,
            files=[file for file, _ in self._new_files],
            file_parts=[part for _, part in self._new_files],
            transactions=self.transactions[self._told :],
        )
        assert all(_follows(now, was) for was, now in changes.cards.changed)
        self._cards_before, self._holds_before = {}, {}
        self._tokens_before, self._pins_before, self._pin_attempts_before = {}, {}, {}
        self._batches_before, self._new_jobs, self._new_files = {}, [], []
        self._told = len(self.transactions)
        return changes


def _follows(now: Card, was: Card) -> bool:
    """Say whether a card can be what has become of another one."""
    changed_at = now.changed_at
    return (
        now.version > was.version and changed_at is not None and was.time(changed_at) == changed_at
    )


def _laid_aside(value: Any) -> Any:
    """Return what can be changed in the place of a field of books. What it holds are values."""
    match value:
        case MutableMapping():
            return ChainMap({}, value)
        case list():
            return list(value)
    assert isinstance(value, int)
    return value


def _changed(
    before: MutableMapping[Key, Row | None], now: MutableMapping[Key, Row]
) -> Changed[Row]:
    if not before:
        return Changed([], [])
    rows = [(was, now[key]) for key, was in before.items()]
    return Changed(
        new=[row for was, row in rows if was is None],
        changed=[(was, row) for was, row in rows if was is not None],
    )


def _apply(card: Card, moved: Movement) -> Card:
    """Return the card with the amounts that a movement leaves it with."""
    amount, debit, credit = moved.amount, moved.debit, moved.credit
    # Written in one step: of all that is done for a command, copying a card costs most.
    after: dict[str, Any] = {}
    if credit is Side.CARD:
        after["amount_balance"] = card.amount_balance + amount
    elif debit is Side.CARD:
        after["amount_balance"] = card.amount_balance - amount
    elif credit is Side.RESERVED and debit is Side.AVAILABLE:
        after["amount_reserved"] = card.amount_reserved + amount
    elif credit is Side.AVAILABLE and debit is Side.RESERVED:
        after["amount_reserved"] = card.amount_reserved - amount
    else:
        raise AssertionError(f"no {moved.type} goes from {debit} to {credit}")
    if moved.captures:
        after["amount_reserved"] = card.amount_reserved - amount
    # Three amounts are sums of one type each; a reversal takes a fund back.
    if moved.type is TransactionType.FUND:
        after["amount_funds"] = card.amount_funds + amount
    elif moved.type is TransactionType.REVERSAL:
        after["amount_funds"] = card.amount_funds - amount
    elif moved.type is TransactionType.DRAWDOWN:
        after["amount_drawdown"] = card.amount_drawdown + amount
    elif moved.type is TransactionType.PENDING_CAPTURE:
        after["amount_pending"] = card.amount_pending + amount
    return card._replace(**after)
