"""Settings: the environment variables with the prefix `CARD_WORKER_`, checked once at the start."""

from enum import StrEnum
from typing import Annotated, Literal

from pydantic import AfterValidator, Field, ValidationError
from pydantic_core import ErrorDetails
from pydantic_settings import BaseSettings, SettingsConfigDict
from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError

PREFIX = "CARD_WORKER_"


class LogFormat(StrEnum):
    """How a log line is written: for a person or for a collector."""

    CONSOLE = "console"
    JSON = "json"


class WrongSetting(Exception):
    """One line that names each setting that is missing or wrong."""


def _database_url(url: str) -> str:
    try:
        backend = make_url(url).get_backend_name()
    except ArgumentError:
        raise ValueError("not a database URL") from None
    if backend not in ("postgresql", "sqlite"):
        raise ValueError(f"{backend} is not supported: use postgresql:// or sqlite:///")
    return url


def _redis_url(url: str) -> str:
    if not url.startswith(("redis://", "rediss://", "unix://", "redis+socket://")):
        raise ValueError("use redis://host:port/number, rediss:// or unix://")
    return url


RedisUrl = Annotated[str, AfterValidator(_redis_url)]


class Settings(BaseSettings):
    """All settings. Units stand at the end of a name."""

    model_config = SettingsConfigDict(env_prefix=PREFIX, frozen=True, extra="ignore")

    database_url: Annotated[str, AfterValidator(_database_url)] | None = Field(
        None,
        description="Where cards are kept: postgresql://user:password@host/name or sqlite:///file",
    )
    broker_url: RedisUrl | None = Field(
        None, description="Where commands wait: redis://:password@host:6379/0"
    )
    events_url: RedisUrl | None = Field(
        None, description="Where the event stream is; absent: the broker"
    )
    event_stream: str = Field(
        "card-events", min_length=1, description="Name of the Redis Stream that answers go to"
    )
    event_sinks: Literal["redis"] = Field(
        "redis", description="Where events are published: redis, the stream"
    )
    result_backend_url: RedisUrl | None = Field(
        None, description="Where Celery results go; absent: nowhere, the answer is the event"
    )
    group_max: int = Field(
        500, ge=1, le=1000, description="Messages that are handled together at most"
    )
    group_wait_ms: int = Field(
        0, ge=0, le=1000, description="Milliseconds a group waits for company"
    )
    sweep_interval_s: float = Field(
        10.0, gt=0, le=86_400, description="Seconds between two looks for what time has made due"
    )
    log_format: LogFormat = Field(LogFormat.CONSOLE, description="console or json")

    # A producer's host knows no database, a migration no broker: what a part doesn't use, it
    # doesn't ask for.

    def database(self) -> str:
        """Return where cards are kept. Raises WrongSetting when nobody said."""
        return _given("DATABASE_URL", self.database_url)

    def broker(self) -> str:
        """Return where commands wait. Raises WrongSetting when nobody said."""
        return _given("BROKER_URL", self.broker_url)

    def events(self) -> str:
        """Return the Redis that holds the event stream: the broker's, when nobody said."""
        return self.events_url or self.broker()


def _given(name: str, value: str | None) -> str:
    if value is None:
        raise WrongSetting(f"{PREFIX}{name}: missing")
    return value


def load_settings() -> Settings:
    """Read the environment.

    Raises WrongSetting, one line naming every setting that is wrong. A value is never repeated in
    it: a URL may hold a password.
    """
    try:
        return Settings()
    except ValidationError as error:
        problems = error.errors(include_input=False, include_url=False)
        raise WrongSetting("; ".join(map(_in_words, problems))) from None


def _in_words(problem: ErrorDetails) -> str:
    name = str(problem["loc"][0]).upper()
    return f"{PREFIX}{name}: {problem['msg'].removeprefix('Value error, ')}"
