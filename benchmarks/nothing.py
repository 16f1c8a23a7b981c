"""An application of card_worker's transport and groups that does nothing, but for being counted.

celery -A benchmarks.nothing worker
"""

import os
from collections.abc import Sequence
from typing import Any

from celery import Celery
from kombu.message import Message as KombuMessage

from benchmarks.peers.counting import count
from card_worker.storage.contention import Row
from card_worker.worker import grouping
from card_worker.worker.messages import Answered, Failed, Message, Outcome, QueryAnswered

TASK = QUEUE = "nothing"
GROUP_MAX = 500  # as card_worker's own

app = Celery("nothing", broker=os.environ["BENCH_BROKER_URL"], set_as_current=False)
app.conf.update(
    broker_transport="card_worker.transport:Transport",
    broker_transport_options={"messages_max": GROUP_MAX},
    task_acks_late=True,
    task_default_queue=QUEUE,
    worker_pool="solo",
    worker_consumer="benchmarks.nothing:Consumer",
    worker_prefetch_multiplier=GROUP_MAX,
)


@app.task(name=TASK)
def nothing(**_: Any) -> None:
    """Stand for the name; the group is what runs."""


def deliver(messages: Sequence[Message], locked: frozenset[Row] = frozenset()) -> list[Outcome]:
    """Be done with a group at once."""
    count(len(messages))
    return [Answered(())] * len(messages)


class Consumer(grouping.Consumer):
    """Gives each group to `deliver`, and has no place for what can't be read."""

    tasks = frozenset([TASK])
    group_max = GROUP_MAX
    group_wait_s = 0.0
    deliver = staticmethod(deliver)

    def dead_letter(self, failed: Sequence[tuple[KombuMessage, Failed]]) -> bool:
        raise ValueError(failed[0][1].explanation)

    def result(self, message: Message, outcome: Answered | QueryAnswered) -> Any:
        return None
