"""`card-worker producer`: the keys that sign commands, and their rights."""

from collections.abc import Callable
from contextlib import ExitStack
from datetime import datetime, timedelta
from pathlib import Path
from typing import Annotated, Any, TypeVar

from sqlalchemy import Connection
from typer import Argument, Option, Typer, echo

from card_worker.cli.accounts import read_amount, read_currency
from card_worker.cli.connections import database, read_only
from card_worker.cli.console import AsJson, print_json, print_views, refuse, table
from card_worker.cli.files import new_file, write_new
from card_worker.contracts.batches import CARDS_PER_ORDER_MAX
from card_worker.contracts.commands import COMMANDS
from card_worker.contracts.fields import SECONDS_MAX, is_account_id, read_time
from card_worker.contracts.queries import QUERIES
from card_worker.contracts.text import is_id
from card_worker.domain.producers import WINDOW_S, WRONG_MAX, ProducerKey
from card_worker.money import AMOUNT_MAX
from card_worker.secrets.signing import KEY_ID, Algorithm, SigningKey, ed25519_verifier
from card_worker.settings import PREFIX, load_settings
from card_worker.storage import producers
from card_worker.storage.engine import begin, clock
from card_worker.wording import suggestion

app = Typer(no_args_is_help=True)

ALL = "all"
NAME_CHARS_MAX = 255

KeyId = Annotated[str, Argument(help="The id of the key, as in its signatures.")]
NewKeyId = Annotated[str, Option("--key-id", help="The id of the new key: A-Za-z0-9._-, up to 64.")]
PublicKey = Annotated[
    str | None, Option(help="The public key of the producer's Ed25519 key: whpk_….")
]
Hmac = Annotated[
    Path | None,
    Option("--hmac", help="Make an HMAC key instead, and write it to this new file, once."),
]
ValidUntil = Annotated[
    str | None, Option(help="The end of its validity, such as 2027-01-01T00:00:00Z.")
]
_WRONG_MAX = Option(
    min=1,
    max=1_000_000,
    help="How many wrong PINs and unknown short tokens are accepted of the producer in ten minutes,"
    " unless 5 % of its attempts are more.",
)
WrongMax = Annotated[int, _WRONG_MAX]

Value = TypeVar("Value")


@app.command("new-key")
def make_key(
    file: Annotated[Path, Argument(help="The new file. Only you will be able to read it.")],
    key_id: NewKeyId,
    as_json: AsJson = False,
) -> None:
    """Write a new Ed25519 key to a file; print its public key, which `producer add` takes."""
    key = SigningKey.new(_checked(key_id))
    write_new(file, key.text.encode())
    if as_json:
        print_json({"key_id": key_id, "public_key": key.public_key})
    else:
        echo(key.public_key)


@app.command()
def add(
    name: Annotated[str, Argument(metavar="NAME", help="The producer, such as shop.")],
    *,
    key_id: NewKeyId,
    public_key: PublicKey = None,
    hmac: Hmac = None,
    accounts: Annotated[
        str, Option(help="The accounts that it may use, such as P00000001,P00000002. all: all.")
    ],
    tasks: Annotated[
        str, Option(help="The commands and queries that it may send. all: all of them.")
    ],
    amount_max: Annotated[
        int | None,
        Option(min=0, max=AMOUNT_MAX, help="Largest amount in a command, in minor units."),
    ] = None,
    cards_max: Annotated[
        int | None,
        Option(min=0, max=CARDS_PER_ORDER_MAX, help="Largest number of cards in an order."),
    ] = None,
    issued_max: Annotated[
        str | None,
        Option(
            help="How much the producer may load onto cards per UTC day, in minor units, such as"
            " NOK=100000,EUR=5000. Other currencies: nothing."
        ),
    ] = None,
    wrong_max: WrongMax = WRONG_MAX,
    valid_from: Annotated[
        str | None, Option(help="The begin of its validity, such as 2026-12-01T00:00:00Z.")
    ] = None,
    valid_until: ValidUntil = None,
    as_json: AsJson = False,
) -> None:
    """Register a key of a producer, with its rights. Workers accept it from their next commit."""
    if not is_id(name, chars_max=NAME_CHARS_MAX):
        raise refuse(f"NAME: must be an id of 1 to {NAME_CHARS_MAX} characters", code=2)
    rights: dict[str, Any] = {
        "accounts": _read("--accounts", _accounts, accounts),
        "tasks": _read("--tasks", _tasks, tasks),
        "amount_max": amount_max,
        "cards_max": cards_max,
        "issued_max": _read("--issued-max", _sums, issued_max),
        "wrong_max": wrong_max,
        "valid_until": _read("--valid-until", read_time, valid_until),
    }
    begin_at = _read("--valid-from", read_time, valid_from)

    def key_of(_: Connection, now: datetime) -> ProducerKey:
        own = _new_key(key_id, public_key)
        return ProducerKey(
            **own, **rights, producer=name, created_at=now, valid_from=begin_at or now
        )

    _store(key_of, hmac, public_key, as_json=as_json)


