"""Processes with wrong clocks, while the clock of the database is right: no rule is affected."""

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from card_worker.secrets.peppers import new_pepper
from card_worker.secrets.sealing import new_key_pair, open_sealed
from tests.flow.processes import until
from tests.flow.system import System, card

OFF_CLOCK = Path(__file__).parents[1] / "chaos" / "servers" / "off_clock.py"
OFF_S = 600
SOON = timedelta(seconds=5)
LATER = timedelta(seconds=OFF_S / 2)
"""Before what a clock shows that is ahead."""
SLACK = timedelta(seconds=2)
OWNER = new_key_pair()
NOK: dict[str, Any] = {"amount": 1, "currency": "NOK"}


@pytest.fixture(params=[OFF_S, -OFF_S], ids=["ahead", "behind"])
def running(own: System, request: pytest.FixtureRequest) -> System:
    """A system whose only worker has a clock that is ahead, or behind."""
    arguments = (str(OFF_CLOCK), str(request.param), "card_worker.cli", "worker")
    peppers = {"TOKEN_PEPPERS": new_pepper("t1"), "PIN_PEPPERS": new_pepper("p1")}
    worker = own.parts.run(*arguments, name="worker", env=None, **peppers)
    own.start("relay")
    worker.says(" ready.")
    # What the test is worth depends on it.
    said = datetime.fromisoformat(worker.said.partition(" ready.")[0].splitlines()[-1].split()[0])
    assert abs(said - datetime.now(UTC) - timedelta(seconds=request.param)) < timedelta(seconds=60)
    return own


def now() -> datetime:
    # The database's: it is on this machine.
    return datetime.now(UTC)


def reached(time: datetime) -> None:
    until(lambda: now() > time, f"{time}")


def pay(running: System, name: str, **named: Any) -> str:
    running.send("transactions.create", name, ref_id=name, **NOK, **named)
    return running.types(name)[0]


def test_the_clock_of_the_database_decides(running: System) -> None:
    began = now()
    running.create("ends", expires_at=(began + 3 * SOON).isoformat())
    running.create("starts", active_from=(began + 3 * SOON).isoformat())
    running.create("held")
    made = running.answers("ends", "starts", "held")
    assert set(running.types(*made)) == {"card.created"}
    for event in made.values():
        assert began - SLACK < datetime.fromisoformat(event["time"]) < now() + SLACK
    assert pay(running, "before-its-end", card_id="ends") == "card.drawn_down"
    assert pay(running, "before-its-start", card_id="starts") == "card_not_started"
    hold = _hold(running)
    reached(began + 3 * SOON)
    assert pay(running, "after-its-end", card_id="ends") == "card_expired"
    assert pay(running, "after-its-start", card_id="starts") == "card.drawn_down"
    until(lambda: now() > datetime.fromisoformat(hold["expires_at"]), "the end of the hold")
    running.send("transactions.capture", "too-late", transaction_id=hold["id"], ref_id="too-late")
    assert running.types("too-late") == ["hold_closed"]


def _hold(running: System) -> dict[str, Any]:
    """Lock something for a while; return the hold as its event shows it."""
    lasts_s = int(SOON.total_seconds())
    hold = {"card_id": "held", "pending": True, "hold_expires_in": lasts_s}
    assert pay(running, "hold", **hold) == "hold.placed"
    shown: dict[str, Any] = running.answers("hold")["hold"]["data"]["hold"]
    ends = datetime.fromisoformat(shown["expires_at"])
    assert now() < ends + SLACK
    assert ends < now() + SOON + SLACK
    return shown


def test_tokens_expire_by_the_clock_of_the_database(running: System) -> None:
    running.create("card")
    asked = {"expires_in": int(SOON.total_seconds()), "expires_after_transaction": False}
    sealed = {"seal_to": [OWNER.recipient]}
    running.send("tokens.create", "token", card_id="card", ref_id="t", **asked, **sealed)
    data = running.answers("token")["token"]["data"]
    value = _token(data)
    assert pay(running, "at-once", token=value) == "card.drawn_down"
    reached(datetime.fromisoformat(data["token"]["expires_at"]))
    assert pay(running, "too-late", token=value) == "card_not_usable"


def _token(data: dict[str, Any]) -> str:
    value: str = json.loads(open_sealed([OWNER.identity], data["sealed"].encode()))["token"]
    return value


def test_a_command_is_too_late_by_the_clock_of_the_database(running: System) -> None:
    running.create("in-time", not_after=(now() + LATER).isoformat())
    running.create("too-late", not_after=(now() - LATER).isoformat())
    assert running.types("in-time", "too-late") == ["card.created", "stale_command"]


def test_sweeps_use_the_clock_of_the_database(running: System) -> None:
    running.create("due", expires_at=(now() + SOON).isoformat())
    running.create("not-due", expires_at=(now() + LATER).isoformat())
    running.answers("due", "not-due")
    lasts_s = {"pending": True, "hold_expires_in": OFF_S // 2}
    assert pay(running, "hold", card_id="not-due", **lasts_s) == "hold.placed"
    reached(now() + SOON)
    for sweep in ("sweeps.expire_holds", "sweeps.expire_cards"):
        running.client.publish(sweep, {})
    until(lambda: running.events_of("card.expired"), "the end of the card that is due")
    running.catches_up("cards.system")
    (expired,) = running.events_of("card.expired")
    assert expired["data"]["card_id"] == "due"
    assert running.events_of("hold.expired") == []


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
    beat = own.parts.run(*arguments, name="beat", env=None, SWEEP_INTERVAL_S="0.5")
    for seconds in (-3600, 0, 3600, 0):
        beat.says("sweep requested")
        step_to(seconds)
        requested = beat.said.count("sweep requested")
        # Several of each of the four sweeps: what was due before the step is not enough.
        beat.says("sweep requested", times=requested + 12)
        said = datetime.fromisoformat(beat.said.splitlines()[-1].split()[0])
        assert abs(said - datetime.now(UTC) - timedelta(seconds=seconds)) < timedelta(seconds=60)
