"""Every form of a Redis URL works in every process, and none shows the password."""

import asyncio
import json
import os
import re
import socket
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, nullcontext, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import quote
from urllib.request import urlopen

import pytest
from celery import Celery
from flower.utils.broker import Broker
from kombu.connection import Connection
from kombu.exceptions import KombuError
from redis import Redis
from redis.exceptions import RedisError
from typer.testing import CliRunner

from card_worker.cli import app
from card_worker.client import Client
from card_worker.contracts.cards import CreateCard
from card_worker.embedded.valkey import NoServer, find_binary, valkey
from card_worker.handler import handle
from card_worker.money import Currency
from card_worker.redis_url import RedisAddress
from card_worker.storage.engine import begin, open_engine
from card_worker.transport import TRANSPORT
from card_worker.worker.connections import AMQP
from tests import servers
from tests.certificates import make_certificates
from tests.flow.processes import PARTS, WAIT_S, Parts, flower_address, parts, until
from tests.flow.system import ACCOUNT, card
from tests.proxy import proxy

USER = "till#1/?@:%+æ"
PASSWORD = "Zq7x#Kw9v/Jf3m?Xb8n@Ty2g:Lc5d%Hs4r+Pw6k&Vd1t;Rn0b=Gæ"
PIECES = re.findall(r"\w{4,}", PASSWORD)
LOGIN = f"{quote(USER, safe='')}:{quote(PASSWORD, safe='')}@"
WORD = f":{quote(PASSWORD, safe='')}@"

FORMS = {
    "redis://{word}127.0.0.1:{port}/3": 3,
    "redis://{login}localhost:{port}?db=3": 3,
    "redis://{word}[::1]:{port}": 0,
    "unix://{login}{socket}?db=3": 3,
    "redis+socket://{word}{socket}?virtual_host=3": 3,
    "unix://{word}{socket}": 0,
    "rediss://{word}localhost:{tls}/3?ssl_ca_certs={ca}": 3,
    "rediss://{login}localhost:{mutual_tls}?db=3&ssl_cert_reqs=CERT_REQUIRED&ssl_ca_certs={ca}"
    "&ssl_certfile={client}&ssl_keyfile={client}": 3,
    "rediss://{word}127.0.0.1:{tls}/3?ssl_cert_reqs=optional&ssl_ca_certs={ca}"
    "&ssl_check_hostname=false": 3,
    "rediss://{word}127.0.0.1:{tls}/3?ssl_cert_reqs=CERT_NONE": 3,
}
"""The forms, and the database that each names."""
KINDS = ("redis://{login}localhost", "redis://{word}[::1]", "unix://", "rediss://{login}localhost")
# `make test-model` takes all of them.
SEND = ("-m", "card_worker.cli", "send", "cards.create", "account_id=T00000001")
IN_EVERY_PART = [form for form in FORMS if "ALL_FORMS" in os.environ or form.startswith(KINDS)]
"""One of each kind: every part takes two seconds of a core to start."""


@dataclass(frozen=True)
class Places:
    """What a form is filled in with, and how the test itself gets at the two servers."""

    named: dict[str, object]
    tcp: dict[str, Any]
    socket: dict[str, Any]

    def url(self, form: str) -> str:
        return form.format(**self.named, login=LOGIN, word=WORD)

    def server(self, form: str, **options: Any) -> Redis:
        """Return a client of the server that a form leads to."""
        place = self.socket if "{socket}" in form else self.tcp
        return Redis(**place, **options, decode_responses=True)


