"""Leases, judged by the monotonic clock of each process."""

import pytest
from sqlalchemy import Engine

from card_worker.storage import leases
from card_worker.storage.engine import begin
from card_worker.storage.leases import ABANDONED_S, Seen


class Candidate:
    """A process that wants a lease. Its clock has nothing to do with those of others."""

    def __init__(self, engine: Engine, name: str, *, now: float = 0.0) -> None:
        self.engine, self.name, self.now = engine, name, now
        self.seen: Seen = {}

    def takes(self, *, after_s: float = 0.0) -> bool:
        self.now += after_s
        with begin(self.engine) as (connection, _):
            return leases.take(connection, "work", self.name, at=self.now, seen=self.seen)


@pytest.fixture
def holder(engine: Engine) -> Candidate:
    holder = Candidate(engine, "holder", now=1_000_000.0)
    assert holder.takes()
    return holder


@pytest.fixture
def other(engine: Engine, holder: Candidate) -> Candidate:
    return Candidate(engine, "other")


def test_a_holder_that_renews_keeps_the_lease(holder: Candidate, other: Candidate) -> None:
    for _ in range(100):
        assert not other.takes(after_s=ABANDONED_S - 1)
        assert holder.takes(after_s=1)


def test_an_abandoned_lease_is_taken(holder: Candidate, other: Candidate) -> None:
    assert not other.takes()
    assert not other.takes(after_s=ABANDONED_S - 0.01)
    assert other.takes(after_s=0.01)
    assert not holder.takes()


def test_a_lease_is_not_taken_at_the_first_attempt(engine: Engine, holder: Candidate) -> None:
    assert not Candidate(engine, "other", now=1e9).takes()


def test_a_renewal_at_the_last_moment_keeps_the_lease(holder: Candidate, other: Candidate) -> None:
    assert not other.takes()
    other.now += ABANDONED_S
    assert holder.takes()
    assert not other.takes()
    assert not other.takes(after_s=ABANDONED_S - 0.01)


def test_one_of_two_processes_takes_an_abandoned_lease(
    engine: Engine, holder: Candidate, other: Candidate
) -> None:
    third = Candidate(engine, "third", now=5.0)
    assert not other.takes()
    assert not third.takes()
    assert [other.takes(after_s=ABANDONED_S), third.takes(after_s=ABANDONED_S)] == [True, False]


def test_a_released_lease_is_free_at_once(
    engine: Engine, holder: Candidate, other: Candidate
) -> None:
    assert not other.takes()
    with begin(engine) as (connection, _):
        leases.release(connection, "work", "holder")
    assert other.takes()


def test_only_the_holder_releases_a_lease(
    engine: Engine, holder: Candidate, other: Candidate
) -> None:
    with begin(engine) as (connection, _):
        leases.release(connection, "work", "other")
    assert not other.takes()
    assert holder.takes()
