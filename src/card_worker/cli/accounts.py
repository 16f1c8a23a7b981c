"""`card-worker account`: a tenant's own rules. One that was never set up has the defaults."""

from typing import Annotated, Any

import typer
from pydantic import TypeAdapter, ValidationError

from card_worker.cli.console import AsJson, database, looking, out, print_json, refuse, table
from card_worker.contracts.enums import Expiry
from card_worker.contracts.fields import SECONDS_MAX, AccountId
from card_worker.domain.rows import Account
from card_worker.money import Amount, Currency
from card_worker.secrets.sealing import read_recipients
from card_worker.storage.accounts import change_account, find_accounts

app = typer.Typer(help="See and set a tenant's own rules.", no_args_is_help=True)

NONE = "none"
Id = Annotated[str, typer.Argument(metavar="ACCOUNT", help="The tenant, such as T00000001.")]


@app.command()
def show(account: Id, as_json: AsJson = False) -> None:
    """Show the rules of an account."""
    account_id = _account_id(account)
    with looking() as connection:
        known = find_accounts(connection, [account_id])()
    _print(known.get(account_id, Account(account_id)), as_json=as_json)


@app.command("set")
def set_rules(
    account: Id,
    *,
    currencies: Annotated[
        str | None, typer.Option(help="Those that cards may have: NOK,SEK. none: all.")
    ] = None,
    load_max: Annotated[
        str | None, typer.Option(help="What a card may begin with, in minor units. none: no limit.")
    ] = None,
    balance_max: Annotated[
        str | None, typer.Option(help="What a card may hold, in minor units. none: no limit.")
    ] = None,
    expiry: Annotated[
        Expiry | None, typer.Option(help="What becomes of the money on a card that expires.")
    ] = None,
    reversal_window_s: Annotated[
        int | None,
        typer.Option(
            min=0, max=SECONDS_MAX, help="How many seconds an activation can be reversed."
        ),
    ] = None,
    recipients: Annotated[
        str | None,
        typer.Option(help="Who may open secrets, where a command doesn't say: age1…,age1…. none."),
    ] = None,
    approve_from: Annotated[
        str | None,
        typer.Option(help="Batches of so many cards or more need approval. none: only some."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Set rules of an account; those that aren't given stay as they are."""
    account_id = _account_id(account)
    changes: dict[str, Any] = {}
    if currencies is not None:
        changes["currencies"] = _currencies(currencies)
    limits = (
        ("load_max", load_max),
        ("balance_max", balance_max),
        ("approve_from", approve_from),
    )
    for name, given in limits:
        if given is not None:
            changes[name] = _limit(name, given)
    if expiry is not None:
        changes["expiry"] = expiry
    if reversal_window_s is not None:
        changes["reversal_window_s"] = reversal_window_s
    if recipients is not None:
        changes["recipients"] = _recipients(recipients)
    if not changes:
        raise refuse("say what to set; see --help", code=2)
    with database() as engine:
        known = change_account(engine, account_id, lambda known: known._replace(**changes))
    _print(known, as_json=as_json)


def _print(account: Account, *, as_json: bool) -> None:
    if as_json:
        print_json(account._asdict())
        return
    codes = account.currencies
    rows = [
        ("currencies", "all" if codes is None else ", ".join(codes)),
        ("load_max", "no limit" if account.load_max is None else account.load_max),
        ("balance_max", "no limit" if account.balance_max is None else account.balance_max),
        ("expiry", account.expiry),
        ("approve_from", "none" if account.approve_from is None else account.approve_from),
        ("reversal_window_s", account.reversal_window_s),
        ("recipients", None if account.recipients is None else "\n".join(account.recipients)),
    ]
    out.print(table(f"Account {account.account_id}", "", "", rows=rows))


def _account_id(given: str) -> str:
    try:
        return TypeAdapter[str](AccountId).validate_python(given)
    except ValidationError:
        raise refuse(f"{given} is no account: P or T, and eight digits", code=2) from None


def _currencies(given: str) -> tuple[Currency, ...] | None:
    if given == NONE:
        return None
    try:
        return tuple(dict.fromkeys(Currency(code) for code in given.split(",")))
    except ValueError:
        known = ", ".join(Currency)
        raise refuse(f"--currencies: {given} is not a list of some of {known}", code=2) from None


def _recipients(given: str) -> tuple[str, ...] | None:
    if given == NONE:
        return None
    named = tuple(given.split(","))
    try:
        read_recipients(named)
    except ValueError as problem:
        raise refuse(f"--recipients: {problem}", code=2) from None
    return named


def _limit(name: str, given: str) -> int | None:
    if given == NONE:
        return None
    try:
        return TypeAdapter[int](Amount).validate_python(int(given))
    except ValueError:  # pydantic's is one too
        option = f"--{name.replace('_', '-')}"
        raise refuse(f"{option}: {given} is not an amount in minor units", code=2) from None
