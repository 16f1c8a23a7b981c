"""What every command does to a card in every state: the rules' own table, and where it leads."""

from collections import defaultdict
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

from card_worker.contracts.cards import ActivateCard, TransferBalance
from card_worker.contracts.commands import COMMANDS, Command
from card_worker.contracts.enums import CardType, Side, Status, TransactionType
from card_worker.domain.books import Books
from card_worker.domain.decide import apply, decide
from card_worker.domain.events import CommandRejected
from card_worker.domain.rows import Card, Hold, State, Transaction
from card_worker.domain.states import ALLOWED, Fund
from card_worker.money import Currency

_ACCOUNT = "T00000001"
_NOW = datetime(2026, 1, 1, tzinfo=UTC)
_CARD, _OTHER, _ROW = UUID(int=1), UUID(int=2), UUID(int=3)
_ACTIVE: dict[str, Any] = {
    "state": State.ACTIVE,
    "currency": Currency.NOK,
    "active_from": _NOW,
    "activated_at": _NOW,
}
_SPENT = {"amount": 300, "amount_funds": 300, "amount_drawdown": 100, "amount_pending": 100}
_LEFT = _SPENT | {"amount_balance": 200, "amount_reserved": 100}
_UNUSED = {"amount": 300, "amount_funds": 300, "amount_balance": 300, "postings": 1}
_USED = {"amount": 100, "amount_funds": 100, "amount_drawdown": 100}
_FREE = _LEFT | {"amount_reserved": 0}
# Cards that show each status. What names a transaction finds one on those that are used.
_CARDS: dict[Status, list[dict[str, Any]]] = {
    Status.INACTIVE: [{"state": State.INACTIVE}],
    Status.UNUSED: [_ACTIVE | _UNUSED],
    Status.PARTIALLY_USED: [_ACTIVE | _LEFT, _ACTIVE | _FREE],
    Status.USED: [_ACTIVE | _USED],
    Status.BLOCKED: [_ACTIVE | amounts | {"blocked": True} for amounts in (_LEFT, _UNUSED, _USED)],
    Status.EXPIRED: [
        _ACTIVE | amounts | {"expires_at": _NOW} for amounts in (_LEFT, _UNUSED, _USED)
    ],
    Status.CLOSED: [_ACTIVE | {"state": State.CLOSED}],
}
_LIVE = (Status.UNUSED, Status.PARTIALLY_USED, Status.USED, Status.BLOCKED)
_ABOUT_CODES = frozenset(["cards.rotate_pin", "tokens.create", "tokens.revoke"])
"""A card shows the same after these."""
# More than a card holds, or all of it: what a status turns into may depend on how much is moved.
_AMOUNTS = (100, 200, 300)
_FIELDS: dict[str, Any] = {
    "card_id": "card",
    "to_card_id": "other",
    "new_card_id": "new",
    "transaction_id": str(_ROW),
    "currency": "NOK",
    "ref_id": "ref",
    "reason": "because",
    "name": "name",
}


def states_page() -> str:
    """Return the page `states.md`: a diagram of the ways between states, and the whole table."""
    return "\n".join(
        [
            "# States",
            "",
            "Written by `card-worker contract` from the table that the rules themselves use"
            " (`domain/states.py`), and by asking them. A card shows the first of: inactive,"
            " closed, expired, blocked, unused, used, partially used.",
            "",
            "```mermaid",
            *_diagram(),
            "```",
            "",
            *_table(),
            "",
            "`yes`: the command may go on, and what it asks for is looked at next. A word: it is"
            " refused with this reason. The last column is a card that doesn't exist.",
            "",
            "A command that names the card by its token is refused with `card_not_usable` in each"
            " status in which the table refuses a payment, and while the card's PIN is locked."
            " `cards.unblock` also ends such a lock. Of a card that is not blocked and has no lock"
            " to end it is refused with `card_not_blocked`.",
            "",
        ]
    )


def _table() -> list[str]:
    columns = [*Status, None]
    heads = ["command", *(status.value for status in Status), "–"]
    lines = [_row(heads), _row(["---"] * len(heads))]
    rows = {f"`{_name(kind)}`": row for kind, row in ALLOWED.items()}
    rows["`cards.replace`, the new card"] = {**ALLOWED[ActivateCard], None: None}
    rows["`cards.transfer`, the other card"] = ALLOWED[TransferBalance]
    for name, row in rows.items():
        reasons = (row[status] for status in columns)
        cells = (f"`{reason}`" if reason else "yes" for reason in reasons)
        lines.append(_row([name, *cells]))
    return lines