@pytest.fixture(scope="session")
def places(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Places]:
    """Two servers that ask for a password: one on TCP with TLS before it, one on a socket only."""
    with ExitStack() as running:
        # Longer paths, such as those of pytest's folders, may be too long for a socket.
        folder = Path(running.enter_context(tempfile.TemporaryDirectory(prefix="card_worker-")))
        try:
            port = running.enter_context(valkey(folder / "tcp")).port
            binary = find_binary()
        except NoServer as error:
            servers.missing(error, "PATH")
        path = folder / "Valkey's; 1.sock"
        become = "import os, sys; os.execv(sys.argv[1], sys.argv[1:])"
        running.enter_context(parts(folder / "parts")).run(
            *("-c", become, binary, "--port", "0", "--unixsocket", str(path), "--save", "")
        )
        tcp, socket = {"port": port}, {"unix_socket_path": str(path)}
        for place in (tcp, socket):
            with Redis(**place) as client:
                until(partial(_answers, client), "the server")
                _ask_for_password(client)
        certificates = make_certificates(folder)
        tls, mutual_tls = (
            running.enter_context(proxy(port, tls=certificates.server_context(needs_client=needs)))
            for needs in (False, True)
        )
        named = {
            "port": port,
            "socket": quote(str(path)),
            "tls": tls.port,
            "mutual_tls": mutual_tls.port,
            "ca": quote(str(certificates.ca)),
            "client": quote(str(certificates.client)),
        }
        yield Places(named, {**tcp, "password": PASSWORD}, {**socket, "password": PASSWORD})


def _answers(client: Redis) -> bool:
    with suppress(RedisError):
        return bool(client.ping())
    return False


def _ask_for_password(client: Redis) -> None:
    """Let nobody in without the password, as USER or as the default user."""
    client.config_set("bind", "127.0.0.1 -::1")
    client.acl_setuser(
        USER,
        enabled=True,
        passwords=[f"+{PASSWORD}"],
        keys=["*"],
        channels=["*"],
        commands=["+@all"],
    )
    client.config_set("requirepass", PASSWORD)


@pytest.mark.parametrize("form", IN_EVERY_PART)
def test_each_form_of_url_works_in_each_process(
    form: str, places: Places, tmp_path: Path, sqlite_url: str
) -> None:
    _skip_without_ipv6(form)
    url = places.url(form)
    with places.server(form) as server:
        server.flushall()
    settings = {"DATABASE_URL": sqlite_url, "BROKER_URL": url, "RESULT_BACKEND_URL": url}
    with parts(tmp_path / "parts", **settings, SWEEP_INTERVAL_S="0.5") as running:
        # With its events from the start, Flower needn't ask for them, which it does every 5 s.
        running.start("worker", "--task-events")
        running.start("relay")
        running.start("beat")
        flower = Flower(running)
        asked = [f"{name}={value}" for name, value in card("by-cli").items()]
        sent = _cli(running, "send", "cards.create", *asked, "--wait", "--timeout=60", "--json")
        assert json.loads(sent)["type"] == "card.created"
        with Client(url) as client:
            assert _answer(client, "by-client") == "card.created"
            told = _cli(running, "events", "tail", "--from-start", "--count=2", "--json")
            events = [json.loads(line) for line in told.splitlines()]
            assert [event["subject"] for event in events] == ["by-cli", "by-client"]
            workers = flower.shows("/api/workers?refresh=1", has_swept)
            assert _answer(client, "for-flower") == "card.created"
            tasks = flower.shows("/api/tasks?taskname=cards.create", _has_succeeded)
        for part in running.all:
            part.ask_to_stop()
        assert [part.ended() for part in running.all] == [0, 0, 0, 0]
        assert_hidden(sent, told, workers, tasks, *(part.said for part in running.all))
    with places.server(form, db=FORMS[form]) as server:
        assert server.exists("card-events", "celery-task-meta-for-flower") == 2
        assert server.info("keyspace").keys() == {f"db{FORMS[form]}"}


UNREACHABLE = {
    "redis://{login}127.0.0.1:1/3": "Connection refused",
    "unix://{login}/nowhere/redis.sock": "No such file or directory",
    "rediss://{login}localhost:{tls}": "certificate verify failed",
}
"""Forms that lead nowhere, and what the connection fails with."""


@pytest.mark.parametrize("form", UNREACHABLE)
def test_no_log_of_a_failed_connection_shows_the_password(
    form: str, places: Places, tmp_path: Path, sqlite_url: str
) -> None:
    url, why = places.url(form), UNREACHABLE[form]
    _make_event(sqlite_url)
    settings = {"DATABASE_URL": sqlite_url, "BROKER_URL": url, "SWEEP_INTERVAL_S": "0.5"}
    with parts(tmp_path / "parts", **settings) as running:
        relay, worker, beat = (running.start(part) for part in ("relay", "worker", "beat"))
        flower = Flower(running).part
        send = running.fork(*SEND, name="send")
        assert send.ended() == 1
        assert re.fullmatch(f"card-worker: Redis: .*{why}.*\n", send.said)
        for part in (worker, beat, flower):
            part.says(why)
        relay.says("database or sink unavailable, retrying")
        assert_hidden(*(part.said for part in running.all))


