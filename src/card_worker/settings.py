"""Settings: the environment variables with the prefix `CARD_WORKER_`, checked once at the start."""

import os
from collections.abc import Iterable
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from psycopg import ProgrammingError
from psycopg.conninfo import make_conninfo
from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    ValidationError,
    field_validator,
    model_validator,
)
from pydantic_core import ErrorDetails
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError

from card_worker.files_url import read_files_url
from card_worker.redis_url import RedisAddress
from card_worker.secrets.peppers import Peppers
from card_worker.secrets.sealing import NotOpened, read_identities, read_recipients
from card_worker.secrets.vault import Vault
from card_worker.wording import in_words

Value = TypeVar("Value")

PREFIX = "CARD_WORKER_"
PEPPERS = ("TOKEN_PEPPERS", "PIN_PEPPERS")
FROM_FILES = (*PEPPERS, "COMMAND_IDENTITIES")
"""Settings that may stand in a file, which a variable with _FILE behind its name names."""


DATABASES = ("postgresql://", "postgresql+psycopg://", "sqlite:///", "sqlite+pysqlite:///")
"""The supported beginnings of a database URL."""


class LogFormat(StrEnum):
    """The format of log lines: for people or for a collector."""

    CONSOLE = "console"
    JSON = "json"


class WrongSetting(Exception):
    """Missing or invalid settings, in one line."""


def _database_url(url: str) -> str:
    """Return a database's URL if it can be opened. What is raised repeats no part of it."""
    if not url.startswith(DATABASES):
        raise ValueError(f"must begin with {' or '.join(DATABASES)}")
    if "%00" in url:
        raise ValueError("has the character NUL (%00)")
    try:
        parsed = make_url(url)
    except (ArgumentError, ValueError):
        raise ValueError("is not a database URL, or the port is not a number") from None
    if parsed.get_backend_name() == "sqlite":
        _check_sqlite(parsed)
    else:
        _check_postgresql(parsed)
    return url


def _check_sqlite(url: URL) -> None:
    if url.query:
        raise ValueError("must have no options")
    name = (url.database or "").strip()
    if not name or name.startswith((":memory:", "file:")):
        raise ValueError("must name a file, sqlite:///file; a database in memory would be lost")


def _check_postgresql(url: URL) -> None:
    if url.port is not None and not 1 <= url.port <= 65535:
        raise ValueError("the port must be a number from 1 to 65535")
    try:
        _, options = url.get_dialect()().create_connect_args(url)
        make_conninfo("", **options)
    except (ArgumentError, ProgrammingError):
        raise ValueError("has an option that libpq doesn't know, or an invalid one") from None


def _parts(text: object) -> tuple[str, ...] | None:
    return tuple(part.strip() for part in text.split(",")) if isinstance(text, str) else None


def _redis_address(url: object) -> object:
    return RedisAddress.parse(url) if isinstance(url, str) else url


def _peppers(text: str) -> str:
    Peppers.read(text)  # a ValueError says what is wrong, and nothing of what it read
    return text


PeppersText = Annotated[str, AfterValidator(_peppers)]
# NoDecode: or else pydantic-settings reads the variable as JSON.
RedisUrl = Annotated[RedisAddress, NoDecode, BeforeValidator(_redis_address)]


