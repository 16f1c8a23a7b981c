"""`card-worker card`: look at a card and at its history."""

import json
from typing import Annotated

import typer
from sqlalchemy import Connection

from card_worker.cli.console import AsJson, database, looking, money, out, print_json, refuse, table
from card_worker.contracts.events import write
from card_worker.domain.answers import shown, shown_transaction
from card_worker.domain.rows import Card
from card_worker.storage import looks
from card_worker.storage.engine import begin

app = typer.Typer(help="Look at a card.", no_args_is_help=True)

CardId = Annotated[str, typer.Argument(help="The card's card_id.")]
AccountId = Annotated[str, typer.Option("--account", "-a", help="The tenant, such as T00000001.")]


@app.command()
def show(card_id: CardId, account: AccountId, as_json: AsJson = False) -> None:
    """Show a card as it is now."""
    with database() as engine, begin(engine) as (connection, now):
        card = looks.card_at(connection, _find(connection, account, card_id), now)
    told = json.loads(write(shown(card, now)))
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
        moved = looks.find_transactions(connection, card)
    told = [json.loads(write(shown_transaction(row, card_id))) for row in moved]
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


def _find(connection: Connection, account: str, card_id: str) -> Card:
    card = looks.find_card(connection, account, card_id)
    if card is None:
        raise refuse(f"there is no card {card_id} in {account}")
    return card