VERIFIED = {
    "rediss://{login}localhost:{tls}?ssl_ca_certs={ca}": None,
    "rediss://{login}localhost:{tls}": "certificate verify failed",
    "rediss://{login}localhost:{tls}?ssl_cert_reqs=optional": "certificate verify failed",
    "rediss://{login}127.0.0.1:{tls}?ssl_cert_reqs=none": None,
    "rediss://{login}127.0.0.1:{tls}?ssl_ca_certs={ca}&ssl_check_hostname=false": None,
    "rediss://{login}127.0.0.1:{tls}?ssl_ca_certs={ca}": "certificate verify failed",
    # The server hangs up on a client without a certificate.
    "rediss://{login}localhost:{mutual_tls}?ssl_ca_certs={ca}": "closed|reset|required",
}
"""Forms of TLS, and what the connection fails with. A form that is refused comes after one for the
same server that is accepted: it must not get the connection of that one."""


@pytest.mark.parametrize("form", [*FORMS, *VERIFIED])
def test_a_client_connects_and_verifies_the_server_unless_the_url_says_otherwise(
    form: str, places: Places
) -> None:
    _skip_without_ipv6(form)
    url, why = places.url(form), VERIFIED.get(form)
    address = RedisAddress.parse(url)
    with Celery(backend=address.backend_url, set_as_current=False) as app, Client(url) as client:
        app.conf.update(
            redis_username=address.user,
            redis_password=address.password,
            redis_backend_use_ssl=address.tls_options,
        )
        results = app.backend.client
        for connect in (partial(client.publish, "cards.create", {}), client.newest, results.ping):
            expected = pytest.raises((KombuError, RedisError), match=why) if why else nullcontext()
            with expected:
                connect()
        results.close()


@pytest.mark.parametrize("form", FORMS)
def test_flower_counts_what_waits_with_every_priority(form: str, places: Places) -> None:
    _skip_without_ipv6(form)
    address = RedisAddress.parse(places.url(form))
    with (
        Celery(amqp=f"{AMQP.__module__}:AMQP", set_as_current=False) as app,
        places.server(form, db=FORMS[form]) as server,
    ):
        app.conf.update(
            broker_url=address.broker_url,
            broker_user=address.user,
            broker_password=address.password,
            broker_use_ssl=address.tls_options,
            broker_transport=TRANSPORT,
        )
        server.flushdb()
        with app.connection() as connection:
            send = partial(app.send_task, "cards.create", connection=connection)
            for priority in (None, 0, 3, 6, 9, 9):
                send(queue="cards", priority=priority)
            send(queue="cards.bulk", priority=5)
            shown = connection.as_uri()
            uri = connection.as_uri(include_password=True)
        # Flower can't name a user or a database on a socket, and refuses this URL.
        is_other = address.path is not None and (address.user, address.db) != (None, 0)
        kinds = "card-worker.socket" if is_other else "rediss" if address.tls_options else "redis.*"
        assert re.match(f"{kinds}://", shown)
        assert_hidden(shown)
        with pytest.raises(NotImplementedError) if is_other else nullcontext():
            options = {"socket_connect_timeout": WAIT_S, "socket_timeout": WAIT_S}
            broker = Broker(uri, broker_options=options, broker_use_ssl=app.conf.broker_use_ssl)
            counted = asyncio.run(broker.queues(["cards", "cards.bulk"]))
            assert [(queue["name"], queue["messages"]) for queue in counted] == [
                ("cards", 6),
                ("cards.bulk", 1),
            ]


def test_another_app_may_put_the_login_of_a_socket_into_the_url(places: Places) -> None:
    url = places.url("card-worker+socket://{login}{socket}?virtual_host=3")
    with Connection(url, transport=TRANSPORT) as connection:
        assert connection.default_channel.client.ping()
        assert_hidden(connection.as_uri())


