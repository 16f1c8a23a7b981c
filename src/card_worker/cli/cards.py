"""`card-worker card`: look at a card and at its history."""

import json
from datetime import datetime
from typing import Annotated, Any

import typer
from pydantic import TypeAdapter, ValidationError
from rich.table import Table
from sqlalchemy import Connection

from card_worker.cli.console import (
    AsJson,
    database,
    err,
    looking,
    money,
    out,
    print_json,
    refuse,
    table,
)
from card_worker.contracts.enums import CardType, Status
from card_worker.contracts.events import write
from card_worker.contracts.fields import Time
from card_worker.domain.rows import Card
from card_worker.domain.views import card_view, transaction_view
from card_worker.money import AMOUNT_MAX
from card_worker.storage import queries
from card_worker.storage.engine import begin
from card_worker.storage.queries import CardFilter

app = typer.Typer(help="Look at a card.", no_args_is_help=True)

CardId = Annotated[str, typer.Argument(help="The card's card_id.")]
AccountId = Annotated[str, typer.Option("--account", "-a", help="The tenant, such as T00000001.")]


@app.command()
def show(card_id: CardId, account: AccountId, as_json: AsJson = False) -> None:
    """Show a card as it is now."""
    with database() as engine, begin(engine) as (connection, now):
        card = _find(connection, account, card_id)
        told = _shown(connection, card, card.time(now))
    if as_json:
        print_json(told)
        return
    rows = [
        (name, money(value, told["currency"]) if name.startswith("amount") else value)
        for name, value in told.items()
    ]
    out.print(table(f"Card {card_id}", "", "", rows=rows))


@app.command()
def history(card_id: CardId, account: AccountId, as_json: AsJson = False) -> None:
    """Show every movement of a card's money, the first one first."""
    with looking() as connection:
        card = _find(connection, account, card_id)
        moved = queries.find_transactions(connection, card)
    told = [json.loads(write(transaction_view(row, card_id))) for row in moved]
    if as_json:
        for row in told:
            print_json(row)
        return
    rows = [
        (
            row["created_at"],
            row["version"],
            row["type"],
            f"{row['debit']} → {row['credit']}",
            money(row["amount"], row["currency"]),
            money(row["balance_after"], row["currency"]),
            row["created_by"],
        )
        for row in told
    ]
    columns = ("time", "version>", "type", "from → to", "amount>", "balance>", "by")
    out.print(table(f"History of {card_id}", *columns, rows=rows))


@app.command("list")
def list_(
    account: AccountId,
    *,
    status: Annotated[Status | None, typer.Option(help="What they show.")] = None,
    card_type: Annotated[CardType | None, typer.Option("--type", help="What they are.")] = None,
    customer: Annotated[str | None, typer.Option(help="Whose they are.")] = None,
    batch: Annotated[str | None, typer.Option(help="The batch that made them.")] = None,
    available_min: Annotated[
        int | None,
        typer.Option(min=0, max=AMOUNT_MAX, help="At least so much can be spent, in minor units."),
    ] = None,
    available_max: Annotated[
        int | None, typer.Option(min=0, max=AMOUNT_MAX, help="At most so much.")
    ] = None,
    created_from: Annotated[str | None, typer.Option(help="A time: 2026-11-22T10:00:00Z.")] = None,
    created_before: Annotated[str | None, typer.Option(help="A time.")] = None,
    expires_before: Annotated[str | None, typer.Option(help="A time.")] = None,
    limit: Annotated[int, typer.Option(min=1, max=10_000, help="At most so many.")] = 100,
    after: Annotated[str | None, typer.Option(help="Those behind this card_id.")] = None,
    as_json: AsJson = False,
) -> None:
    """List an account's cards by card_id."""
    wanted = CardFilter(
        status=status,
        type=card_type,
        customer_id=customer,
        batch_id=batch,
        available_min=available_min,
        available_max=available_max,
        created_from=_time("--created-from", created_from),
        created_before=_time("--created-before", created_before),
        expires_before=_time("--expires-before", expires_before),
    )
    with database() as engine, begin(engine) as (connection, now):
        found = queries.list_cards(
            connection, account, wanted, now, cards_max=limit + 1, after=after
        )
        told = [_shown(connection, card, now) for card in found[:limit]]
    if as_json:
        for card in told:
            print_json(card)
    else:
        out.print(_cards_table(account, told))
    if len(found) > limit:
        # Beside JSON, whose every line is a card, to be read by people.
        more = err if as_json else out
        more.print(f"There are more: --after {told[-1]['card_id']}", soft_wrap=True)


def _cards_table(account: str, told: list[dict[str, Any]]) -> Table:
    rows = [
        (
            card["card_id"],
            card["type"],
            card["status"],
            money(card["amount_balance"], card["currency"]),
            money(card["amount_available"], card["currency"]),
            card["customer_id"],
            card["expires_at"],
        )
        for card in told
    ]
    columns = ("card", "type", "status", "balance>", "available>", "customer", "expires")
    return table(f"Cards of {account}", *columns, rows=rows)


def _time(option: str, given: str | None) -> datetime | None:
    try:
        return None if given is None else TypeAdapter[datetime](Time).validate_python(given)
    except ValidationError:
        raise refuse(f"{option}: {given} is no time such as 2026-11-22T10:00:00Z", code=2) from None


def _find(connection: Connection, account: str, card_id: str) -> Card:
    card = queries.find_card(connection, account, card_id)
    if card is None:
        raise refuse(f"there is no card {card_id} in {account}")
    return card


def _shown(connection: Connection, card: Card, now: datetime) -> dict[str, Any]:
    serving, pin = queries.find_codes(connection, card, now)
    told = card_view(queries.card_at(connection, card, now), now, serving, pin)
    return dict(json.loads(write(told)))
