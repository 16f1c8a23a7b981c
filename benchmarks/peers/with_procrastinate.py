"""Procrastinate, whose queue is PostgreSQL itself; SQLAlchemy's ORM, in threads."""

import asyncio
import os
from collections.abc import Sequence
from typing import Any

from procrastinate import App, PsycopgConnector
from sqlalchemy import create_engine
from sqlalchemy.orm import sessionmaker

from benchmarks.peers import orm
from benchmarks.peers.counting import count

TASKS_AT_ONCE_MAX = 8
SENT_AT_ONCE = 1_000

engine = create_engine(os.environ["BENCH_DATABASE_URL"], pool_size=TASKS_AT_ONCE_MAX)
sessions = sessionmaker(engine)

connector = PsycopgConnector(conninfo=os.environ["BENCH_DATABASE_URL"], max_size=TASKS_AT_ONCE_MAX)
app = App(connector=connector)


@app.task(name="activate")
def activate(**command: Any) -> None:
    with sessions() as session:
        orm.activate(session, command)


@app.task(name="nothing")
async def nothing(**command: Any) -> None:
    count()


def send(task: str, commands: Sequence[dict[str, Any]]) -> None:
    asyncio.run(_send(task, commands))


async def _send(task: str, commands: Sequence[dict[str, Any]]) -> None:
    async with app.open_async():
        for start in range(0, len(commands), SENT_AT_ONCE):
            await app.tasks[task].batch_defer_async(*commands[start : start + SENT_AT_ONCE])