def _make_event(database_url: str) -> None:
    """Leave an event that no relay has published."""
    engine = open_engine(database_url)
    with begin(engine) as (connection, now):
        handle(connection, [_create_card("unpublished")], now)
    engine.dispose()


@pytest.mark.parametrize(
    ("setting", "url"),
    [
        ("BROKER_URL", "redis://:Zq7x#Kw9v@127.0.0.1:6379/0"),
        ("EVENTS_URL", "rediss://:Zq7x/Kw9v@127.0.0.1:6379/0"),
        ("RESULT_BACKEND_URL", "unix://:Zq7x@Kw9v@/run/redis.sock"),
    ],
)
def test_a_refused_url_ends_each_process_with_one_line(
    setting: str, url: str, tmp_path: Path, sqlite_url: str
) -> None:
    with pytest.raises(ValueError, match=r"^[^\n]+$") as refused:
        RedisAddress.parse(url)
    settings = {"DATABASE_URL": sqlite_url, "BROKER_URL": "redis://", setting: url}
    with parts(tmp_path / "parts", **settings) as running:
        for name in PARTS:
            running.start(name)
        running.fork(*SEND, name="send")
        # Celery's own program has one code for all.
        codes = [2 if "card_worker.cli" in PARTS[name] else 1 for name in PARTS]
        for part, code in zip(running.all, [*codes, 2], strict=True):
            assert part.ended() == code, part.said
            assert part.said.splitlines()[-1].endswith(f": CARD_WORKER_{setting}: {refused.value}")
            assert "Traceback" not in part.said
        assert_hidden(*(part.said for part in running.all))


class Flower:
    """A running Flower, and what its API shows."""

    def __init__(self, running: Parts) -> None:
        self.part = running.start("flower", "--port=0")

    def shows(self, path: str, is_so: Callable[[dict[str, Any]], bool]) -> str:
        """Return what it shows at `path` once that is so."""
        shown = ""

        def shows() -> bool:
            nonlocal shown
            assert self.part.runs, self.part.tail
            shown = self._get(path)
            return bool(shown) and is_so(json.loads(shown))

        until(shows, f"{path} of Flower")
        return shown

    def _get(self, path: str) -> str:
        address = flower_address(self.part)
        with suppress(OSError):
            if address:
                with urlopen(f"http://{address}{path}", timeout=WAIT_S) as response:
                    return str(response.read().decode())
        return ""


def has_swept(workers: dict[str, Any]) -> bool:
    """Say whether the only worker has done what only beat asks for."""
    counted = [worker.get("stats", {}).get("total", {}) for worker in workers.values()]
    return len(counted) == 1 and "sweeps.expire_cards" in counted[0]


def _has_succeeded(tasks: dict[str, Any]) -> bool:
    return any(task["state"] == "SUCCESS" for task in tasks.values())


def _answer(client: Client, card_id: str) -> str:
    """Ask for a card; return the type of the answer."""
    after = client.newest()
    client.send(_create_card(card_id))
    answers = client.answers([card_id], account_id=ACCOUNT, after=after, timeout_s=WAIT_S)
    return str(answers[card_id]["type"])


def _create_card(card_id: str) -> CreateCard:
    return CreateCard(
        account_id=ACCOUNT, command_id=card_id, card_id=card_id, amount=500, currency=Currency.NOK
    )


def _cli(running: Parts, *arguments: str) -> str:
    """Return what `card-worker` prints with the settings of the parts."""
    done = CliRunner().invoke(app, arguments, env=running.settings)
    assert done.exit_code == 0, done.output
    return done.stdout


def _skip_without_ipv6(form: str) -> None:
    if "[::1]" in form and not _has_ipv6():
        pytest.skip("this machine has no ::1")


def _has_ipv6() -> bool:
    with suppress(OSError), socket.socket(socket.AF_INET6) as server:
        server.bind(("::1", 0))
        return True
    return False


def assert_hidden(*texts: str) -> None:
    """No text shows the password or a part of it."""
    for text in texts:
        assert [piece for piece in PIECES if piece in text] == []
