"""`card-worker card`: show cards and their history."""

import json
from datetime import datetime
from itertools import repeat
from typing import Annotated, Any

from sqlalchemy import Connection
from typer import Argument, Option, Typer

from card_worker.cli.connections import database, read_only
from card_worker.cli.console import AsJson, err, money, out, print_views, refuse, table
from card_worker.cli.filters import (
    AccountId,
    AvailableMax,
    AvailableMin,
    CreatedBefore,
    CreatedFrom,
    ExpiresBefore,
    OfBatch,
    OfCustomer,
    OfStatus,
    OfType,
    card_filter,
)
from card_worker.contracts.events import write
from card_worker.domain.rows import Card, Token
from card_worker.domain.views import card_view, transaction_view
from card_worker.storage import queries
from card_worker.storage.engine import begin

app = Typer(no_args_is_help=True)

NO_CODES: tuple[list[Token], None] = [], None

CardId = Annotated[str, Argument(help="The card's card_id.")]


@app.command()
def show(card_id: CardId, account: AccountId, as_json: AsJson = False) -> None:
    """Show a card as it is now."""
    with database() as engine, begin(engine) as (connection, now):
        card = _find(connection, account, card_id)
        view = _view(connection, card, card.time(now))
    rows = [
        (name, money(value, view["currency"]) if name.startswith("amount") else value)
        for name, value in view.items()
    ]
    print_views([view], table(f"Card {card_id}", "", "", rows=rows), as_json=as_json)


@app.command()
def history(card_id: CardId, account: AccountId, as_json: AsJson = False) -> None:
    """Show the transactions of a card, the oldest first."""
    with read_only() as connection:
        card = _find(connection, account, card_id)
        transactions = queries.find_transactions(connection, card)
    views = [json.loads(write(transaction_view(row, card_id))) for row in transactions]
    rows = [
        (
            view["created_at"],
            view["version"],
            view["type"],
            f"{view['debit']} → {view['credit']}",
            money(view["amount"], view["currency"]),
            money(view["balance_after"], view["currency"]),
            view["created_by"],
        )
        for view in views
    ]
    columns = ("time", "version>", "type", "from → to", "amount>", "balance>", "by")
    print_views(views, table(f"History of {card_id}", *columns, rows=rows), as_json=as_json)


@app.command("list")
def list_(
    account: AccountId,
    *,
    status: OfStatus = None,
    card_type: OfType = None,
    customer: OfCustomer = None,
    batch: OfBatch = None,
    available_min: AvailableMin = None,
    available_max: AvailableMax = None,
    created_from: CreatedFrom = None,
    created_before: CreatedBefore = None,
    expires_before: ExpiresBefore = None,
    limit: Annotated[int, Option(min=1, max=10_000, help="Largest number of cards.")] = 100,
    after: Annotated[str | None, Option(help="Start after this card_id.")] = None,
    as_json: AsJson = False,
) -> None:
    """List the cards of an account, ordered by card_id."""
    filter_ = card_filter(
        status=status,
        type=card_type,
        customer_id=customer,
        batch_id=batch,
        available_min=available_min,
        available_max=available_max,
        created_from=created_from,
        created_before=created_before,
        expires_before=expires_before,
    )
    with database() as engine, begin(engine, writing=False) as (connection, now):
        cards = queries.list_cards(
            connection, account, filter_, now, cards_max=limit + 1, after=after
        )
        # The table has nothing of tokens and PINs, which readers may not read.
        codes = queries.find_codes_of(connection, cards[:limit], now) if as_json else None
        views = [
            dict(json.loads(write(card_view(card, now, *of_card))))
            for card, of_card in zip(cards[:limit], codes or repeat(NO_CODES), strict=False)
        ]
    rows = [
        (
            view["card_id"],
            view["type"],
            view["status"],
            money(view["amount_balance"], view["currency"]),
            money(view["amount_available"], view["currency"]),
            view["customer_id"],
            view["expires_at"],
        )
        for view in views
    ]
    columns = ("card", "type", "status", "balance>", "available>", "customer", "expires")
    print_views(views, table(f"Cards of {account}", *columns, rows=rows), as_json=as_json)
    if len(cards) > limit:
        # Not on stdout with --json, because each of its lines is a card.
        console = err if as_json else out
        console.print(f"There are more: --after {views[-1]['card_id']}", soft_wrap=True)


def _find(connection: Connection, account: str, card_id: str) -> Card:
    card = queries.find_card(connection, account, card_id)
    if card is None:
        raise refuse(f"there is no card {card_id} in {account}")
    return card


def _view(connection: Connection, card: Card, now: datetime) -> dict[str, Any]:
    tokens, pin = queries.find_codes(connection, card, now)
    view = card_view(queries.card_at(connection, card, now), now, tokens, pin)
    return dict(json.loads(write(view)))
