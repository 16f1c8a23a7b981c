"""Dramatiq on Redis, which acknowledges after the work; SQLAlchemy's ORM."""

import os
from collections.abc import Sequence
from typing import Any

import dramatiq
from dramatiq.brokers.redis import RedisBroker
from sqlalchemy import create_engine
from sqlalchemy.orm import sessionmaker

from benchmarks.peers import orm
from benchmarks.peers.counting import count

THREADS_MAX = 2

engine = create_engine(os.environ["BENCH_DATABASE_URL"], pool_size=THREADS_MAX)
sessions = sessionmaker(engine)

broker = RedisBroker(url=os.environ["BENCH_BROKER_URL"])
dramatiq.set_broker(broker)


@dramatiq.actor
def activate(**command: Any) -> None:
    with sessions() as session:
        orm.activate(session, command)


@dramatiq.actor
def nothing(**command: Any) -> None:
    count()


def send(task: str, commands: Sequence[dict[str, Any]]) -> None:
    actor = broker.get_actor(task)
    for command in commands:
        actor.send(**command)
