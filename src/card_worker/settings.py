"""Settings: environment variables with the prefix `CARD_WORKER_`, validated once at the start."""

import os
import re
from collections.abc import Callable
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple, TypeVar

from psycopg import ProgrammingError
from psycopg.conninfo import make_conninfo
from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    PlainValidator,
    ValidationError,
    model_validator,
)
from pydantic_core import ErrorDetails
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict
from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError

from card_worker.file_store import read_files_url
from card_worker.redis_url import RedisAddress
from card_worker.secrets.peppers import Peppers
from card_worker.secrets.sealing import read_identities, read_recipients
from card_worker.secrets.signing import Signatures
from card_worker.secrets.vault import Vault
from card_worker.wording import did_you_mean, in_words

Value = TypeVar("Value")

PREFIX = "CARD_WORKER_"
PEPPERS = ("TOKEN_PEPPERS", "PIN_PEPPERS", "PRODUCER_PEPPERS")
SECRET_KEYS = (*PEPPERS, "COMMAND_IDENTITIES")
URLS = ("DATABASE_URL", "BROKER_URL", "EVENTS_URL", "RESULT_BACKEND_URL")
FROM_FILES = (*SECRET_KEYS, *URLS)
"""Settings that can be read from a file, which the variable with `_FILE` appended names."""

DATABASES = ("postgresql://", "postgresql+psycopg://", "sqlite:///", "sqlite+pysqlite:///")
"""The supported beginnings of a database URL."""

KEEP_S_MAX = 100 * 366 * 86_400


class LogFormat(StrEnum):
    """The format of log lines: readable text, or JSON for a log collector."""

    CONSOLE = "console"
    JSON = "json"


class WrongSetting(Exception):
    """Missing or invalid settings; the text is one line and repeats no value."""


# A ValueError of a validator must not repeat the value: a URL may hold a password.


def _database_url(url: str) -> str:
    if not url.startswith(DATABASES):
        raise ValueError(f"must begin with {' or '.join(DATABASES)}")
    if "%00" in url:
        raise ValueError("has the character NUL (%00)")
    try:
        parsed = make_url(url)
    except (ArgumentError, ValueError):
        raise ValueError("is not a database URL, or the port is not a number") from None
    if parsed.get_backend_name() == "sqlite":
        name = (parsed.database or "").strip()
        if parsed.query:
            raise ValueError("must have no options")
        if not name or name.startswith((":memory:", "file:")):
            raise ValueError("must name a file, sqlite:///file; a database in memory would be lost")
        return url
    if parsed.port is not None and not 1 <= parsed.port <= 65535:
        raise ValueError("the port must be a number from 1 to 65535")
    try:
        _, options = parsed.get_dialect()().create_connect_args(parsed)
        make_conninfo("", **options)
    except (ArgumentError, ProgrammingError):
        raise ValueError("has an option that libpq doesn't know, or an invalid one") from None
    return url


def _comma_separated(check: Callable[[list[str]], object]) -> BeforeValidator:
    def validate(text: str) -> list[str]:
        items = [item.strip() for item in text.split(",")]
        check(items)
        return items

    return BeforeValidator(validate)


# NoDecode: otherwise pydantic-settings reads the variable as JSON.
class Ports(NamedTuple):
    """A range of ports."""

    first: int
    last: int

    @property
    def all(self) -> range:
        return range(self.first, self.last + 1)

    @classmethod
    def parse(cls, text: str) -> "Ports":
        """Read `9400` or `9400-9419`. Raises ValueError."""
        if not (found := _PORTS.fullmatch(text.strip())):
            raise ValueError("must be a port such as 9400, or a range such as 9400-9419")
        first = int(found["first"])
        last = int(found["last"] or first)
        if not 1 <= first <= last <= 65535:
            raise ValueError("the ports must be rising numbers from 1 to 65535")
        return cls(first, last)


_PORTS = re.compile(r"(?P<first>[0-9]{1,5})(-(?P<last>[0-9]{1,5}))?")

RedisUrl = Annotated[RedisAddress, NoDecode, PlainValidator(RedisAddress.parse)]
PortsText = Annotated[Annotated[Ports, PlainValidator(Ports.parse)] | None, NoDecode]
PeppersText = Annotated[Peppers, PlainValidator(Peppers.read)]
Recipients = Annotated[tuple[str, ...], NoDecode, _comma_separated(read_recipients)]
Identities = Annotated[tuple[str, ...], NoDecode, _comma_separated(read_identities)]

KeepS = Annotated[int | None, Field(ge=1, le=KEEP_S_MAX)]


