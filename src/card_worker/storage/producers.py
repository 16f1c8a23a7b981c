"""The registry of producers: their keys and rights, and what they have issued."""

from collections.abc import Iterable
from datetime import datetime
from typing import Any, NamedTuple

from sqlalchemy import Connection, select, update

from card_worker.domain.producers import WINDOW_S, Issued, ProducerKey
from card_worker.secrets.signing import Signatures
from card_worker.storage.engine import clock
from card_worker.storage.json_rows import find, find_rows, parameters, upsert, upsert_rows
from card_worker.storage.pipeline import send
from card_worker.storage.tables import accounts, issued, producers, registry

PEPPER_PURPOSE = b"producer"
"""For which keys are derived from the peppers of producers."""


class Registry(NamedTuple):
    """All keys, and the accounts with rules for signatures, as at one version."""

    version: int
    at: datetime
    """The time of the database's clock when it was read."""
    keys: dict[str, ProducerKey]
    """By key id."""
    required: frozenset[str]
    """The accounts that require signatures."""
    windows_s: dict[str, int]
    """How old a signature may be, for accounts where that is not the default."""
    limited: frozenset[str]
    """The producers of which a key has a limit for what may be issued per day."""


def load_registry(connection: Connection) -> Registry:
    """Return the registry. The connection must read as at one moment."""
    now = clock(connection)
    required, window_s = accounts.c.signatures, accounts.c.signature_window_s
    rules = select(accounts.c.account_id, required, window_s).where(
        (required == Signatures.REQUIRED) | (window_s != WINDOW_S)
    )
    rows = connection.execute(rules).all()
    keys = list_keys(connection)
    return Registry(
        read_version(connection),
        now,
        {key.key_id: key for key in keys},
        frozenset(row[0] for row in rows if row[1] is Signatures.REQUIRED),
        {row[0]: row[2] for row in rows if row[2] != WINDOW_S},
        frozenset(key.producer for key in keys if key.issued_max is not None),
    )


def read_version(connection: Connection) -> int:
    """Return the version of the registry."""
    return int(connection.execute(select(registry.c.version)).scalar_one())


def list_keys(connection: Connection) -> list[ProducerKey]:
    """Return all keys, by producer, the oldest first."""
    columns = [producers.c[name] for name in ProducerKey._fields]
    statement = select(*columns).order_by(
        producers.c.producer, producers.c.created_at, producers.c.key_id
    )
    return [ProducerKey._make(row) for row in connection.execute(statement)]


def find_issued(connection: Connection, places: Iterable[tuple[str, str, str]]) -> Issued:
    """Return what was issued at these places, without a lock."""
    keys = [dict(zip(("producer", "day", "currency"), place, strict=True)) for place in places]
    names = ("producer", "day", "currency", "amount")
    return Issued(
        {(row[0], row[1], row[2]): row[3] for row in find(connection, issued, names, keys)()}
    )


def add_issued(connection: Connection, more: Issued) -> None:
    """Add what a commit has issued. It is the commit's last statement, as it locks the rows."""
    rows = [
        {"producer": producer, "day": day, "currency": currency, "amount": amount}
        for (producer, day, currency), amount in sorted(more.items())
    ]
    if rows:
        dialect, columns = connection.dialect.name, tuple(issued.c)
        added = upsert_rows(dialect, issued, columns)
        added = added.on_conflict_do_update(
            index_elements=list(issued.primary_key),
            set_={"amount": issued.c.amount + added.excluded.amount},
        )
        send(connection, added, parameters(dialect, columns, rows))


def add_key(connection: Connection, key: ProducerKey) -> bool:
    """Store a new key; return False if there is one with its id."""
    added = upsert(connection.dialect.name, producers).values(key._asdict())
    stored = added.on_conflict_do_nothing().returning(producers.c.key_id)
    return connection.execute(stored).first() is not None


def find_key(connection: Connection, key_id: str) -> ProducerKey | None:
    """Return the key with this id."""
    (*found,) = find_rows(connection, producers, ProducerKey, [{"key_id": key_id}])()
    return found[0] if found else None


def change_key(connection: Connection, key_id: str, **values: Any) -> None:
    """Change columns of a key. Workers apply the change from their next commit on."""
    connection.execute(update(producers).where(producers.c.key_id == key_id).values(values))
