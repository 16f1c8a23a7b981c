"""Invalid settings are refused with one line that names the setting and not the value."""

from pathlib import Path

import pytest

from card_worker.redis_url import RedisAddress
from card_worker.settings import URLS, Settings, WrongSetting, load_settings

# "mellon" stands for what must not be shown.
DATABASES = [
    *("", " ", "mellon", "mellon://", "postgres://mellon@h/x", "mysql://mellon@h/x"),
    *("postgresql+psycopg2://kari:mellon@h/x", "postgresql+asyncpg://mellon@h/x"),
    *("postgresql+psycopg_async://mellon@h/x", "postgresql+mellon://h/x", "POSTGRESQL://mellon"),
    *("sqlite+aiosqlite:///mellon", "sqlite+pysqlcipher://:mellon@/x", "sqlite+mellon:///x"),
    *("sqlite://", "sqlite:///", "sqlite:/// ", "sqlite:///:memory:", "sqlite://mellon/x"),
    *("sqlite:///file:mellon?mode=memory&uri=true", "sqlite:///file::memory:", "sqlite:mellon"),
    *("sqlite:///x?mellon=1", "sqlite:///x?timeout=mellon", "sqlite:///x%00mellon"),
    *("postgresql://h:mellon/x", "postgresql://[::1/mellon"),
    *("postgresql://h:0/mellon", "postgresql://h:65536/mellon", "postgresql://h/x?mellon=1"),
    *("postgresql://kari:mellon%00@h/x", "sqlite:///mellon\udc80"),
]
FILES = [
    *("", " ", "memory://", "memory:", "memory:///mellon", "memory:mellon", "mellon://x"),
    *("mellon:x", "://mellon", "::mellon", "simplecache::mellon://x", "simplecache::memory://x"),
    *("file://mellon/x", "file:mellon", "file:", "local://mellon", "s4://mellon", "/x\udc80mellon"),
]
KEPT = ("EVENTS", "PIN_ATTEMPTS", "DEAD_LETTERS", "JOBS")
SECONDS = ["", "mellon", "0", "-1", "1.5", "inf", f"{2**40}"]
OTHERS = {
    "EVENT_STREAM": ["", "mellon\udc80"],
    "EVENT_STREAM_MAX": ["", "mellon", "0", "-1", "1.5", f"{2**64}"],
    "EVENT_STREAM_KEEP_S": SECONDS,
    **{f"KEEP_{name}_S": SECONDS for name in KEPT},
    "EVENT_SINKS": ["", "mellon", "redis,mellon"],
    "GROUP_MAX": ["", "mellon", "0", "-1", "1001", f"{2**64}", "1.5", "nan", "0x10"],
    "GROUP_WAIT_MS": ["", "mellon", "-1", "1001", f"{2**64}", "inf"],
    "ALSO_CONSUME": ["", "mellon", "celery,mellon"],
    "SWEEP_INTERVAL_S": ["", "mellon", "0", "-1", "nan", "inf", "1e400", "86401"],
    "METRICS_PORT": ["", "mellon", "0", "65536", "9401-9400", "9400-", "9400-mellon", "1-2-3"],
    "METRICS_HOST": [""],
    "STALLED_S": ["", "mellon", "4.9", "3601", "nan"],
    "TRACES": ["", "mellon"],
    "LOG_FORMAT": ["", "mellon", "JSON"],
    "TOKEN_PEPPERS": ["", "mellon", "k1:mellon", "k1:", ":mellon", "k1:mellon\udc80"],
    "PIN_PEPPERS": ["", "mellon", "k1:mellon", ","],
    "PRODUCER_PEPPERS": ["", "mellon", "k1:mellon"],
    "SIGNATURES": ["", "mellon", "Required"],
    "UNAUTHENTICATED_MAX": ["", "mellon", "-1", "1.5"],
    "COMMAND_IDENTITIES": ["", "mellon", "AGE-SECRET-KEY-1MELLON", ","],
    "LETTER_RECIPIENTS": ["", "mellon", "age1mellon", ","],
    "BROKER_URL": ["", "mellon", "amqp://mellon", "sentinel://mellon", "redis://h\udc80"],
    "EVENTS_URL": ["", "mellon", "kafka://mellon"],
    "RESULT_BACKEND_URL": ["", "mellon", "rpc://mellon", "db+sqlite:///mellon"],
}
WRONG = {"DATABASE_URL": DATABASES, "FILES_URL": FILES, **OTHERS}


