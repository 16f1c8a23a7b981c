"""No token and no PIN is found in anything that the system leaves behind.

Thousands of known values are issued and used in every way, rightly and wrongly; then they are
searched for in the database's files and its log of changes, in all rows, in the broker's memory and
its files, on the stream, in logs at DEBUG, in Flower, results and dead letters.
"""

import base64
import csv
import io
import json
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

import pytest
from celery import Celery
from redis import Redis

from card_worker.client import Client
from card_worker.contracts.cards import ActivateCard
from card_worker.contracts.secrets import PinOptions
from card_worker.contracts.tokens import CreateToken, RotatePin
from card_worker.contracts.transactions import CreateTransaction
from card_worker.embedded.valkey import Valkey, valkey
from card_worker.money import Currency
from card_worker.secrets.formats import PinFormat
from card_worker.secrets.peppers import new_pepper
from card_worker.secrets.sealing import new_key_pair, open_sealed
from card_worker.secrets.secret import Secret
from card_worker.storage.migrations import upgrade
from tests import servers
from tests.flow.haystack import Haystack
from tests.flow.processes import Part, flower_address, until
from tests.flow.scraping import METRICS_PORT, get
from tests.flow.system import ACCOUNT, System, envelope, system
from tests.producers import ed25519_key, register, signed

BUREAU, OPERATOR, SERVICE = new_key_pair(), new_key_pair(), new_key_pair()
CARDS = 1_000
BY_PATTERN = 100
DEFECTS = 3
"""Cards of the batch that no transaction gets through to, once that is planted."""
PLANT = {
    "postgresql": "CREATE FUNCTION leak() RETURNS trigger LANGUAGE plpgsql AS"
    " $$ BEGIN RAISE EXCEPTION 'planted'; END $$; CREATE TRIGGER leak BEFORE UPDATE ON cards"
    " FOR EACH ROW WHEN (NEW.card_id LIKE 'defect%') EXECUTE FUNCTION leak()",
    "sqlite": "CREATE TRIGGER leak BEFORE UPDATE ON cards WHEN NEW.card_id LIKE 'defect%'"
    " BEGIN SELECT RAISE(ABORT, 'planted'); END",
}
DIG_OUT = {"postgresql": "DROP TRIGGER leak ON cards", "sqlite": "DROP TRIGGER leak"}
# Long enough that none stands anywhere by chance.
PIN_LENGTH = 14
WRONG = "no-pin-of-them"
SIGNED = 5
"""Cards whose holders' commands are also signed."""


@dataclass
class Place:
    """A system, and where its parts keep what they keep."""

    system: System
    broker: Valkey
    data: Path
    flower: Part


