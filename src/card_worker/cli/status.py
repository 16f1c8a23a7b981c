"""`card-worker status`: the state of the whole system on one screen."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from importlib.metadata import version
from time import monotonic, sleep
from typing import Any

from redis import Redis
from redis.exceptions import RedisError
from sqlalchemy import Engine
from sqlalchemy.exc import SQLAlchemyError
from typer import Exit, Typer

from card_worker.cli.connections import database
from card_worker.cli.console import AsJson, err, first_line, out, plural, print_json, table
from card_worker.cli.processes import IDLE_S_MAX
from card_worker.contracts.commands import QUEUES
from card_worker.health import living
from card_worker.settings import load_settings
from card_worker.sinks import connect
from card_worker.storage import leases, schema
from card_worker.storage.engine import reading
from card_worker.storage.state import read_database
from card_worker.transport.state import (
    Unmoved,
    read_broker,
    read_heartbeats,
    read_memory,
    read_stream,
    read_version,
)

app = Typer()

LOOK_S = 5.0
"""Seconds within which a working relay renews its lease, and a working worker sends a heartbeat."""
POLL_S = 0.25
STATEMENT_S_MAX = 5.0
MEBIBYTE = 1024 * 1024
QUEUE_NAMES = sorted(set(QUEUES.values()))

View = dict[str, Any]


@app.command()
def status(as_json: AsJson = False) -> None:
    """Show queues, workers, relay, beat, outbox, dead letters, orders and the event stream.

    It takes up to 5 s to see which processes work. Exit 1 if a server is away: the rest is shown.
    """
    settings = load_settings()
    with (
        database() as engine,
        connect(settings.broker()) as broker,
        connect(settings.events()) as events,
    ):
        view: View = {
            "version": version("card-worker"),
            "database": _or_error(lambda: _database(engine)),
            "broker": _or_error(lambda: _broker(broker)),
            "stream": _or_error(lambda: _stream(events, settings.event_stream)),
        }
        _add_processes(view, engine, broker)
    view["beat"] = _beat()
    if as_json:
        print_json(view)
    else:
        out.print(table(f"card_worker {view['version']}", "", "", rows=_rows(view)))
    away = [name for name in ("database", "broker", "stream") if "error" in view[name]]
    for name in away:
        err.print(f"card-worker: {name}: {view[name]['error']}")
    if away:
        raise Exit(1)


def _or_error(read: Callable[[], View]) -> View:
    """Return what `read` returns, or the error of a server that is away or refuses it."""
    try:
        return read()
    except (SQLAlchemyError, RedisError, OSError) as error:
        return {"error": first_line(error)}


def _database(engine: Engine) -> View:
    with reading(engine) as connection:
        found = schema.revision(connection)
        number = ".".join(map(str, connection.dialect.server_version_info or ()))
    view = {"kind": engine.dialect.name, "version": number, "schema": found}
    view["schema_needed"] = schema.newest()
    if found != view["schema_needed"]:
        return view
    state = read_database(engine, statement_s_max=STATEMENT_S_MAX)._asdict()
    relay, letters = state.pop("relay"), state.pop("dead_letters")
    state["dead_letters"] = {str(reason): count for reason, count in letters.items()}
    return {**view, **state, "relay": None if relay is None else relay.holder}


def _broker(redis: Redis) -> View:
    state = read_broker(redis, QUEUE_NAMES)
    return {
        "version": read_version(redis),
        "memory": read_memory(redis)._asdict(),
        "waiting": dict(state.waiting),
        "in_flight": state.in_flight,
        "workers": state.consumers,
    }


def _stream(redis: Redis, stream: str) -> View:
    return {"name": stream, **read_stream(redis, stream)._asdict()}


def _add_processes(view: View, engine: Engine, redis: Redis) -> None:
    """Add which processes of all machines work, and for how long the queues have not moved."""
    has_database, has_broker = "relay" in view["database"], "workers" in view["broker"]
    unmoved = Unmoved()

    def read() -> dict[str, object]:
        signs: dict[str, object] = {}
        with suppress(SQLAlchemyError, RedisError):
            if has_database:
                with reading(engine) as connection:
                    signs["relay"] = leases.find(connection, leases.RELAY)
            if has_broker:
                signs |= read_heartbeats(redis)
        with suppress(RedisError):  # such as of a user who may not read queues
            if has_broker:
                seconds = unmoved.observe(redis, QUEUE_NAMES, monotonic())
                view["broker"]["unmoved_s"] = {name: round(s, 1) for name, s in seconds.items()}
        return {name: sign for name, sign in signs.items() if sign is not None}

    working = _changing(read, within_s=LOOK_S)
    if has_database:
        view["database"]["relay_works"] = "relay" in working
    if has_broker:
        view["broker"]["workers_working"] = len(working - {"relay"})


def _changing(read: Callable[[], Mapping[str, object]], *, within_s: float) -> set[str]:
    """Return the names whose values change in time; return early if all have changed."""
    first, until, changed = read(), monotonic() + within_s, set[str]()
    while True:
        now = read()
        changed |= {name for name, value in now.items() if first.get(name) != value}
        if changed >= now.keys() or monotonic() >= until:
            return changed
        sleep(POLL_S)


def _beat() -> View:
    """Return the state of the beat of this machine."""
    late_s = [
        monotonic() - record["sent_at"] - record["interval_s"]
        for record in living("beat")
        if "sent_at" in record
    ]
    return {"on_this_machine": len(late_s), "late_s": max([0.0, *late_s])}


def _rows(view: View) -> Iterator[tuple[str, str]]:
    """Yield the lines of the screen; of a server that is away only that."""
    base, broker, stream = view["database"], view["broker"], view["stream"]
    yield "database", base.get("error") or _about_database(base)
    if "relay" in base:
        yield "outbox", _about_outbox(base)
        yield "relay", _about_relay(base)
        letters = base["dead_letters"]
        reasons = [f"{count:,} {reason}" for reason, count in letters.items()]
        yield "dead letters", "none" if not letters else ", ".join(reasons)
        yield "orders", _about_orders(base)
        due = f"{plural(base['cards_due'], 'card')} and {plural(base['holds_due'], 'hold')}"
        yield "due for a sweep", due
    yield "broker", broker.get("error") or _about_broker(broker)
    if "waiting" in broker:
        for queue, count in broker["waiting"].items():
            yield f"queue {queue}", _about_queue(count, broker.get("unmoved_s", {}).get(queue))
        yield "in flight", plural(broker["in_flight"], "message")
        silent = broker["workers"] - broker["workers_working"]
        more = f", {silent:,} silent for {LOOK_S:.0f} s" if silent > 0 else ""
        yield "workers", f"{broker['workers_working']:,} working{more}"
    yield "beat", _about_beat(view["beat"])
    size = "" if "error" in stream else f"{stream['entries']:,} entries, {_mib(stream['bytes'])}"
    yield "stream", stream.get("error") or f"{stream['name']}: {size}"


def _about_database(base: View) -> str:
    kind = {"postgresql": "PostgreSQL", "sqlite": "SQLite"}[base["kind"]]
    if base["schema"] == base["schema_needed"]:
        return f"{kind} {base['version']}, schema {base['schema']}"
    found = base["schema"] or "empty"
    return f"{kind}, schema {found}, but {base['schema_needed']} is needed: card-worker migrate"


def _about_outbox(base: View) -> str:
    # The relay may have published between the two statements that have read these.
    if not base["unpublished"] or base["oldest_unpublished"] is None:
        return "all events are published"
    waiting_s = (base["at"] - base["oldest_unpublished"]).total_seconds()
    return f"{plural(base['unpublished'], 'event')} to publish, the oldest for {waiting_s:,.1f} s"


def _about_relay(base: View) -> str:
    if base["relay"] is None:
        return "none"
    return f"{base['relay']}, {'working' if base['relay_works'] else f'silent for {LOOK_S:.0f} s'}"


def _about_orders(base: View) -> str:
    trouble = f", {base['jobs_in_trouble']:,} of them in trouble" if base["jobs_in_trouble"] else ""
    files = plural(base["files_unwritten"], "file")
    return f"{base['jobs_running']:,} running{trouble}; {files} to write"


def _about_broker(broker: View) -> str:
    memory = broker["memory"]
    limit = f"of {_mib(memory['max'])}" if memory["max"] else "without limit"
    return f"{broker['version']}, memory {_mib(memory['used'])} {limit}"


def _about_queue(count: int, unmoved_s: float | None) -> str:
    text = plural(count, "message")
    return f"{text}, the next one unmoved for {unmoved_s:.1f} s" if count and unmoved_s else text


def _about_beat(beat: View) -> str:
    if not beat["on_this_machine"]:
        return "none on this machine"
    return "on time" if beat["late_s"] <= IDLE_S_MAX else f"{beat['late_s']:.0f} s late"


def _mib(count: int) -> str:
    return f"{count / MEBIBYTE:,.1f} MiB"
