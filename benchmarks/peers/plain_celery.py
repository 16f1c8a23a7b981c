"""Plain Celery on its stock Redis transport: one message, one task, one commit; ORM and Core."""

import os
from collections.abc import Sequence
from typing import Any

from celery import Celery
from sqlalchemy import create_engine
from sqlalchemy.orm import sessionmaker

from benchmarks.peers import core, orm
from benchmarks.peers.counting import count

# Nothing connects before the pool has forked.
engine = create_engine(os.environ["BENCH_DATABASE_URL"])
sessions = sessionmaker(engine)

app = Celery("plain", broker=os.environ["BENCH_BROKER_URL"])
app.conf.update(
    task_acks_late=True,
    task_ignore_result=True,
    worker_prefetch_multiplier=64,  # 4, 64 and 256 were tried
)


@app.task
def activate_orm(**command: Any) -> None:
    with sessions() as session:
        orm.activate(session, command)


@app.task
def activate_core(**command: Any) -> None:
    core.activate(engine, command)


@app.task
def nothing(**command: Any) -> None:
    count()


def send(task: str, commands: Sequence[dict[str, Any]]) -> None:
    with app.producer_or_acquire() as producer:
        for command in commands:
            app.tasks[f"{__name__}.{task}"].apply_async(kwargs=command, producer=producer)