@pytest.fixture(params=["postgresql", "sqlite"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Place]:
    """A system on servers of its own, with every part at its most talkative."""
    with ExitStack() as running:
        if request.param == "postgresql":
            server = running.enter_context(servers.postgres())
            data, url = server.data, server.url
        else:
            data = tmp_path / "sqlite"
            data.mkdir()
            url = f"sqlite:///{data / 'cards.db'}"
        upgrade(url)
        broker = running.enter_context(valkey(tmp_path / "broker"))
        made = running.enter_context(system(tmp_path, database_url=url, broker_url=broker.url))
        made.start("worker", "--loglevel=DEBUG", **_settings(tmp_path, broker.url))
        made.start("relay")
        flower = made.start("flower", "--port=0", "--logging=debug")
        place = Place(made, broker, data, flower)
        until(lambda: _flower_is_told(place), "Flower")
        yield place


def _flower_is_told(place: Place) -> bool:
    # Workers tell nothing until Flower has asked them, so one more each time.
    place.system.catches_up()
    return "cards.expire" in _flower_s_tasks(place)


def _settings(folder: Path, backend_url: str) -> dict[str, str]:
    return {
        "TOKEN_PEPPERS": new_pepper("t1"),
        "PIN_PEPPERS": new_pepper("p1"),
        "FILES_URL": str(folder / "files"),
        "COMMAND_IDENTITIES": SERVICE.identity,
        "LETTER_RECIPIENTS": OPERATOR.recipient,
        "RESULT_BACKEND_URL": backend_url,
        "METRICS_PORT": METRICS_PORT,
    }


def test_no_secret_is_found_anywhere(place: Place, tmp_path: Path) -> None:
    """First of producers who seal what they send, then of those who don't."""
    cards = _issue(place, tmp_path / "files")
    more = _use_sealed(place, cards)
    secrets = [*(row["token"] for row in cards), *(row["pin"] for row in cards), *more, WRONG]
    assert len(set(secrets)) == len(secrets) > 2 * CARDS
    assert _found(place, tmp_path / "first", secrets) == []
    _use_plainly(place, cards)
    # What came in clear stood in the broker for as long as it waited, and stands in its log of
    # changes until that is written anew.
    _rewrite_log(place)
    assert _found(place, tmp_path / "second", secrets) == []
    _requeue(place, tmp_path)
    (tmp_path / "first" / "planted").write_text(base64.b64encode(b"x" + WRONG.encode()).decode())
    assert len(Haystack(tmp_path / "third", [WRONG]).finds(tmp_path / "first")) == 1


# --- what is done -----------------------------------------------------------------------------


def _issue(place: Place, files: Path) -> list[dict[str, str]]:
    """Order cards, and load them; return what the bureau reads in their files."""
    options = {"card_token": {}, "pin": {"format": {"length": PIN_LENGTH}}}
    names = [f"{'defect' if n < DEFECTS else 'card'}-listed-{n}" for n in range(CARDS)]
    place.system.send(
        "cards.batch_create",
        "batch",
        cards=[{"card_id": card_id} for card_id in names],
        options=options,
        seal_to=[BUREAU.recipient],
    )
    # And some that are made chunk by chunk.
    by_pattern = {"count": BY_PATTERN, "card_id_pattern": "card-{n}"}
    place.system.send(
        "cards.batch_create", "order", **by_pattern, options=options, seal_to=[BUREAU.recipient]
    )
    place.system.answers("order", "batch")
    until(lambda: len(list(files.glob("*/*.age"))) == 2, "the files")
    sealed = sorted(files.glob("*/*.age"))  # that of the batch first
    rows = [
        row
        for file in sealed
        for row in csv.DictReader(
            io.StringIO(open_sealed([BUREAU.identity], file.read_bytes()).decode())
        )
    ]
    loads = [
        ActivateCard(
            account_id=ACCOUNT,
            command_id=f"load-{row['card_id']}",
            card_id=row["card_id"],
            amount=500,
            currency=Currency.NOK,
        )
        for row in rows
    ]
    place.system.client.send_list(loads)
    place.system.answers(*(load.command_id for load in loads))
    return rows


def _use_sealed(place: Place, cards: Sequence[dict[str, str]]) -> list[str]:
    """Pay with all cards, rightly and wrongly; return the secrets that were made on the way."""
    sent = [_payment(f"pay-{n}", row, row["pin"]) for n, row in enumerate(cards)]
    sent += [_payment(f"wrong-{n}", row, WRONG) for n, row in enumerate(cards[:100])]
    sent += [_payment(f"again-{n}", row, row["pin"], 10**6) for n, row in enumerate(cards[:100])]
    makes: list[CreateToken | RotatePin] = []
    for n, row in enumerate(cards[100:200]):
        token = CreateToken(
            account_id=ACCOUNT,
            command_id=f"token-{n}",
            card_id=row["card_id"],
            ref_id="extra",
            expires_in=3600,
            seal_to=(BUREAU.recipient,),
        )
        pin = RotatePin(
            account_id=ACCOUNT,
            command_id=f"pin-{n}",
            card_id=row["card_id"],
            pin=PinOptions(format=PinFormat(length=PIN_LENGTH)),
            seal_to=(BUREAU.recipient,),
        )
        makes += [token, pin]
    with Client(place.broker.url, seal_to=[SERVICE.recipient]) as till:
        till.send(sent)
        place.system.answers(*(payment.command_id for payment in sent))
        till.send(makes)
    told = place.system.answers(*(command.command_id for command in makes))
    paid = place.system.types(*(f"pay-{n}" for n in range(len(cards))))
    assert set(paid) == {"card.drawn_down"}
    opened = [
        json.loads(open_sealed([BUREAU.identity], event["data"]["sealed"].encode()))
        for event in told.values()
    ]
    return [secrets[name] for secrets in opened for name in ("token", "pin") if name in secrets]


def _payment(ref_id: str, row: dict[str, str], pin: str, amount: int = 1) -> CreateTransaction:
    return CreateTransaction(
        account_id=ACCOUNT,
        command_id=ref_id,
        ref_id=ref_id,
        token=Secret(row["token"]),
        pin=Secret(pin),
        amount=amount,
        currency=Currency.NOK,
    )


def _use_plainly(place: Place, cards: Sequence[dict[str, str]]) -> None:
    """Let a plain Celery client send secrets in clear, rightly, wrongly and as garbage."""
    place.system.sql(PLANT[place.system.engine.dialect.name])
    holders, known = cards[200:260], ed25519_key("known")
    register(place.system.engine, known)
    with Celery(broker=place.broker.url, set_as_current=False) as celery:
        for n, row in enumerate(holders):
            for what, fields in _askings(row).items():
                asked = {
                    "account_id": ACCOUNT,
                    "command_id": f"{what}-{n}",
                    "ref_id": f"{what}-{n}",
                }
                celery.send_task("transactions.create", queue="cards", kwargs=asked | fields)
                for key in (known, ed25519_key("unknown")) if n < SIGNED else ():
                    mine = asked | fields | {"command_id": f"{what}-{n}-{key.key_id}"}
                    sent = signed(key, "transactions.create", mine)
                    celery.send_task("transactions.create", queue="cards", kwargs=sent)
                    sent["signature"] += "="
                    celery.send_task("transactions.create", queue="cards", kwargs=sent)
            look = {"account_id": ACCOUNT, "token": row["token"], "pin": row["pin"]}
            for kwargs in (look, look | {"pin": WRONG}):
                celery.send_task("cards.get", queue="cards", kwargs=kwargs, ignore_result=False)
            celery.send_task("transactions.create", queue="cards", args=[row["token"], row["pin"]])
            listed: list[dict[str, Any]] = [
                {"command": "transactions.create", **row},
                {"command": "?", **row},
                {"command": row, **look},
            ]
            celery.send_task("commands.apply", queue="cards.bulk", kwargs={"commands": listed})
            sent = signed(known, "commands.apply", {"commands": listed})
            celery.send_task("commands.apply", queue="cards.bulk", kwargs=sent)
        for row in cards[:DEFECTS]:
            right = {"account_id": ACCOUNT, "ref_id": "defect", **_askings(row)["right"]}
            celery.send_task("transactions.create", queue="cards", kwargs=right)
        celery.pool.force_close_all()
    for n, row in enumerate(holders):
        for garbage in _garbage(f"garbage-{n}", row):
            place.system.push(garbage)
    for queue in ("cards", "cards.bulk"):
        place.system.catches_up(queue)
    assert place.system.waiting() == 0
    reasons = {letter.reason for letter in place.system.letters()}
    assert any(reason.startswith("defect") for reason in reasons)
    assert len(reasons) > 5, reasons


def _askings(row: dict[str, str]) -> dict[str, dict[str, Any]]:
    money = {"amount": 1, "currency": "NOK"}
    right = {"token": row["token"], "pin": row["pin"], **money}
    return {
        "right": right,
        "wrong-pin": right | {"pin": WRONG},
        "invalid": right | {"amount": "1"},
        "unknown-field": right | {"colour": "red"},
        "both": right | {"card_id": row["card_id"]},
        "listed": right | {"token": [row["token"]]},
        "nested": right | {"pin": {"value": row["pin"]}},
        "nobody": right | {"account_id": None},
        "misplaced": right | {"card_id": {"token": row["token"], "pin": row["pin"]}},
    }


def _garbage(id: str, row: dict[str, str]) -> Iterator[Any]:
    """Yield messages that nobody can read, with secrets in them."""
    fields = {"account_id": ACCOUNT, "token": row["token"], "pin": row["pin"]}
    task, body = "transactions.create", json.dumps([[], fields, {}]).encode()
    yield envelope("cards.explode", id, fields)
    yield envelope(task, id, fields, headers={"task": fields})
    yield envelope(task, id, fields) | {"content-type": fields}
    yield envelope(task, id, fields, headers={"argsrepr": row["token"], "eta": "x"})
    yield envelope(task, id, fields, headers={"kwargsrepr": repr(fields), "expires": 5})
    yield envelope(task, id, body=body[:-30])
    yield envelope(task, id, body=body.replace(b'"pin"', b'"token"'))
    yield envelope(task, id, body=json.dumps([[], {}, {"chain": [fields]}]).encode())
    yield json.dumps(envelope(task, id, fields))[:-40]
    yield json.dumps({"task": task, "id": id, "args": [row["pin"]], "kwargs": fields})
    yield json.dumps(fields)


# --- where is looked --------------------------------------------------------------------------


def _found(place: Place, folder: Path, secrets: Sequence[str]) -> list[str]:
    haystack = Haystack(folder, secrets)
    haystack.add_rows(place.system.engine)
    if place.system.engine.dialect.name == "postgresql":
        with place.system.engine.connect() as connection:
            connection.exec_driver_sql("CHECKPOINT")
    with Redis.from_url(place.broker.url, decode_responses=True) as redis:
        for number, key in enumerate(redis.scan_iter()):
            haystack.add(f"key-{number}", f"{key} {_content(redis, key)}")
    shown = _flower_s_tasks(place)
    assert "transactions.create" in shown
    haystack.add("flower", shown)
    worker = place.system.parts.all[0]
    haystack.add("metrics", get(worker, "/metrics")[1])
    folders = [place.data, place.broker.folder, place.system.parts.folder]
    return haystack.finds(*folders)


def _content(redis: Redis, key: str) -> Any:
    match redis.type(key):
        case "list":
            return redis.lrange(key, 0, -1)
        case "hash":
            return redis.hgetall(key)
        case "set":
            return redis.smembers(key)
        case "zset":
            return redis.zrange(key, 0, -1, withscores=True)
        case "stream":
            return redis.xrange(key)
    return redis.get(key)


def _flower_s_tasks(place: Place) -> str:
    """Return all that Flower knows of tasks."""
    address = flower_address(place.flower)
    if address is None:
        return ""
    connection = HTTPConnection(address, timeout=30)
    try:
        connection.request("GET", "/api/tasks?limit=100000")
        return connection.getresponse().read().decode()
    except OSError:
        return ""
    finally:
        connection.close()


def _rewrite_log(place: Place) -> None:
    with Redis.from_url(place.broker.url, decode_responses=True) as redis:
        redis.bgrewriteaof()

        def is_written() -> bool:
            about: Any = redis.info("persistence")
            return not about["aof_rewrite_in_progress"] and not about["aof_rewrite_scheduled"]

        until(is_written, "the new log of changes")


def _requeue(place: Place, folder: Path) -> None:
    """Send a letter with secrets once more: who has the identity has them whole."""
    place.system.sql(
        "DROP TRIGGER leak" + (" ON cards" if "sqlite" not in place.system.database_url else "")
    )
    identity = folder / "operator.txt"
    identity.write_text(OPERATOR.identity)
    letter = next(one for one in place.system.letters() if one.reason.startswith("defect"))
    for arguments, code in (([], 1), (["--identity", str(identity)], 0)):
        done = place.system.cli("dead-letters", "requeue", str(letter.id), *arguments)
        assert done.exit_code == code, done.output
    assert letter.message_id is not None
    assert place.system.types(letter.message_id) == ["card.drawn_down"]
