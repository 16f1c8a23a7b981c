"""Keys of producers: made, registered, rotated and revoked on the command line."""

import json
import stat
from pathlib import Path
from typing import Any

import pytest

from card_worker.contracts.fields import read_time
from card_worker.domain.producers import WINDOW_S
from card_worker.secrets.peppers import Peppers
from card_worker.secrets.signing import Algorithm, SigningKey, hmac_secret
from card_worker.storage.producers import PEPPER_PURPOSE
from tests.cli.commands import lines_of_json, refused, run

PEPPER = "p1:c2lnbmluZy1wZXBwZXItb2YtdGhlLXRlc3RzLjEyMw=="
ALL = ("--accounts", "all", "--tasks", "all")


class Registry:
    """The command line on a database of its own, and a folder for key files."""

    def __init__(self, url: str, folder: Path) -> None:
        self.settings = {"DATABASE_URL": url, "PRODUCER_PEPPERS": PEPPER}
        self.folder = folder
        self.key = SigningKey.new("shop-1")
        self.public = ("--public-key", self.key.public_key)

    def view(self, *arguments: object) -> dict[str, Any]:
        done = run("producer", *arguments, "--json", **self.settings)
        assert done.exit_code == 0, done.output
        (view,) = lines_of_json(done)
        return dict(view)

    def refusal(self, *arguments: object) -> tuple[int, str]:
        return refused(run("producer", *arguments, **self.settings))


@pytest.fixture
def registry(sqlite_url: str, tmp_path: Path) -> Registry:
    return Registry(sqlite_url, tmp_path)


def test_a_new_key_is_made_without_a_database_and_never_overwritten(tmp_path: Path) -> None:
    file = tmp_path / "shop.json"
    done = run("producer", "new-key", file, "--key-id", "shop-1")
    key = SigningKey.read(file)
    assert (done.stdout.strip(), key.key_id) == (key.public_key, "shop-1")
    assert key.algorithm is Algorithm.ED25519
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    code, text = refused(run("producer", "new-key", file, "--key-id", "shop-2"))
    assert (code, "is not overwritten" in text) == (1, True)
    assert SigningKey.read(file).key_id == "shop-1"


def test_a_key_is_registered_with_its_rights(registry: Registry) -> None:
    rights = ("--accounts", "T00000001,T00000002", "--tasks", "cards.activate,cards.get")
    limits = ("--amount-max", 500, "--cards-max", 7, "--wrong-max", 8)
    issued = ("--issued-max", "NOK=100,EUR=5")
    times = ("--valid-from", "2026-01-01T01:00:00+01:00", "--valid-until", "2999-01-01T00:00:00Z")
    added = registry.view(
        "add", "shop", "--key-id", "shop-1", *registry.public, *rights, *limits, *issued, *times
    )
    del added["created_at"]
    assert added == {
        "key_id": "shop-1",
        "producer": "shop",
        "algorithm": "v1a",
        "public_key": registry.key.public_key,
        "pepper": None,
        "accounts": ["T00000001", "T00000002"],
        "tasks": ["cards.activate", "cards.get"],
        "amount_max": 500,
        "cards_max": 7,
        "issued_max": {"NOK": 100, "EUR": 5},
        "wrong_max": 8,
        "valid_from": "2026-01-01T00:00:00.000Z",
        "valid_until": "2999-01-01T00:00:00.000Z",
        "revoked_at": None,
        "state": "valid",
    }
    assert registry.view("show", "shop-1").items() >= added.items()
    shown = run("producer", "show", "shop-1", **registry.settings).stdout
    assert "NOK 100" in shown
    assert "shop-1" in run("producer", "list", **registry.settings).stdout