class Settings(BaseSettings):
    """All settings. A name ends with the unit of its value."""

    model_config = SettingsConfigDict(env_prefix=PREFIX, frozen=True, extra="ignore")

    database_url: Annotated[str, AfterValidator(_database_url)] | None = Field(
        None,
        description="URL of the database: `postgresql://user:password@host/name` or"
        " `sqlite:///file`. This and the other URLs of servers can be in a file, which the name"
        " with `_FILE` appended names.",
    )
    broker_url: RedisUrl | None = Field(
        None,
        description="URL of the Redis with the queues: `redis://user:password@host:6379/0`,"
        " `rediss://` for TLS, `unix:///path?db=0` or `redis+socket:///path?db=0`. User and"
        " password are percent-encoded.",
    )
    events_url: RedisUrl | None = Field(
        None, description="URL of the Redis with the event stream. Default: the broker."
    )
    event_stream: str = Field(
        "card-events", min_length=1, description="Name of the Redis Stream of events."
    )
    event_stream_max: int = Field(
        1_000_000,
        ge=1,
        le=2**53,
        description="Maximum of entries in the stream; the relay removes older ones. The stream may"
        " have some hundred more.",
    )
    event_stream_keep_s: int = Field(
        7 * 86_400,
        ge=1,
        le=KEEP_S_MAX,
        description="Seconds for which an entry stays in the stream, unless there are more than"
        " EVENT_STREAM_MAX.",
    )
    event_sinks: Literal["redis"] = Field(
        "redis", description="Where events are published: `redis`, the stream."
    )
    result_backend_url: RedisUrl | None = Field(
        None,
        description="URL of the Redis with Celery's results. Default: results of queries are in"
        " the broker, and commands have none.",
    )
    files_url: Annotated[str, AfterValidator(read_files_url)] = Field(
        "card-worker-files",
        validate_default=True,
        description="Folder or fsspec URL of the store for the files of batches.",
    )
    token_peppers: PeppersText | None = Field(
        None,
        repr=False,
        description="Peppers (secret keys) for the hashes of tokens: `name:base64`, separated by"
        " commas, the newest first. Default: no tokens. With `_FILE` appended to the name: a file"
        " with the peppers.",
    )
    pin_peppers: PeppersText | None = Field(
        None,
        repr=False,
        description="Peppers for the hashes of PINs, in the same two forms. They must differ from"
        " those for tokens. Default: no PINs.",
    )
    producer_peppers: PeppersText | None = Field(
        None,
        repr=False,
        description="Peppers for the secrets of producers' HMAC keys, in the same two forms."
        " Default: only Ed25519 keys verify.",
    )
    signatures: Signatures = Field(
        Signatures.ACCEPTED,
        description="`required`: all accounts accept signed commands only. `accepted`: each account"
        " has a rule of its own.",
    )
    unauthenticated_max: int = Field(
        100_000,
        ge=0,
        description="Messages of unknown senders that are stored as dead letters per UTC day; more"
        " are logged and counted.",
    )
    command_identities: Identities | None = Field(
        None,
        repr=False,
        description="age identities that decrypt the tokens and PINs in commands, separated by"
        " commas. With `_FILE` appended to the name: a file with the identities.",
    )
    letter_recipients: Recipients | None = Field(
        None,
        description="age recipients that can decrypt the tokens and PINs in dead letters,"
        " separated by commas. Default: they are masked and cannot be recovered.",
    )
    group_max: int = Field(
        500, ge=1, le=1000, description="Maximum of messages that a worker handles in one commit."
    )
    group_wait_ms: int = Field(
        0,
        ge=0,
        le=1000,
        description="Milliseconds to wait for more messages before a group is handled.",
    )
    also_consume: Literal["celery"] | None = Field(
        None,
        description="`celery`: workers of the queue `cards` also consume Celery's default queue,"
        " where commands without a queue arrive. Only if no other application uses that queue.",
    )
    sweep_interval_s: float = Field(
        10.0, gt=0, le=86_400, description="Seconds between two sweeps of the same kind."
    )
    metrics_port: PortsText = Field(
        None,
        description="Port on which worker, relay and `reconcile --every` serve `/metrics` for"
        " Prometheus, `/healthz` and `/readyz`; or a range such as `9400-9419`, of which each"
        " process takes the first free port. Default: none.",
    )
    metrics_host: str = Field(
        "127.0.0.1",
        min_length=1,
        description="Address on which these are served; `0.0.0.0` is all of IPv4. There is no"
        " password.",
    )
    stalled_s: float = Field(
        60.0,
        ge=5,
        le=3600,
        description="Seconds after which `/healthz` fails if nothing was done or retried. No"
        " statement of a commit takes longer than 20.",
    )
    traces: bool = Field(
        False,
        description="Export a span of OpenTelemetry for each group of messages, as the variables"
        " `OTEL_…` say. Needs the extra `otel`.",
    )
    keep_events_s: KeepS = Field(
        None,
        description="Seconds after which the content of a published event is deleted from the"
        " database. A command that is sent again after that is answered with `command.repeated`,"
        " without the first answer. Default: it is kept.",
    )
    keep_pin_attempts_s: KeepS = Field(
        None,
        description="Seconds after which PIN attempts that no longer count are deleted. Default:"
        " they are kept.",
    )
    keep_dead_letters_s: KeepS = Field(
        None,
        description="Seconds after which dead letters that were requeued or dropped are deleted."
        " Default: they are kept.",
    )
    keep_jobs_s: KeepS = Field(
        None,
        description="Seconds after which finished jobs of orders and recalls are deleted. Default:"
        " they are kept.",
    )
    log_format: LogFormat = Field(
        LogFormat.CONSOLE, description="Format of log lines: `console` or `json`."
    )

    @model_validator(mode="after")
    def _peppers_differ(self) -> "Settings":
        taken: dict[bytes, str] = {}
        for name in PEPPERS:
            peppers: Peppers | None = getattr(self, name.lower())
            for key in peppers.keys if peppers else ():
                if key in taken:
                    raise ValueError(f"{PREFIX}{name}: has a key that {taken[key]} has")
                taken[key] = name
        return self

    @property
    def kept_s(self) -> dict[str, int]:
        """Return for how many seconds rows are kept, by kind, of which there is a limit."""
        names = ("events", "pin_attempts", "dead_letters", "jobs")
        found = {name: getattr(self, f"keep_{name}_s") for name in names}
        return {name: seconds for name, seconds in found.items() if seconds is not None}

    def vault(self) -> Vault:
        """Return the vault with the peppers and identities that are set."""
        return Vault(self.token_peppers, self.pin_peppers, self.command_identities or ())

    # No setting is required by all processes: a producer needs no database, a migration no broker.

    def database(self) -> str:
        """Return the database URL. Raises WrongSetting if it is missing."""
        return _required("DATABASE_URL", self.database_url)

    def broker(self) -> RedisAddress:
        """Return the broker's address. Raises WrongSetting if it is missing."""
        return _required("BROKER_URL", self.broker_url)

    def events(self) -> RedisAddress:
        """Return the address of the event stream. Raises WrongSetting if it is missing."""
        return self.events_url or self.broker()


