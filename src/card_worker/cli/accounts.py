"""`card-worker account`: the rules of an account."""

from typing import Annotated, Any

from typer import Argument, Option, Typer

from card_worker.cli.connections import database, read_only
from card_worker.cli.console import AsJson, print_views, refuse, table
from card_worker.contracts.enums import Expiry
from card_worker.contracts.fields import SECONDS_MAX, is_account_id
from card_worker.domain.rows import Account
from card_worker.money import AMOUNT_MAX, Currency
from card_worker.secrets.sealing import read_recipients
from card_worker.secrets.signing import Signatures
from card_worker.storage.accounts import change_account, find_accounts

app = Typer(no_args_is_help=True)

NONE = "none"
Id = Annotated[str, Argument(metavar="ACCOUNT", help="The account, such as T00000001.")]


@app.command()
def show(account: Id, as_json: AsJson = False) -> None:
    """Show the rules of an account. An account that was never set up has the defaults."""
    _check_id(account)
    with read_only() as connection:
        found = find_accounts(connection, [account])()
    _print(found.get(account, Account(account)), as_json=as_json)


@app.command("set")
def set_rules(
    account: Id,
    *,
    currencies: Annotated[
        str | None, Option(help="Currencies of its cards, such as NOK,SEK. none: all.")
    ] = None,
    load_max: Annotated[
        str | None, Option(help="Largest first amount of a card, in minor units. none: no limit.")
    ] = None,
    balance_max: Annotated[
        str | None, Option(help="Largest balance of a card, in minor units. none: no limit.")
    ] = None,
    expiry: Annotated[
        Expiry | None, Option(help="What happens to the money on a card that expires.")
    ] = None,
    reversal_window_s: Annotated[
        int | None,
        Option(min=0, max=SECONDS_MAX, help="How many seconds an activation can be reversed."),
    ] = None,
    recipients: Annotated[
        str | None,
        Option(help="Age recipients (age1…,age1…) for commands that name none. none: nobody."),
    ] = None,
    transfers_extend_expiry: Annotated[
        bool | None,
        Option(
            "--transfers-extend-expiry/--no-transfers-extend-expiry",
            help="Whether money may move to a card that expires later.",
        ),
    ] = None,
    approve_from: Annotated[
        str | None, Option(help="Smallest batch that needs approval. none: only if it says so.")
    ] = None,
    signatures: Annotated[
        Signatures | None, Option(help="Whether unsigned commands are accepted, too.")
    ] = None,
    signature_window_s: Annotated[
        int | None,
        Option(
            min=1, max=SECONDS_MAX, help="How many seconds the signature of a command is valid."
        ),
    ] = None,
    only_own_recipients: Annotated[
        bool | None,
        Option(
            "--only-own-recipients/--no-only-own-recipients",
            help="Whether commands may name the account's recipients only.",
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Set rules of an account. Rules that are not given stay as they are."""
    _check_id(account)
    values = {
        "currencies": currencies,
        "load_max": load_max,
        "balance_max": balance_max,
        "expiry": expiry,
        "reversal_window_s": reversal_window_s,
        "recipients": recipients,
        "transfers_extend_expiry": transfers_extend_expiry,
        "approve_from": approve_from,
        "signatures": signatures,
        "signature_window_s": signature_window_s,
        "only_own_recipients": only_own_recipients,
    }
    changes = {name: _read(name, value) for name, value in values.items() if value is not None}
    if not changes:
        raise refuse("no rule is given; see card-worker account set --help", code=2)
    with database() as engine:
        changed = change_account(engine, account, lambda rules: rules._replace(**changes))
    _print(changed, as_json=as_json)


def _print(account: Account, *, as_json: bool) -> None:
    rules = account._asdict()
    rows = [(name, NONE if value is None else value) for name, value in rules.items()]
    print_views([rules], table("Rules", "", "", rows=rows), as_json=as_json)


def _check_id(account: str) -> None:
    if not is_account_id(account):
        raise refuse(f"{account} is not an account: P or T, and eight digits", code=2)


def _read(name: str, value: Any) -> Any:
    """Return the value of a rule from that of its option."""
    if value == NONE:
        return None
    try:
        match name:
            case "currencies":
                return tuple(dict.fromkeys(map(read_currency, value.split(","))))
            case "recipients":
                read_recipients(value.split(","))
                return tuple(value.split(","))
            case "load_max" | "balance_max" | "approve_from":
                return read_amount(value)
    except ValueError as error:
        raise refuse(f"--{name.replace('_', '-')}: {error}", code=2) from None
    return value


def read_currency(text: str) -> Currency:
    """Return a currency. Raises ValueError."""
    if text not in Currency.__members__:
        raise ValueError(f"{text} is not a currency; there are {', '.join(Currency)}")
    return Currency(text)


def read_amount(text: str) -> int:
    """Return an amount in minor units. Raises ValueError."""
    if not (text.isdecimal() and len(text) < 20 and int(text) <= AMOUNT_MAX):
        raise ValueError(f"{text} is not an amount in minor units")
    return int(text)