def test_the_secret_of_an_hmac_key_is_derived_and_written_once(registry: Registry) -> None:
    file = registry.folder / "shop.json"
    add = ("add", "shop", "--key-id", "shop-2", "--hmac", file, *ALL)
    added = registry.view(*add)
    assert (added["algorithm"], added["pepper"], added["accounts"]) == ("v1", "p1", None)
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    _, pepper = Peppers.read(PEPPER).newest_key(PEPPER_PURPOSE)
    assert SigningKey.read(file).text == SigningKey.derived("shop-2", pepper).text
    stored = Path(registry.settings["DATABASE_URL"].removeprefix("sqlite:///")).read_bytes()
    assert hmac_secret("shop-2", pepper) not in stored
    assert json.loads(file.read_text())["secret"].encode() not in stored
    assert "is not overwritten" in registry.refusal(*add)[1]
    # Nothing is left of what is refused.
    other = registry.folder / "other.json"
    assert registry.refusal("add", "shop", "--key-id", "shop-2", "--hmac", other, *ALL) == (
        1,
        "--key-id: there is a key shop-2 already",
    )
    assert not other.exists()


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"--accounts": "T1"}, "--accounts: T1 is not an account: P or T, and eight digits; or"),
        ({"--accounts": "T00000001,"}, "--accounts:  is not an account"),
        ({"--accounts": None}, "'--accounts'"),
        ({"--tasks": None}, "'--tasks'"),
        ({"--tasks": "card.activate"}, "--tasks: there is no command or query card.activate; did"),
        ({"--tasks": "cards.get,all"}, "--tasks: there is no command or query all"),
        ({"--amount-max": "-1"}, "'--amount-max'"),
        ({"--cards-max": "1.5"}, "'--cards-max'"),
        ({"--wrong-max": "0"}, "'--wrong-max'"),
        ({"--issued-max": "GBP=1"}, "--issued-max: GBP is not a currency; there are NOK"),
        ({"--issued-max": "NOK"}, "--issued-max: NOK is not CURRENCY=AMOUNT"),
        ({"--issued-max": "NOK=-1"}, "--issued-max: -1 is not an amount in minor units"),
        ({"--issued-max": "NOK=1,NOK=2"}, "--issued-max: a currency is named twice"),
        ({"--valid-from": "today"}, "--valid-from: must be an RFC 3339 time"),
        ({"--valid-until": "2026-13-01T00:00:00Z"}, "--valid-until: must be a date and time that"),
        ({"--valid-until": "2020-01-01T00:00:00Z"}, "--valid-until: is not after the begin, or"),
        ({"--key-id": "a,b"}, "--key-id: must be 1 to 64 of A-Za-z0-9._-"),
        ({"--public-key": "whpk_AAAA"}, "--public-key: the key must be whpk_ and 32 bytes in bas"),
        ({"--public-key": None}, "name one of --public-key and --hmac"),
        ({"NAME": "a\nb"}, "NAME: must be an id of 1 to 255 characters"),
    ],
)
def test_wrong_input_is_named(
    options: dict[str, str | None], text: str, registry: Registry
) -> None:
    given: dict[str, str | None] = {
        "NAME": "shop",
        "--key-id": "shop-1",
        "--public-key": registry.key.public_key,
        "--accounts": "all",
        "--tasks": "all",
        **options,
    }
    name = given.pop("NAME")
    pairs = [word for pair in given.items() if pair[1] is not None for word in pair]
    done = run("producer", "add", name, *pairs, **registry.settings)
    assert (done.exit_code, done.stdout, text in done.stderr) == (2, "", True), done.stderr
    assert run("producer", "list", "--json", **registry.settings).stdout == ""


def test_an_hmac_key_needs_the_peppers(registry: Registry) -> None:
    del registry.settings["PRODUCER_PEPPERS"]
    file = registry.folder / "shop.json"
    code, line = registry.refusal("add", "shop", "--key-id", "shop-2", "--hmac", file, *ALL)
    assert (code, "CARD_WORKER_PRODUCER_PEPPERS is not set" in line) == (2, True)
    assert not file.exists()


def test_a_key_is_replaced_by_another_with_its_rights(registry: Registry) -> None:
    add = ("add", "shop", "--key-id", "shop-1", *registry.public, "--accounts", "T00000001")
    old = registry.view(*add, "--tasks", "cards.get", "--issued-max", "NOK=9")
    assert old["wrong_max"] == 50
    file = registry.folder / "new.json"
    new = registry.view("rotate", "shop-1", "--key-id", "shop-2", "--hmac", file)
    own = {"key_id": "shop-2", "algorithm": "v1", "public_key": None, "pepper": "p1"}
    times = {name: new[name] for name in ("created_at", "valid_from")}
    assert new == old | own | times
    assert SigningKey.read(file).key_id == "shop-2"
    end = registry.view("show", "shop-1")["valid_until"]
    seconds = (read_time(end) - read_time(new["created_at"])).total_seconds()
    assert seconds == WINDOW_S
    # A shorter time later; the end that is stored is never moved on.
    other = registry.view("rotate", "shop-1", "--key-id", "shop-3", *registry.public, "--grace-s",
                          0, "--valid-until", "2999-01-01T00:00:00Z", "--wrong-max", 9)  # fmt: skip
    assert other["wrong_max"] == 9
    assert registry.view("show", "shop-1")["state"] == "expired"
    assert registry.refusal("rotate", "shop-1", "--key-id", "shop-4", *registry.public) == (
        1,
        "the key shop-1 is expired: use card-worker producer add",
    )
    code, line = registry.refusal("rotate", "shop-3", "--key-id", "shop-4", *registry.public)
    assert (code, "--valid-until is missing" in line) == (2, True)
    assert registry.view("show", "shop-3")["valid_until"] == "2999-01-01T00:00:00.000Z"


def test_a_key_is_revoked_once(registry: Registry) -> None:
    registry.view("add", "shop", "--key-id", "shop-1", *registry.public, *ALL)
    first = registry.view("revoke", "shop-1")
    assert first["state"] == "revoked"
    assert registry.view("revoke", "shop-1") == first == registry.view("show", "shop-1")
    for command in ("show", "revoke"):
        assert registry.refusal(command, "shop1") == (
            1,
            "there is no key shop1; did you mean shop-1?",
        )
