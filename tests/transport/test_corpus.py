"""No bytes on a queue stop a worker, hold it up, or go without a trace."""

import random
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from redis import Redis

from tests import servers
from tests.flow.system import System, system
from tests.servers import Server
from tests.transport.corpus import CORPUS, KINDS, LEGAL
from tests.transport.entries import Entry, Fate, done, message
from tests.transport.envelopes import too_large_for_a_storm
from tests.transport.harness import Harness, Outcome, answers_to, unmatched

SEED = 20261123
STORM_S = 180.0
MEMORY_MAX = 200_000_000
"""Bytes that a worker may have had after an entry of 20 MB. An idle one has half of it."""
NAME_CHARS_MAX = 60
PREFORK = ("--pool", "processes", "--concurrency", "2")


@pytest.fixture(scope="module")
def shared(
    tmp_path_factory: pytest.TempPathFactory,
    postgres_server: Server,
    postgres_template: str,
    broker_urls: Iterator[str],
) -> Iterator[System]:
    """A system that the tests of this module share; no part of it runs yet."""
    broker_url = next(broker_urls)
    with Redis.from_url(broker_url) as client:
        client.flushdb()
    with servers.database(postgres_server, template=postgres_template) as url:
        folder = tmp_path_factory.mktemp("corpus")
        with system(folder, database_url=url, broker_url=broker_url) as made:
            yield made


@pytest.fixture
def own(tmp_path: Path, postgres_url: str, broker_url: str) -> Iterator[System]:
    """A system of the test's own; no part of it runs yet."""
    with system(tmp_path, database_url=postgres_url, broker_url=broker_url) as made:
        yield made


@pytest.fixture(scope="module")
def harness(shared: System) -> Harness:
    return Harness(shared)


@pytest.fixture(scope="module")
def outcomes(harness: Harness) -> dict[str, Outcome]:
    """What became of each entry, shown alone."""
    return {name: harness.show(entry) for name, entry in (CORPUS | LEGAL).items()}


def test_the_entries_are_many_and_no_two_are_one() -> None:
    assert len({entry.write() for entry in CORPUS.values()}) == len(CORPUS) >= 200
    assert len({entry.name for entry in CORPUS.values()}) == len(CORPUS)
    assert max(len(entry.name) for entry in CORPUS.values()) <= NAME_CHARS_MAX
    assert Counter(name.split(": ")[0] for name in CORPUS).keys() == KINDS.keys()


@pytest.mark.parametrize("name", CORPUS)
def test_an_entry_alone_comes_to_its_fate(name: str, outcomes: dict[str, Outcome]) -> None:
    outcome = outcomes[name]
    assert outcome.fate == CORPUS[name].fate, outcome.told


def test_one_worker_outlives_all_entries(outcomes: dict[str, Outcome]) -> None:
    assert len({outcomes[name].worker_pid for name in CORPUS}) == 1


@pytest.mark.parametrize("name", LEGAL)
def test_what_only_looks_odd_is_done(name: str, outcomes: dict[str, Outcome]) -> None:
    outcome = outcomes[name]
    assert outcome.fate == Fate.DONE, outcome.told


def test_100_mb_are_a_letter_too(harness: Harness, outcomes: dict[str, Outcome]) -> None:
    pid = harness.worker.pid
    outcome = harness.show(too_large_for_a_storm())
    assert outcome.fate == Fate.LETTER, outcome.told
    assert harness.worker.pid == pid


@pytest.mark.skipif(sys.platform != "linux", reason="asks Linux for the memory")
def test_what_is_too_large_is_no_burden(own: System) -> None:
    harness = Harness(own)
    outcome = harness.show(CORPUS["large: 20 MB of objects"])
    assert outcome.fate == Fate.LETTER, outcome.told
    assert harness.memory_max < MEMORY_MAX


@pytest.mark.parametrize("pool", [(), PREFORK], ids=["solo", "prefork"])
def test_a_storm_of_entries_harms_no_neighbour(pool: tuple[str, ...], own: System) -> None:
    chance = random.Random(SEED)
    good = [done(f"good {number}", message(f"good {number}")) for number in range(300)]
    storm = [*CORPUS.values(), *good]
    chance.shuffle(storm)
    for entry in storm[::2]:
        own.push(entry.write(), chance.choice(["cards", "cards.bulk"]))
    harness = Harness(own, *pool)
    pid = harness.worker.pid
    for entry in storm[1::2]:
        own.push(entry.write(), chance.choice(["cards", "cards.bulk"]))

    assert harness.settles(within_s=STORM_S), harness.worker.tail
    assert harness.worker.runs
    assert (harness.worker.pid, harness.worker.said.count("ready.")) == (pid, 1)
    assert unmatched(_of(Fate.LETTER), harness.letters()) == ([], [])
    told = harness.answers()
    rejections = [event for event in told if event["type"] == "command.rejected"]
    assert len(rejections) == len(_of(Fate.REJECTED))
    for entry in _of(Fate.REJECTED):
        assert sum(answers_to(entry, event) for event in rejections) == 1, entry.name
    made = Counter(event["correlationid"] for event in told if event["type"] == "card.created")
    assert {entry.name: made[entry.name] for entry in good} == {entry.name: 1 for entry in good}
    assert harness.worker.stop() == 0


def _of(fate: Fate) -> list[Entry]:
    return [entry for entry in CORPUS.values() if entry.fate == fate]


# --- what a letter says -----------------------------------------------------------------------


def test_a_letter_says_on_which_queue_its_message_lay(harness: Harness) -> None:
    harness.letters()
    for claimed in ("cards", "nowhere"):
        name = f"a letter of {claimed}"
        raw = message(name, b"[" + name.encode(), delivery_info={"routing_key": claimed})
        harness.system.push(raw, "cards.bulk")
    assert harness.settles(within_s=STORM_S)
    assert [one.queue for one in harness.letters()] == ["cards.bulk", "cards.bulk"]


def test_messages_that_differ_in_their_headers_alone_are_two_letters(harness: Harness) -> None:
    harness.letters()
    for note in ("today", "tomorrow"):
        harness.system.push(message("one body", task="cards.explode", headers={"note": note}))
        assert harness.settles(within_s=STORM_S)
    assert [one.headers["note"] for one in harness.letters()] == ["today", "tomorrow"]
