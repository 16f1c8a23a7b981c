"""Processes with wrong clocks, while the clock of the database is right: no rule is affected."""

import json
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from card_worker.embedded.valkey import valkey
from card_worker.secrets.peppers import new_pepper
from card_worker.secrets.sealing import new_key_pair, open_sealed
from tests import servers
from tests.flow.processes import until
from tests.flow.system import System, card, system

OFF_CLOCK = Path(__file__).parents[1] / "chaos" / "servers" / "off_clock.py"
OFF_S = 600
LATER_S = OFF_S // 2
LATER = timedelta(seconds=LATER_S)
"""Before what a clock shows that is ahead. A time that is now is after what one shows behind."""
SLACK = timedelta(seconds=2)
OWNER = new_key_pair()
NOK: dict[str, Any] = {"amount": 1, "currency": "NOK"}


@pytest.fixture(scope="module", params=[OFF_S, -OFF_S], ids=["ahead", "behind"])
def running(
    request: pytest.FixtureRequest,
    tmp_path_factory: pytest.TempPathFactory,
    postgres_server: servers.Server,
    postgres_template: str,
) -> Iterator[System]:
    """A system whose only worker has a clock that is ahead, or behind."""
    folder = tmp_path_factory.mktemp("clocks")
    arguments = (str(OFF_CLOCK), str(request.param), "card_worker.cli", "worker")
    peppers = {"TOKEN_PEPPERS": new_pepper("t1"), "PIN_PEPPERS": new_pepper("p1")}
    with (
        servers.database(postgres_server, template=postgres_template) as url,
        valkey(folder / "broker") as broker,
        system(folder, database_url=url, broker_url=broker.url) as made,
    ):
        worker = made.parts.run(*arguments, name="worker", env=None, **peppers)
        made.start("relay")
        worker.says(" ready.")
        # What the tests are worth depends on it.
        (*_, line) = worker.said.partition(" ready.")[0].splitlines()
        off = datetime.fromisoformat(line.split()[0]) - datetime.now(UTC)
        assert abs(off - timedelta(seconds=request.param)) < timedelta(seconds=60)
        yield made


def now() -> datetime:
    # The database's: it is on this machine.
    return datetime.now(UTC)


def pay(running: System, name: str, **named: Any) -> str:
    running.send("transactions.create", name, ref_id=name, **NOK, **named)
    return running.types(name)[0]


def test_the_clock_of_the_database_decides(running: System) -> None:
    began = now()
    running.create("ends", expires_at=(began + LATER).isoformat())
    running.create("starts", active_from=(began + LATER).isoformat())
    running.create("held")
    made = running.answers("ends", "starts", "held")
    assert set(running.types(*made)) == {"card.created"}
    for event in made.values():
        assert began - SLACK < datetime.fromisoformat(event["time"]) < now() + SLACK
    assert pay(running, "before-its-end", card_id="ends") == "card.drawn_down"
    assert pay(running, "before-its-start", card_id="starts") == "card_not_started"
    hold = _hold(running)
    running.sql("UPDATE cards SET expires_at = now() WHERE card_id = 'ends'")
    running.sql("UPDATE cards SET active_from = now() WHERE card_id = 'starts'")
    running.sql("UPDATE holds SET expires_at = now()")
    assert pay(running, "after-its-end", card_id="ends") == "card_expired"
    assert pay(running, "after-its-start", card_id="starts") == "card.drawn_down"
    running.send("transactions.capture", "capture", transaction_id=hold["id"], ref_id="capture")
    assert running.types("capture") == ["hold_closed"]


def _hold(running: System) -> dict[str, Any]:
    """Lock something for a while; return the hold as its event shows it."""
    began = now()
    hold = {"card_id": "held", "pending": True, "hold_expires_in": LATER_S}
    assert pay(running, "hold", **hold) == "hold.placed"
    shown: dict[str, Any] = running.answers("hold")["hold"]["data"]["hold"]
    placed = datetime.fromisoformat(shown["expires_at"]) - LATER
    assert began - SLACK < placed < now() + SLACK
    return shown


def test_tokens_expire_by_the_clock_of_the_database(running: System) -> None:
    running.create("card")
    asked = {"expires_in": LATER_S, "expires_after_transaction": False}
    sealed = {"seal_to": [OWNER.recipient]}
    running.send("tokens.create", "token", card_id="card", ref_id="t", **asked, **sealed)
    data = running.answers("token")["token"]["data"]
    value = _token(data)
    assert pay(running, "by-token", token=value) == "card.drawn_down"
    running.sql("UPDATE tokens SET expires_at = now()")
    assert pay(running, "by-old-token", token=value) == "card_not_usable"


def _token(data: dict[str, Any]) -> str:
    value: str = json.loads(open_sealed([OWNER.identity], data["sealed"].encode()))["token"]
    return value


def test_a_command_is_too_late_by_the_clock_of_the_database(running: System) -> None:
    running.create("in-time", not_after=(now() + LATER).isoformat())
    running.create("too-late", not_after=(now() - LATER).isoformat())
    assert running.types("in-time", "too-late") == ["card.created", "stale_command"]


def test_sweeps_use_the_clock_of_the_database(running: System) -> None:
    running.create("due", "not-due", expires_at=(now() + LATER).isoformat())
    running.answers("due", "not-due")
    lasts_s = {"pending": True, "hold_expires_in": LATER_S}
    assert pay(running, "not-due-hold", card_id="not-due", **lasts_s) == "hold.placed"
    running.sql("UPDATE cards SET expires_at = now() WHERE card_id = 'due'")
    for sweep in ("sweeps.expire_holds", "sweeps.expire_cards"):
        running.client.publish(sweep, {})
    until(lambda: "due" in expired(running, "card"), "the end of the card that is due")
    running.catches_up("cards.system")
    assert "not-due" not in expired(running, "card") | expired(running, "hold")


def expired(running: System, kind: str) -> set[str]:
    """Return the cards that have expired, or of which a hold has."""
    return {event["data"]["card_id"] for event in running.events_of(f"{kind}.expired")}


def test_a_card_that_ends_before_it_begins_is_refused_by_the_clock_of_the_database(
    running: System,
) -> None:
    past = (now() - LATER).isoformat()
    running.send("cards.create", "over", **card("over", expires_at=past))
    assert running.types("over") == ["invalid"]


def test_beat_keeps_its_intervals_whatever_steps_its_clock_takes(own: System) -> None:
    off_s = own.parts.folder / "off_s"

    def step_to(seconds: int) -> None:
        # In one step: beat reads it at any time.
        new = off_s.with_suffix(".new")
        new.write_text(str(seconds))
        new.replace(off_s)

    step_to(0)
    arguments = (str(OFF_CLOCK), str(off_s), "card_worker.cli", "beat")
    beat = own.parts.run(*arguments, name="beat", env=None, SWEEP_INTERVAL_S="0.2")
    for seconds in (-3600, 0, 3600, 0):
        beat.says("sweep requested")
        step_to(seconds)
        requested = beat.said.count("sweep requested")
        # Several of each of the four sweeps: what was due before the step is not enough.
        beat.says("sweep requested", times=requested + 12)
        said = datetime.fromisoformat(beat.said.splitlines()[-1].split()[0])
        assert abs(said - datetime.now(UTC) - timedelta(seconds=seconds)) < timedelta(seconds=60)
