"""The refusal of a token: a wrong PIN, a blocked and an inactive card beside an unknown token."""

import logging
import statistics
import time
from collections import defaultdict
from typing import Any

from sqlalchemy import Engine

from benchmarks.commands import ACCOUNT
from benchmarks.programs import Failed
from benchmarks.results import Result, compare
from benchmarks.rounds import Size, say
from benchmarks.stage import Stage
from card_worker.contracts.commands import Queue
from card_worker.contracts.enums import Reason
from card_worker.contracts.message import UnreadableItem, read_commands
from card_worker.handler import handle
from card_worker.storage.engine import begin, open_engine
from card_worker.telemetry import configure_logs
from card_worker.worker.delivery import Delivery
from card_worker.worker.messages import Answered, Message, QueryAnswered
from tests.codes import SEAL_TO, VAULT, WRONG_PIN, plain_issuer

TRIES = 250
"""Of each kind in a round."""
UNKNOWN = "unknown token"
KINDS = ("wrong PIN", "blocked card", "inactive card", UNKNOWN)
TASKS = ("transactions.create", "cards.get")
CODES: dict[str, Any] = {"card_token": {}, "pin": {}}


def run(stage: Stage, size: Size) -> list[Result]:
    """Compare the medians of each round with those of unknown tokens."""
    configure_logs(as_json=False, level=logging.WARNING)
    tries, medians = size.of(TRIES), defaultdict[tuple[str, str], list[float]](list)
    with stage.place() as place:
        engine = open_engine(place.database_url)
        delivery = Delivery(engine, lambda: False, vault=VAULT)
        for number in range(1, size.rounds + 1):
            # New cards, because the fifth wrong PIN locks a PIN.
            names = {kind: [f"{kind} {number}-{at}" for at in range(tries)] for kind in KINDS}
            _make_cards(engine, names, number)
            place.settle()
            for task in TASKS:
                for kind, took in _round(delivery, task, names).items():
                    medians[task, kind].append(statistics.median(took))
            say(f"  round {number} of {size.rounds}")
        engine.dispose()
    return [
        compare(f"{task} refused, {kind} / {UNKNOWN}", ours, medians[task, UNKNOWN], "ms")
        for (task, kind), ours in medians.items()
        if kind != UNKNOWN
    ]


def _make_cards(engine: Engine, names: dict[str, list[str]], number: int) -> None:
    """Make the cards of each kind for a round. The token of each is its card_id."""
    loaded = [*names["wrong PIN"], *names["blocked card"]]
    made = {"amount": 1, "currency": "NOK", **CODES, **SEAL_TO}
    why = {"reason": "lost"}
    listed = [{"card_id": name} for name in names["inactive card"]]
    asked: list[tuple[str, dict[str, Any]]] = [
        *(("cards.create", {"card_id": name, **made}) for name in loaded),
        *(("cards.block", {"card_id": name, **why}) for name in names["blocked card"]),
        ("cards.batch_create", {"cards": listed, "options": CODES, **SEAL_TO}),
    ]
    issuer = plain_issuer(VAULT, *loaded, *names["inactive card"])
    commands = [
        command
        for at, (task, fields) in enumerate(asked)
        for command in read_commands(
            task, f"{number}-{at}", {"account_id": ACCOUNT, **fields}, VAULT
        )
        if not isinstance(command, UnreadableItem)
    ]
    with begin(engine) as (connection, now):
        answers = handle(connection, commands, now, issuer)
    if any(answer.reason for answer in answers):
        raise Failed("the cards could not be made")


def _round(delivery: Delivery, task: str, names: dict[str, list[str]]) -> dict[str, list[float]]:
    """Return the milliseconds of each try, by kind."""
    took = defaultdict[str, list[float]](list)
    for at in range(len(names[UNKNOWN])):
        for kind in KINDS if at % 2 else reversed(KINDS):
            token = names[kind][at]
            id = f"{task} {token}"
            kwargs: dict[str, Any] = {"account_id": ACCOUNT, "token": token, "pin": WRONG_PIN}
            if task == "transactions.create":
                kwargs |= {"amount": 1, "currency": "NOK", "ref_id": id}
            message = Message(task=task, id=id, queue=Queue.CARDS, kwargs=kwargs, body=b"")
            started = time.perf_counter()
            (outcome,) = delivery.deliver([message])
            took[kind].append((time.perf_counter() - started) * 1_000)
            if _reason(outcome) is not Reason.CARD_NOT_USABLE:
                raise Failed(f"{kind}: {outcome}")
    return took


def _reason(outcome: object) -> Reason | None:
    match outcome:
        case QueryAnswered(result=result):
            return Reason(result["reason"])
        case Answered(answers=(answer,)):
            return answer.reason
    return None
