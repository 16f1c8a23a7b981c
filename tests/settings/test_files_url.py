"""The values that the setting FILES_URL accepts and refuses."""

from pathlib import Path

import pytest

from card_worker.file_store import read_files_url
from card_worker.settings import WrongSetting, load_settings


@pytest.mark.parametrize(
    ("text", "url"),
    [
        ("/srv/cards", "/srv/cards"),
        ("cards", str(Path.cwd() / "cards")),
        ("./a b", str(Path.cwd() / "a b")),
        ("./a:b", str(Path.cwd() / "a:b")),
        ("a/b:c", str(Path.cwd() / "a/b:c")),
        ("file:///srv/cards", "file:///srv/cards"),
        ("local:///srv/cards", "local:///srv/cards"),
        ("s3://bucket/cards", "s3://bucket/cards"),
        ("ftp://user:pass@host/cards", "ftp://user:pass@host/cards"),
        ("simplecache::s3://bucket", "simplecache::s3://bucket"),
    ],
)
def test_valid_values_are_accepted(text: str, url: str) -> None:
    assert read_files_url(text) == url


@pytest.mark.parametrize(
    "text",
    [
        *("", " ", "\t", "memory://", "memory:", "memory://x", "MEMORY://x", "memory:x"),
        *("simplecache::memory://x", "memory::file:///x", "simplecache::x"),
        *("file://host/x", "file://rel", "file:rel", "file:", "local://x", "FILE://x", "s3:x"),
    ],
)
def test_invalid_values_are_refused_in_one_line(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CARD_WORKER_FILES_URL", text)
    with pytest.raises(WrongSetting) as refused:
        load_settings()
    line = str(refused.value)
    assert line.startswith("CARD_WORKER_FILES_URL: ")
    assert "\n" not in line