@app.command("list")
def list_keys(as_json: AsJson = False) -> None:
    """List all keys, by producer, the oldest first."""
    with read_only() as connection:
        now, keys = clock(connection), producers.list_keys(connection)
    rows = [(key.producer, key.key_id, key.algorithm.name, _state(key, now)) for key in keys]
    columns = ("producer", "key", "algorithm", "state")
    views = [_view(key, now) for key in keys]
    print_views(views, table("Keys", *columns, rows=rows), as_json=as_json)


@app.command()
def show(key_id: KeyId, as_json: AsJson = False) -> None:
    """Show a key and its rights."""
    with read_only() as connection:
        _print(_find(connection, key_id), clock(connection), as_json=as_json)


@app.command()
def rotate(
    old_key_id: KeyId,
    *,
    key_id: NewKeyId,
    public_key: PublicKey = None,
    hmac: Hmac = None,
    grace_s: Annotated[
        int,
        Option(min=0, max=SECONDS_MAX, help="How many seconds the old key stays valid."),
    ] = WINDOW_S,
    wrong_max: Annotated[int | None, _WRONG_MAX] = None,
    valid_until: ValidUntil = None,
    as_json: AsJson = False,
) -> None:
    """Register a new key with the rights of another, which stays valid for a time.

    Of these, --wrong-max may be changed. A command that the old key has signed is accepted as long
    as that is valid.
    """
    ends = _read("--valid-until", read_time, valid_until)

    def key_of(connection: Connection, now: datetime) -> ProducerKey:
        old = _find(connection, old_key_id)
        if not old.is_valid(now):
            raise refuse(
                f"the key {old_key_id} is {_state(old, now)}: use card-worker producer add"
            )
        if old.valid_until is not None and ends is None:
            raise refuse("--valid-until is missing: the old key has an end as well", code=2)
        last = now + timedelta(seconds=grace_s)
        last = min(last, old.valid_until or last)
        producers.change_key(connection, old_key_id, valid_until=last)
        return old._replace(
            **_new_key(key_id, public_key),
            wrong_max=old.wrong_max if wrong_max is None else wrong_max,
            created_at=now,
            valid_from=now,
            valid_until=ends,
        )

    _store(key_of, hmac, public_key, as_json=as_json)


@app.command()
def revoke(key_id: KeyId, as_json: AsJson = False) -> None:
    """Revoke a key for ever. Workers refuse it from their next commit, whenever it has signed."""
    with database() as engine, begin(engine) as (connection, now):
        key = _find(connection, key_id)
        if key.revoked_at is None:
            key = key._replace(revoked_at=now)
            producers.change_key(connection, key_id, revoked_at=now)
    _print(key, now, as_json=as_json)


def _new_key(key_id: str, public_key: str | None) -> dict[str, Any]:
    """Return the columns of a key that are its own: id, algorithm, public key or pepper."""
    own = {"key_id": _checked(key_id), "public_key": public_key, "pepper": None}
    if public_key is not None:
        return own | {"algorithm": Algorithm.ED25519}
    return own | {"algorithm": Algorithm.HMAC_SHA256, "pepper": _pepper()[0]}


def _checked(key_id: str) -> str:
    if not KEY_ID.fullmatch(key_id):
        raise refuse("--key-id: must be 1 to 64 of A-Za-z0-9._-", code=2)
    return key_id


