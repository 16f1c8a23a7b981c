"""Connections to the broker whose URL has the scheme of the setting.

Monitors such as Flower read the kind of the broker from it. Kombu writes the name of the transport.
"""

from typing import Any
from urllib.parse import quote, unquote, urlsplit

import kombu.connection
from celery.app import amqp

from card_worker.redis_url import SOCKET_TRANSPORT


class Connection(kombu.connection.Connection):
    """Kombu's connection; `as_uri` begins with redis://, rediss:// or redis+socket://."""

    def as_uri(self, include_password: Any = False, mask: Any = "**", getfields: Any = None) -> str:
        uri = super().as_uri(include_password, mask)
        if self.uri_prefix != SOCKET_TRANSPORT:
            return f"{'rediss' if self.ssl else 'redis'}://{uri.partition('://')[2]}"
        parts = urlsplit(str(self.hostname))
        if parts.query != "virtual_host=0" or self.userid:
            # Flower refuses this. It would count in database 0, as the default user.
            return uri
        password = quote(self.password or "", safe="") if include_password else mask
        login = f":{password}@" if self.password else ""
        return f"redis+socket://{login}{unquote(parts.path)}"


class AMQP(amqp.AMQP):  # type: ignore[misc]  # Celery has no types
    """Celery's AMQP with these connections."""

    Connection = Connection