def _required(name: str, value: Value | None) -> Value:
    if value is None:
        raise WrongSetting(f"{PREFIX}{name}: missing")
    return value


def load_settings() -> Settings:
    """Read the environment.

    Raises WrongSetting: one line that names every wrong setting and repeats no value.
    """
    for name, value in os.environ.items():
        # os.environ decodes bytes that are not UTF-8 as surrogates.
        if name.startswith(PREFIX) and re.search("[\ud800-\udfff]", value):
            raise WrongSetting(f"{name}: is not UTF-8")
    try:
        return Settings(**_from_files())
    except ValidationError as error:
        problems = error.errors(include_input=False, include_url=False)
        raise WrongSetting("; ".join(map(_line, problems))) from None


def unknown_variables() -> list[str]:
    """Return each variable of the environment that has our prefix and is no setting, in a sentence.

    It names the closest setting. It may be no mistake: Kubernetes sets variables for a service that
    is called `card-worker`.
    """
    known = [*map(str.upper, Settings.model_fields), *(f"{name}_FILE" for name in FROM_FILES)]
    names = sorted(name.removeprefix(PREFIX) for name in os.environ if name.startswith(PREFIX))
    return [
        f"{PREFIX}{name} is no setting"
        + did_you_mean(name, known).replace("did you mean ", f"did you mean {PREFIX}")
        for name in names
        if name not in known
    ]


def _from_files() -> dict[str, Any]:
    """Return the settings that the environment gives as the names of files."""
    values: dict[str, Any] = {}
    for name in FROM_FILES:
        variable = f"{PREFIX}{name}_FILE"
        if variable not in os.environ:
            continue
        if f"{PREFIX}{name}" in os.environ:
            raise WrongSetting(f"{variable}: {PREFIX}{name} is set as well")
        try:
            lines = Path(os.environ[variable]).read_text(encoding="utf-8").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise WrongSetting(f"{variable}: {type(error).__name__}") from None
        stripped = (line.strip() for line in lines)
        values[name.lower()] = ",".join(
            line for line in stripped if line and not line.startswith("#")
        )
    return values


def _line(problem: ErrorDetails) -> str:
    message = in_words(problem)
    return f"{PREFIX}{str(problem['loc'][0]).upper()}: {message}" if problem["loc"] else message