def refusal(name: str, value: str, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv(f"CARD_WORKER_{name}", value)
    with pytest.raises(WrongSetting) as wrong:
        load_settings()
    return str(wrong.value)


@pytest.mark.parametrize(
    ("name", "value"), [(name, value) for name, values in WRONG.items() for value in values]
)
def test_an_error_names_the_setting_and_not_the_value(
    name: str, value: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    said = refusal(name, value, monkeypatch)
    assert said.startswith(f"CARD_WORKER_{name}: ")
    assert len(said.splitlines()) == 1
    assert len(said) > len(f"CARD_WORKER_{name}: ") + 5
    for part in ("mel", "lon", "MEL", "kari", "Error", "Traceback"):
        assert part not in said.removeprefix(f"CARD_WORKER_{name}")


def test_every_setting_is_covered() -> None:
    assert {name.upper() for name in Settings.model_fields} == set(WRONG)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *(("DATABASE_URL", f"sqlite:///{name}") for name in ("x", "/x/y.db", "a b", "%C3%A6.db")),
        ("DATABASE_URL", "sqlite+pysqlite:///x"),
        ("DATABASE_URL", "postgresql:///x?host=/run/postgresql"),
        ("DATABASE_URL", "postgresql://h:5432/x?sslmode=verify-full&application_name=y"),
        ("DATABASE_URL", "postgresql+psycopg://kari:%2F%40@[::1]:5433/x"),
        ("DATABASE_URL", "postgresql://kari@/x?host=a:5432&host=b:5433"),
        *(("FILES_URL", value) for value in ("/files", "file:///files", "s3://bucket/x")),
    ],
)
def test_usable_values_are_accepted(name: str, value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(f"CARD_WORKER_{name}", value)
    assert getattr(load_settings(), name.lower()) == value


@pytest.mark.parametrize("name", URLS)
def test_a_url_can_be_in_a_file(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    url = "postgresql://kari:mellon@h/x" if name == "DATABASE_URL" else "redis://kari:mellon@h/3"
    monkeypatch.delenv(f"CARD_WORKER_{name}", raising=False)
    (tmp_path / "url").write_text(f"{url}\n")
    monkeypatch.setenv(f"CARD_WORKER_{name}_FILE", str(tmp_path / "url"))
    read = getattr(load_settings(), name.lower())
    assert read == (url if name == "DATABASE_URL" else RedisAddress.parse(url))
    (tmp_path / "url").write_text("mellon")
    with pytest.raises(WrongSetting, match=f"^CARD_WORKER_{name}: ") as wrong:
        load_settings()
    assert "mellon" not in str(wrong.value)


@pytest.mark.parametrize("what", ["folder", "nothing", "binary", "unreadable"])
def test_an_unreadable_file_is_named_by_its_setting(
    what: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / what
    match what:
        case "folder":
            path.mkdir()
        case "binary":
            path.write_bytes(b"\xff\xfe")
        case "unreadable":
            path.symlink_to(path)
    monkeypatch.setenv("CARD_WORKER_TOKEN_PEPPERS_FILE", str(path))
    with pytest.raises(WrongSetting, match=r"^CARD_WORKER_TOKEN_PEPPERS_FILE: "):
        load_settings()


@pytest.mark.parametrize(("text", "ports"), [("9400", (9400, 9400)), (" 1-65535", (1, 65535))])
def test_a_port_or_a_range_is_read(
    text: str, ports: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CARD_WORKER_METRICS_PORT", text)
    assert load_settings().metrics_port == ports
