"""A lone message at 50 a second: from before it is published until its answer is on the stream."""

import json
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from threading import Thread
from typing import Any, cast

from celery import Celery

from benchmarks.commands import command
from benchmarks.contestants import OURS, PLAIN_ORM, Contestant
from benchmarks.results import Result, compare
from benchmarks.rounds import Size, interleaved
from benchmarks.stage import STREAM, Place, Stage
from benchmarks.turns import Team, team, verify, warm_up
from card_worker.contracts.commands import Queue

MESSAGES = 1_500
PER_S = 50
READ_BLOCK_MS = 200

# Both speak Celery's protocol: task and queue.
ADDRESSES = {
    OURS.name: ("cards.activate", Queue.CARDS),
    PLAIN_ORM.name: ("benchmarks.peers.plain_celery.activate_orm", "celery"),
}


class Latencies(list[float]):
    """Milliseconds, one for each message."""

    @property
    def p50(self) -> float:
        return statistics.median(self)

    @property
    def p99(self) -> float:
        return statistics.quantiles(self, n=100)[98]

    def __str__(self) -> str:
        return f"p50 {self.p50:.1f} ms, p99 {self.p99:.1f} ms"


def run(stage: Stage, size: Size) -> list[Result]:
    """Compare the medians of rounds, and the 99th percentiles of all messages together."""
    messages = size.of(MESSAGES)
    play = {one.name: partial(_turn, stage, one, messages) for one in (OURS, PLAIN_ORM)}
    turns = interleaved(play, size.rounds)
    ours, plain = turns[OURS.name], turns[PLAIN_ORM.name]
    return [
        compare(
            "lone message, p50 / plain ORM",
            [turn.p50 for turn in ours],
            [turn.p50 for turn in plain],
            "ms",
            at_most=0.8,
        ),
        compare(
            "lone message, p99 / plain ORM",
            [turn.p99 for turn in ours],
            [turn.p99 for turn in plain],
            "ms",
            at_most=1.0,
            pooled=(_together(ours).p99, _together(plain).p99),
        ),
    ]


def _together(turns: Sequence[Latencies]) -> Latencies:
    return Latencies(latency for turn in turns for latency in turn)


def _turn(stage: Stage, contestant: Contestant, messages: int) -> Latencies:
    numbers = range(contestant.warm_up + messages)
    with stage.place(cards=len(numbers)) as place:
        before = place.done()
        with team(place, contestant) as members:
            warm_up(place, contestant, members, numbers[: contestant.warm_up], place.answers)
            place.settle()
            latencies = _measure(place, contestant, members, numbers[contestant.warm_up :])
            expected = {name: rows + len(numbers) for name, rows in before.items()}
            verify(place, contestant, expected)
    return latencies


def _measure(place: Place, contestant: Contestant, members: Team, numbers: range) -> Latencies:
    return latencies_of(place, members.wait, numbers, ADDRESSES[contestant.name])


def latencies_of(
    place: Place,
    wait: Callable[[Callable[[], bool]], None],
    numbers: range,
    address: tuple[str, str] = ADDRESSES[OURS.name],
) -> Latencies:
    """Send these commands, PER_S a second; `wait` returns when something is so."""
    task, queue = address
    sent = dict[str, float]()
    with (
        _reading(place) as seen,
        Celery(broker=place.broker_url, set_as_current=False) as app,
        app.producer_or_acquire() as producer,
    ):
        started = time.perf_counter()
        for turn, number in enumerate(numbers):
            # By the clock and not after the one before: who is slow isn't asked less often.
            time.sleep(max(0.0, started + turn / PER_S - time.perf_counter()))
            fields = command(number)
            sent[fields["command_id"]] = time.perf_counter()
            app.send_task(task, queue=queue, kwargs=fields, producer=producer)
        wait(lambda: sent.keys() <= seen.keys())
    return Latencies((seen[id] - at) * 1_000 for id, at in sent.items())


@contextmanager
def _reading(place: Place) -> Iterator[dict[str, float]]:
    """Give when each answer that comes was on the stream, by command_id."""
    seen = dict[str, float]()
    newest = cast(list[Any], place.redis.xrevrange(STREAM, count=1))
    last = newest[0][0] if newest else "0-0"
    stopped = False

    def read() -> None:
        nonlocal last
        while not stopped:
            read: Any = place.redis.xread({STREAM: last}, block=READ_BLOCK_MS)
            now = time.perf_counter()
            for entry, values in read[0][1] if read else ():
                last = entry
                seen[json.loads(values[b"event"])["correlationid"]] = now

    thread = Thread(target=read, daemon=True)
    thread.start()
    try:
        yield seen
    finally:
        stopped = True
        thread.join()
