"""Gift cards on Celery: commands in, one answer each, and books that add up."""

from typing import Any


def __getattr__(name: str) -> Any:
    # What `celery -A card_worker` looks for. Only then: a producer that imports
    # card_worker.client needs neither settings nor a database.
    if name == "app":
        from card_worker.worker.tasks import app  # noqa: PLC0415

        return app
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