def _row(cells: list[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _name(kind: type) -> str:
    if kind is Fund:
        return "transactions.create fund"
    return next(task for task, known in COMMANDS.items() if known is kind)


def _diagram() -> list[str]:
    ways = defaultdict[tuple[str, str], list[str]](list)
    on_cards = (task for task in COMMANDS if not task.startswith("batches."))
    for task in (task for task in on_cards if task not in _ABOUT_CODES):
        for before, after in sorted(_leads(task)):
            ways[before, after].append(task)
    lines = ["stateDiagram-v2"]
    lines += [
        f"    {before} --> {after}: {', '.join(tasks)}" for (before, after), tasks in ways.items()
    ]
    lines += [f"    {before.value} --> {Status.EXPIRED.value}: expires_at" for before in _LIVE]
    return lines


def _leads(task: str) -> set[tuple[str, str]]:
    """Return from which status to which other one a command can bring its card."""
    found = set()
    for status, shape in _shapes():
        for fields in _asked(task):
            after = _shown_after(shape, COMMANDS[task](**fields))
            if after is not None and after != status:
                found.add((status.value if status else "[*]", after.value))
    return found


def _shapes() -> Iterator[tuple[Status | None, dict[str, Any] | None]]:
    yield None, None
    for status, shapes in _CARDS.items():
        for shape in shapes:
            yield status, shape


def _asked(task: str) -> list[dict[str, Any]]:
    kind = COMMANDS[task]
    fields = {"account_id": _ACCOUNT, "command_id": "c"}
    fields |= {name: value for name, value in _FIELDS.items() if name in kind.model_fields}
    if task == "cards.batch_create":
        return [fields | {"cards": [{"card_id": "card"}]}]
    if "expires_at" in kind.model_fields and task == "cards.update":
        return [fields, fields | {"expires_at": _NOW + timedelta(days=1)}]
    if "amount" not in kind.model_fields:
        return [fields]
    asked = [fields | {"amount": amount} for amount in _AMOUNTS]
    if "type" in kind.model_fields and task == "transactions.create":
        asked += [one | {"type": "fund"} for one in asked]
    return asked


def _shown_after(shape: dict[str, Any] | None, command: Command) -> Status | None:
    """Return what the card shows after a command, None where it is refused."""
    books = _books(shape, command)
    decided = decide(books, command, _NOW)
    if isinstance(decided.answer, CommandRejected):
        return None
    for event in decided.events:
        apply(event, books)
    card = books.cards[_ACCOUNT, "card"]
    return card.status(_NOW)


def _books(shape: dict[str, Any] | None, command: Command) -> Books:
    books = Books()
    other = _ACTIVE | {"amount": 100, "amount_funds": 100, "amount_balance": 100}
    books.put_card(_card(_OTHER, "other", other))
    if shape is None:
        return books
    card = _card(_CARD, "card", shape)
    books.put_card(card)
    if command.command == "transactions.refund" and card.amount_drawdown:
        books.named[_ROW] = _transaction(TransactionType.DRAWDOWN)
    elif card.amount_reserved:
        books.named[_ROW] = _transaction(TransactionType.PENDING_CAPTURE)
        is_due = command.command == "holds.expire"
        until = _NOW if is_due else None
        books.holds.put(Hold(_ROW, _ACCOUNT, _CARD, 100, _NOW, expires_at=until))
    return books


def _card(id: UUID, card_id: str, fields: dict[str, Any]) -> Card:
    return Card(
        id=id,
        account_id=_ACCOUNT,
        card_id=card_id,
        type=CardType.GIFT_CARD,
        created_at=_NOW,
        **fields,
    )


def _transaction(type: TransactionType) -> Transaction:
    return Transaction(
        id=_ROW,
        account_id=_ACCOUNT,
        card=_CARD,
        type=type,
        amount=100,
        currency=Currency.NOK,
        debit=Side.CARD,
        credit=Side.MERCHANT,
        balance_before=300,
        balance_after=200,
        version=2,
        created_at=_NOW,
    )