def _pepper() -> tuple[str, bytes]:
    peppers = load_settings().producer_peppers
    if peppers is None:
        raise refuse(
            f"--hmac: {PREFIX}PRODUCER_PEPPERS is not set; card-worker codes new-pepper makes one",
            code=2,
        )
    return peppers.newest_key(producers.PEPPER_PURPOSE)


def _store(
    key_of: Callable[[Connection, datetime], ProducerKey],
    hmac: Path | None,
    public_key: str | None,
    *,
    as_json: bool,
) -> None:
    """Store the key that `key_of` returns, and write the file of an HMAC key; all or nothing."""
    if (hmac is None) == (public_key is None):
        raise refuse("name one of --public-key and --hmac", code=2)
    if public_key is not None:
        _read("--public-key", ed25519_verifier, public_key)
    with ExitStack() as ends, database() as engine:
        # Removed again if the key can't be stored.
        file = None if hmac is None else ends.enter_context(new_file(hmac))
        with begin(engine) as (connection, now):
            key = key_of(connection, now)
            if key.valid_until is not None and key.valid_until <= max(now, key.valid_from):
                raise refuse("--valid-until: is not after the begin, or has passed", code=2)
            if not producers.add_key(connection, key):
                raise refuse(f"--key-id: there is a key {key.key_id} already")
            if file is not None:
                file.write(SigningKey.derived(key.key_id, _pepper()[1]).text.encode())
                file.flush()
    _print(key, now, as_json=as_json)


def _find(connection: Connection, key_id: str) -> ProducerKey:
    key = producers.find_key(connection, key_id)
    if key is None:
        known = [each.key_id for each in producers.list_keys(connection)]
        raise refuse(f"there is no key {key_id}{suggestion(key_id, known) if known else ''}")
    return key


def _state(key: ProducerKey, now: datetime) -> str:
    if key.revoked_at is not None:
        return "revoked"
    if now < key.valid_from:
        return "not yet valid"
    return "valid" if key.is_valid(now) else "expired"


def _view(key: ProducerKey, now: datetime) -> dict[str, Any]:
    return {**key._asdict(), "state": _state(key, now)}


def _print(key: ProducerKey, now: datetime, *, as_json: bool) -> None:
    view = _view(key, now)
    rows = [(name, _cell(name, value)) for name, value in view.items()]
    print_views([view], table(f"Key {key.key_id}", "", "", rows=rows), as_json=as_json)


def _cell(name: str, value: Any) -> object:
    match value:
        case None if name in ("accounts", "tasks"):
            return ALL
        case list():
            return tuple(value)
        case dict():
            return tuple(f"{currency} {amount}" for currency, amount in value.items())
        case Algorithm():
            return value.name
    return value


def _read(option: str, read: Callable[[str], Value], text: str | None) -> Value | None:
    """Return what `read` makes of the value of an option; None if it is not given."""
    try:
        return None if text is None else read(text)
    except ValueError as error:
        raise refuse(f"{option}: {error}", code=2) from None


def _accounts(text: str) -> list[str] | None:
    accounts = None if text == ALL else list(dict.fromkeys(text.split(",")))
    for account in accounts or ():
        if not is_account_id(account):
            raise ValueError(f"{account} is not an account: P or T, and eight digits; or {ALL}")
    return accounts


def _tasks(text: str) -> list[str] | None:
    tasks = None if text == ALL else list(dict.fromkeys(text.split(",")))
    for task in tasks or ():
        if task not in COMMANDS and task not in QUERIES:
            known = suggestion(task, [*COMMANDS, *QUERIES, ALL])
            raise ValueError(f"there is no command or query {task}{known}")
    return tasks


def _sums(text: str) -> dict[str, int]:
    pairs = [part.partition("=") for part in text.split(",")]
    for currency, equals, amount in pairs:
        if not equals:
            raise ValueError(f"{currency}{amount} is not CURRENCY=AMOUNT")
    sums = {read_currency(currency).value: read_amount(amount) for currency, _, amount in pairs}
    if len(sums) < len(pairs):
        raise ValueError("a currency is named twice")
    return sums
