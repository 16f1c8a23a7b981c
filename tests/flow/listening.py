"""Celery's settings with listeners that write each signal of a task onto a Redis list."""

from functools import partial
from typing import Any

from celery import signals
from redis import Redis
from sqlalchemy import func, select

from card_worker.celery_settings import *  # noqa: F403
from card_worker.contracts.json_text import write_json
from card_worker.settings import load_settings
from card_worker.storage.engine import open_engine, reading
from card_worker.storage.tables import outbox

_settings = load_settings()
_redis = Redis(**_settings.broker().redis_options)
_engine = open_engine(_settings.database())


def _hear(name: str, sender: Any, **given: Any) -> None:
    with reading(_engine) as connection:
        events = connection.scalar(select(func.count()).select_from(outbox))
    shown = {key: value for key, value in given.items() if key in ("kwargs", "result", "state")}
    shown |= {key: str(given[key]) for key in ("exception", "einfo") if key in given}
    heard = {"signal": name, "task": sender.name, "id": sender.request.id, "events": events}
    _redis.rpush("heard", write_json(heard | shown))
    if name == "task_prerun":
        raise ValueError("a listener that fails")


for _name in ("task_prerun", "task_success", "task_failure", "task_postrun"):
    getattr(signals, _name).connect(partial(_hear, _name), weak=False)
