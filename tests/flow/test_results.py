"""Results for producers that want them: a result that fails does not affect others."""

from collections.abc import Iterator
from typing import Any

import pytest
from celery import Celery, states
from redis import Redis

from card_worker.embedded.valkey import Valkey
from card_worker.worker.results import Result, Results


@pytest.fixture
def backend(broker_url: str) -> Iterator[Any]:
    with Celery(backend=broker_url, set_as_current=False) as app:
        yield app.backend
        app.backend.result_consumer.stop()
        app.backend.client.connection_pool.disconnect()


def result(message_id: str, value: object = None) -> Result:
    return Result(message_id, "cards.create", states.SUCCESS, value)


def stored(backend: Any, *message_ids: str) -> list[str]:
    """Return which of these messages have a result."""
    return [id for id in message_ids if backend.get_task_meta(id)["status"] == states.SUCCESS]


def test_an_unwritable_result_does_not_prevent_others(backend: Any) -> None:
    results = Results(backend)
    results.store([result("first"), result("bad", object()), result("last")])
    results.store([result("later")])
    assert stored(backend, "first", "bad", "last", "later") == ["first", "last", "later"]


@pytest.mark.parametrize("together", [True, False])
def test_a_refused_result_does_not_prevent_others(own_broker: Valkey, *, together: bool) -> None:
    with Redis.from_url(own_broker.url) as admin:
        # It may write all keys but one.
        admin.acl_setuser(
            "worker",
            enabled=True,
            nopass=True,
            categories=["+@all"],
            channels=["*"],
            keys=["celery-task-meta-[a-z]*"],
        )
        url = own_broker.url.replace("//", "//worker:any@", 1)
        with Celery(backend=url, set_as_current=False) as app:
            results, names = Results(app.backend), ["first", "1-refused", "last"]
            if together:
                results.store([result(name) for name in names])
            else:
                for name in names:
                    results.store([result(name)])
            written = {key.decode() for key in admin.keys("celery-task-meta-*")}
            app.backend.client.connection_pool.disconnect()
    assert written == {"celery-task-meta-first", "celery-task-meta-last"}
