"""How fast commands get onto the queue: our client, and a plain Celery application."""

import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from celery import Celery

from benchmarks.commands import command
from benchmarks.filling import Numbers
from benchmarks.programs import Failed
from benchmarks.results import Result, compare
from benchmarks.rounds import Size, Speed, interleaved
from benchmarks.stage import Place, Stage
from card_worker.client import Client
from card_worker.contracts.cards import ActivateCard
from card_worker.contracts.commands import COMMANDS_PER_MESSAGE_MAX, Queue

COMMANDS = 5_000

Commands = Sequence[ActivateCard]
Sender = Callable[[Place, Numbers], float]
"""Puts commands on the queue; returns the seconds that took."""


def run(stage: Stage, size: Size) -> list[Result]:
    """Compare commands per second. There is no target."""
    numbers = range(size.of(COMMANDS))
    with stage.place() as place:
        play = {name: partial(_turn, place, numbers, send) for name, send in SENDERS.items()}
        speed = interleaved(play, size.rounds)
    plain = speed.pop(PLAIN)
    return [
        compare(f"publishing, {name} / {PLAIN}", ours, plain, "commands/s")
        for name, ours in speed.items()
    ]


def _turn(place: Place, numbers: Numbers, send: Sender) -> Speed:
    place.clear()
    return Speed(len(numbers) / send(place, numbers))


def _send_one_at_a_time(place: Place, numbers: Numbers) -> float:
    def send(client: Client, commands: Commands) -> None:
        for one in commands:
            client.send(one)

    seconds = _send(place, numbers, send)
    _verify(place, Queue.CARDS, len(numbers))
    return seconds


def _send_together(place: Place, numbers: Numbers) -> float:
    seconds = _send(place, numbers, Client.send)
    _verify(place, Queue.CARDS, len(numbers))
    return seconds


def _send_in_lists(place: Place, numbers: Numbers) -> float:
    seconds = _send(place, numbers, Client.send_list)
    _verify(place, Queue.BULK, -(-len(numbers) // COMMANDS_PER_MESSAGE_MAX))
    return seconds


def _send(place: Place, numbers: Numbers, send: Callable[[Client, Commands], object]) -> float:
    commands = [ActivateCard.model_validate(command(number)) for number in numbers]
    with Client(place.broker_url) as client:
        started = time.perf_counter()
        send(client, commands)
        return time.perf_counter() - started


def _send_plainly(place: Place, numbers: Numbers) -> float:
    with Celery(broker=place.broker_url, set_as_current=False) as app:
        task = app.task(ignore_result=True)(_plain)
        started = time.perf_counter()
        for number in numbers:
            task.apply_async(kwargs=command(number))
        seconds = time.perf_counter() - started
    _verify(place, "celery", len(numbers))
    return seconds


def _plain(**_: Any) -> None:
    """Stand for a task; nobody runs it."""


def _verify(place: Place, queue: str, messages: int) -> None:
    if (waiting := place.redis.llen(queue)) != messages:
        raise Failed(f"{waiting} of {messages} messages are on {queue}")


PLAIN = "plain Celery's apply_async"
SENDERS: dict[str, Sender] = {
    "Client.send, one at a time": _send_one_at_a_time,
    PLAIN: _send_plainly,
    "Client.send, many at a time": _send_together,
    "Client.send_list": _send_in_lists,
}