class Settings(BaseSettings):
    """All settings. Units stand at the end of a name."""

    model_config = SettingsConfigDict(env_prefix=PREFIX, frozen=True, extra="ignore")

    database_url: Annotated[str, AfterValidator(_database_url)] | None = Field(
        None,
        description="URL of the database: `postgresql://user:password@host/name` or"
        " `sqlite:///file`.",
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
    event_sinks: Literal["redis"] = Field(
        "redis", description="Where events are published: `redis`, the stream."
    )
    result_backend_url: RedisUrl | None = Field(
        None,
        description="URL of the Redis with Celery's results, which queries need. Default: no"
        " results.",
    )
    files_url: Annotated[str, AfterValidator(read_files_url)] = Field(
        "card-worker-files",
        validate_default=True,
        description="Folder or fsspec URL of the store for encrypted files of cards, not in"
        " memory.",
    )
    token_peppers: PeppersText | None = Field(
        None,
        repr=False,
        description="Keys for the hashes of tokens, `name:base64`, separated by commas, the newest"
        " first. Default: no tokens. With `_FILE` appended to the name: a file with the keys.",
    )
    pin_peppers: PeppersText | None = Field(
        None,
        repr=False,
        description="Keys for the hashes of PINs, different from those for tokens. Default: no"
        " PINs.",
    )
    command_identities: Annotated[tuple[str, ...], NoDecode] | None = Field(
        None,
        repr=False,
        description="age identities that open the tokens and PINs sealed by producers, separated by"
        " commas. With `_FILE` appended to the name: a file with them.",
    )
    letter_recipients: Annotated[tuple[str, ...], NoDecode] | None = Field(
        None,
        description="age recipients who can open the tokens and PINs in dead letters, separated by"
        " commas. Default: nobody, they are masked.",
    )
    group_max: int = Field(
        500, ge=1, le=1000, description="Largest number of messages that are handled together."
    )
    group_wait_ms: int = Field(
        0,
        ge=0,
        le=1000,
        description="Milliseconds to wait for more messages before a group is handled.",
    )
    also_consume: Literal["celery"] | None = Field(
        None,
        description="celery: a worker that consumes `cards` also consumes Celery's default queue,"
        " where commands without a queue arrive. Only if no other application uses that queue",
    )
    sweep_interval_s: float = Field(
        10.0, gt=0, le=86_400, description="Seconds between two sweeps for what is due."
    )
    log_format: LogFormat = Field(
        LogFormat.CONSOLE, description="Format of log lines: `console` or `json`."
    )

    @field_validator("letter_recipients", mode="before")
    @classmethod
    def _are_recipients(cls, text: object) -> object:
        named = _parts(text)
        if named is not None:
            read_recipients(named)
        return named

    @field_validator("command_identities", mode="before")
    @classmethod
    def _are_identities(cls, text: object) -> object:
        named = _parts(text)
        try:
            read_identities(named or ())
        except NotOpened as problem:
            raise ValueError(str(problem)) from None
        return named

    @model_validator(mode="after")
    def _peppers_differ(self) -> "Settings":
        if self.token_peppers is not None and self.pin_peppers is not None:
            keys = [Peppers.read(text).keys for text in (self.token_peppers, self.pin_peppers)]
            if keys[0] & keys[1]:
                raise ValueError(f"{PREFIX}PIN_PEPPERS: has a key that TOKEN_PEPPERS has")
        return self

    def vault(self) -> Vault:
        """Return what tokens and PINs are hashed with, as far as it was given."""
        tokens, pins = self.token_peppers, self.pin_peppers
        return Vault(
            None if tokens is None else Peppers.read(tokens),
            None if pins is None else Peppers.read(pins),
            self.command_identities or (),
        )

    # A producer's host knows no database, a migration no broker: what a part doesn't use, it
    # doesn't ask for.

    def database(self) -> str:
        """Return where cards are kept. Raises WrongSetting when nobody said."""
        return _given("DATABASE_URL", self.database_url)

    def broker(self) -> RedisAddress:
        """Return where commands wait. Raises WrongSetting when nobody said."""
        return _given("BROKER_URL", self.broker_url)

    def events(self) -> RedisAddress:
        """Return the Redis that holds the event stream: the broker's, when nobody said."""
        return self.events_url or self.broker()


def _given(name: str, value: Value | None) -> Value:
    if value is None:
        raise WrongSetting(f"{PREFIX}{name}: missing")
    return value


def load_settings() -> Settings:
    """Read the environment.

    Raises WrongSetting, one line naming every setting that is wrong. A value is never repeated in
    it: a URL may hold a password.
    """
    _check_text()
    files = _from_files(FROM_FILES)
    try:
        return Settings(**files)
    except ValidationError as error:
        problems = error.errors(include_input=False, include_url=False)
        raise WrongSetting("; ".join(map(_line, problems))) from None


def _check_text() -> None:
    for name, value in os.environ.items():
        try:
            value.encode()
        except UnicodeEncodeError:
            if name.startswith(PREFIX):
                raise WrongSetting(f"{name}: is not UTF-8") from None


def _from_files(names: Iterable[str]) -> dict[str, Any]:
    """Return what stands in the files that the environment names instead of giving a secret."""
    read: dict[str, Any] = {}
    for name in names:
        path = os.environ.get(f"{PREFIX}{name}_FILE")
        if path is None:
            continue
        if f"{PREFIX}{name}" in os.environ:
            raise WrongSetting(f"{PREFIX}{name}_FILE: {PREFIX}{name} is given as well")
        try:
            lines = Path(path).read_text(encoding="utf-8").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise WrongSetting(f"{PREFIX}{name}_FILE: {type(error).__name__}") from None
        said = (line.strip() for line in lines)
        read[name.lower()] = ",".join(line for line in said if line and not line.startswith("#"))
    return read


def _line(problem: ErrorDetails) -> str:
    message = in_words(problem)
    return f"{PREFIX}{str(problem['loc'][0]).upper()}: {message}" if problem["loc"] else message
