"""The two transports that are killed beside each other, and where each keeps what it has taken."""

import json
from typing import Any, Protocol

from kombu.connection import Connection

from tests.flow.processes import until
from tests.flow.system import System

BACK_S = 180.0
"""The living return what the dead held within 30 s, on a machine that is not busy."""


class Transport(Protocol):
    """How a worker comes to its messages."""

    name: str

    def choose(self, system: System) -> None:
        """Let the workers that `system` starts from now on use it."""

    def held(self, system: System) -> int:
        """Return how many messages workers have taken and not acknowledged."""

    def give_back(self, system: System) -> None:
        """Return when what dead workers held is on its queue again."""


class Ours:
    """card_worker's own."""

    name = "card_worker"

    def choose(self, system: System) -> None:
        """Do nothing: it is the default."""

    def held(self, system: System) -> int:
        return system.held()

    def give_back(self, system: System) -> None:
        """Wait: the living do it."""
        until(lambda: system.held() == 0, "the return of what the dead held", within_s=BACK_S)


class Stock:
    """The one that Celery brings along. All else is the same, late acknowledgement too."""

    name = "stock"

    def choose(self, system: System) -> None:
        system.parts.settings["CELERY_CONFIG_MODULE"] = "stock_settings"
        # Celery looks for it in the folder that a worker is started from.
        (system.parts.folder / "cwd").mkdir(exist_ok=True)
        (system.parts.folder / "cwd" / "stock_settings.py").write_text(
            "from card_worker.celery_settings import *\n"
            "broker_transport = 'redis'\n"
            "del broker_transport_options['messages_max'], broker_transport_options['strict']\n"
        )

    def held(self, system: System) -> int:
        return int(str(system.redis.hlen("unacked")))

    def give_back(self, system: System) -> None:
        """Do by hand what it does itself after an hour."""
        tags: Any = system.redis.hkeys("unacked")
        with Connection(system.broker_url) as connection:
            for tag in tags:
                connection.default_channel.qos.restore_by_tag(tag)
        assert self.held(system) == 0, json.dumps(tags)
