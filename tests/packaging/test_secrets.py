"""What deploy/make-secrets makes fits together: with it, servers and parts find each other."""

import os
import random
import re
import ssl
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import psycopg
import pytest
import yaml
from redis import Redis
from redis.exceptions import AuthenticationError, RedisError
from sqlalchemy import make_url

from card_worker.embedded.launching import PORTS
from card_worker.embedded.valkey import NoServer, find_binary
from card_worker.redis_url import RedisAddress
from card_worker.storage.migrations import upgrade
from tests import servers
from tests.flow.processes import parts, until
from tests.proxy import proxy
from tests.servers import Server

ROOT = Path(__file__).parents[2]
WHOLE = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
TLS = yaml.safe_load((ROOT / "docker-compose.tls.yml").read_text())
PARTS = ("worker", "relay", "beat", "flower", "operator")


def make_secrets(folder: Path) -> Path:
    program = str(Path(sys.executable).with_name("card-worker"))
    environment = {"PATH": os.environ["PATH"], "CARD_WORKER": program}
    command = [str(ROOT / "deploy" / "make-secrets")]
    subprocess.run(command, cwd=folder, env=environment, check=True, capture_output=True)
    return folder / "secrets"


@pytest.fixture(scope="module")
def secrets(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_secrets(tmp_path_factory.mktemp("deployed"))


def contents(folder: Path) -> dict[str, str]:
    files = [path for path in folder.rglob("*") if path.is_file()]
    return {str(path.relative_to(folder)): path.read_text() for path in files}


def test_only_the_owner_of_the_folder_reads_it_and_containers_read_what_they_get(
    secrets: Path,
) -> None:
    assert secrets.stat().st_mode & 0o777 == 0o700
    named = WHOLE["secrets"].keys() | TLS["secrets"].keys()
    assert [name for name in named if not (secrets / name).stat().st_mode & 0o004] == []


def test_a_second_run_keeps_everything_but_what_was_removed(secrets: Path) -> None:
    before = contents(secrets)
    make_secrets(secrets.parent)
    assert contents(secrets) == before
    (secrets / "redis" / "worker").unlink()
    make_secrets(secrets.parent)
    changed = {name for name, content in contents(secrets).items() if before[name] != content}
    assert changed == {"redis/worker", "broker-url-worker", "broker-url-worker-tls", "users.acl"}


@pytest.fixture
def redis_port(secrets: Path, tmp_path: Path) -> Iterator[int]:
    """The port of a Redis with the users and the certificate."""
    # The server that tests have can't do TLS itself.
    port = random.choice(PORTS)
    command = WHOLE["services"]["redis"]["command"]
    words = [word.replace("/run/secrets", str(secrets)) for word in command[1:]]
    options = ("--bind", "127.0.0.1", "--port", str(port), "--dir", str(tmp_path))
    become = "import os, sys; os.execv(sys.argv[1], sys.argv[1:])"
    try:
        binary = find_binary()
    except NoServer as error:
        servers.missing(error, "PATH")
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(secrets / "redis.crt", secrets / "redis.key")
    with parts(tmp_path / "server") as running, proxy(port, tls=context) as tls:
        running.run("-c", become, binary, *words, *options)
        password = (secrets / "redis-health").read_text().strip()
        with Redis("127.0.0.1", port, username="health", password=password) as health:

            def answers() -> bool:
                with suppress(RedisError):
                    return bool(health.ping())
                return False

            until(answers, "the server")
        yield tls.port


def test_each_part_logs_in_over_tls(secrets: Path, redis_port: int) -> None:
    for part in PARTS:
        url = (secrets / f"broker-url-{part}-tls").read_text().strip()
        url = url.replace("@redis:6379", f"@localhost:{redis_port}")
        url = url.replace("/run/secrets", str(secrets))
        with Redis(**RedisAddress.parse(url).redis_options) as client:
            assert client.ping()
        wrong = RedisAddress.parse(re.sub(r":\w{48}@", ":wrong@", url))
        with Redis(**wrong.redis_options) as stranger, pytest.raises(AuthenticationError):
            stranger.ping()


@pytest.mark.parametrize("is_old", [False, True])
def test_the_logins_have_their_roles(
    is_old: bool, secrets: Path, postgres_server: Server, tmp_path: Path
) -> None:
    with servers.database(postgres_server) as url:
        if is_old:  # a database from before there were roles
            upgrade(url)
        address = make_url(url)
        assert address.database is not None
        assert address.username is not None
        programs = servers._programs(tmp_path)
        environment = {
            "PATH": f"{programs}:{os.environ['PATH']}",
            "POSTGRES_DB": address.database,
            "POSTGRES_USER": address.username,
            "PGHOST": str(address.host),
            "PGPORT": str(address.port),
            "PGPASSWORD": str(address.password),
            "SECRETS": str(secrets),
        }
        script = ["sh", str(ROOT / "deploy" / "logins.sh")]
        try:
            for _ in range(2):
                subprocess.run(script, env=environment, check=True)

            def url_of(login: str) -> str:
                password = (secrets / f"postgres-{login}").read_text().strip()
                own = address.set(username=login, password=password)
                return own.render_as_string(hide_password=False)

            assert upgrade(url_of("migrate")).roles_problem is None
            for login, table in {"worker": "cards", "relay": "outbox", "reader": "cards"}.items():
                with psycopg.connect(url_of(login)) as connection:
                    connection.execute(f"TABLE {table}".encode())
                    with pytest.raises(psycopg.errors.InsufficientPrivilege):
                        connection.execute("DELETE FROM outbox")
        finally:
            with psycopg.connect(url, autocommit=True) as connection:
                for login in ("migrate", "worker", "relay", "operator", "reader"):
                    connection.execute(f"DROP ROLE IF EXISTS {login}".encode())
                connection.execute(
                    f"ALTER DATABASE {address.database} OWNER TO CURRENT_USER".encode()
                )
