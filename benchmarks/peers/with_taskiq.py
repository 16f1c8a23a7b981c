"""Taskiq on a Redis stream, which acknowledges after the work; SQLAlchemy's ORM, asynchronous."""

import asyncio
import os
from collections.abc import Sequence
from typing import Any

from sqlalchemy.ext.asyncio import async_sessionmaker, create_async_engine
from taskiq_redis import RedisStreamBroker

from benchmarks.peers import orm
from benchmarks.peers.counting import count

TASKS_AT_ONCE_MAX = 4
SENT_AT_ONCE = 100

engine = create_async_engine(os.environ["BENCH_DATABASE_URL"], pool_size=TASKS_AT_ONCE_MAX)
sessions = async_sessionmaker(engine)

# Workers stand still for longer than the usual 5 s while their queue is filled.
broker = RedisStreamBroker(os.environ["BENCH_BROKER_URL"], socket_timeout=60)


@broker.task("activate")
async def activate(command: dict[str, Any]) -> None:
    async with sessions() as session:
        await session.run_sync(orm.activate, command)


@broker.task("nothing")
async def nothing(command: dict[str, Any]) -> None:
    count()


def send(task: str, commands: Sequence[dict[str, Any]]) -> None:
    asyncio.run(_send({"activate": activate, "nothing": nothing}[task], commands))


async def _send(task: Any, commands: Sequence[dict[str, Any]]) -> None:
    await broker.startup()
    for start in range(0, len(commands), SENT_AT_ONCE):
        together = commands[start : start + SENT_AT_ONCE]
        await asyncio.gather(*(task.kiq(command) for command in together))
    await broker.shutdown()
