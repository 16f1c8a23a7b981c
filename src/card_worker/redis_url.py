"""Reads the URL of a Redis server once, and gives each library what it needs to connect.

redis-py, kombu and Celery's result backend read the same URL in different ways. So none of them
gets the URL of the user: redis-py gets arguments; kombu and Celery get a URL of their own dialect,
and user, password and TLS options as separate settings.
"""

import re
from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass, field
from ipaddress import IPv6Address
from typing import Any
from urllib.parse import quote, unquote

SOCKET_TRANSPORT = "card-worker"
"""The name of our transport in `card-worker+socket:///path`.

With `redis+socket://` kombu uses its own transport, whatever `broker_transport` says.
"""

_TLS_OPTIONS = (
    *("ssl_cert_reqs", "ssl_ca_certs", "ssl_certfile", "ssl_keyfile"),
    "ssl_check_hostname",
)
_OPTIONS = {
    "redis": ("db",),
    "rediss": ("db", *_TLS_OPTIONS),
    "unix": ("db", "virtual_host"),
    "redis+socket": ("db", "virtual_host"),
}
"""The schemes, and the options that each accepts."""
_SOCKETS = ("unix", "redis+socket")

_CERT_REQS = {
    spelling: value
    for value in ("none", "optional", "required")
    for spelling in (value, f"CERT_{value.upper()}")
}
_BOOLEANS = {"true": True, "false": False}

# RFC 3986 without `:`, `@` and `/`, which separate the parts of a URL.
_CHARACTERS = r"(?:[A-Za-z0-9._~!$&'()*+,;=-]|%[0-9A-Fa-f]{2})"
_LOGIN = re.compile(f"({_CHARACTERS}*)(?::({_CHARACTERS}*))?")
_PATH = re.compile(f"(?:{_CHARACTERS}|[:@/])*")
_OPTION = re.compile(f"(?:{_CHARACTERS}|[:/])*")
_NAME = re.compile(r"[A-Za-z0-9._-]+")
_IPV6 = re.compile(r"\[[0-9A-Fa-f:.]+\]")
_PORT = re.compile(r"[0-9]{1,5}")
_NUMBER = re.compile(r"[0-9]{1,9}")

_ENCODE_LOGIN = (
    "percent-encode every character of user and password that is not a letter, a digit or one of"
    " -._~ (# is %23, / is %2F, ? is %3F, @ is %40, : is %3A)"
)
_ENCODE = (
    "percent-encode every character of a path or an option that is not a letter, a digit or one of"
    " -._~/"
)


@dataclass(frozen=True)
class Tls:
    """How the server is verified, and the client's certificate. Files are PEM files."""

    cert_reqs: str = "required"
    check_hostname: bool = True
    ca_certs: str | None = None
    certfile: str | None = None
    keyfile: str | None = None

    @classmethod
    def of(cls, options: Mapping[str, str]) -> "Tls":
        """Read the ssl_ options of a URL, decoded. Raises ValueError."""
        cert_reqs = _CERT_REQS.get(options.get("ssl_cert_reqs", "required"))
        if cert_reqs is None:
            raise ValueError(f"ssl_cert_reqs must be one of {', '.join(_CERT_REQS)}")
        check_hostname = _BOOLEANS.get(options.get("ssl_check_hostname", "true").lower())
        if check_hostname is None:
            raise ValueError("ssl_check_hostname must be true or false")
        files = {name: options.get(f"ssl_{name}") for name in ("ca_certs", "certfile", "keyfile")}
        if "" in files.values():
            raise ValueError("ssl_ca_certs, ssl_certfile and ssl_keyfile must name a file")
        if files["keyfile"] and not files["certfile"]:
            raise ValueError("ssl_keyfile needs ssl_certfile")
        return cls(cert_reqs, check_hostname, **files)


@dataclass(frozen=True)
class RedisAddress:
    """Where a Redis server is, and how to log in. Its repr and str do not show the password."""

    host: str = "localhost"
    port: int = 6379
    path: str | None = None
    """The Unix socket; host and port mean nothing then."""
    db: int = 0
    user: str | None = None
    password: str | None = field(default=None, repr=False)
    tls: Tls | None = None

    @classmethod
    def parse(cls, url: str) -> "RedisAddress":
        """Read `url`. Raises ValueError: one line that repeats no part of the URL."""
        scheme, separator, rest = url.partition("://")
        if not separator or scheme not in _OPTIONS:
            raise ValueError(f"must begin with {', '.join(f'{name}://' for name in _OPTIONS)}")
        if "#" in rest:
            raise ValueError(f"has an unencoded #: {_ENCODE_LOGIN}")
        if "%00" in rest:
            raise ValueError("has the character NUL (%00)")
        before, _, query = rest.partition("?")
        authority, slash, path = before.partition("/")
        login, _, place = authority.rpartition("@")
        if "@" in query:
            raise ValueError(f"has an unencoded ? or @: {_ENCODE_LOGIN}")
        user, password = _login(login)
        options = _options(query, _OPTIONS[scheme])
        if scheme in _SOCKETS:
            db = _database(options.get("db"), options.get("virtual_host"))
            return cls(path=_path(place, slash + path), db=db, user=user, password=password)
        if "@" in path:
            raise ValueError(f"has an unencoded / or @: {_ENCODE_LOGIN}")
        host, port = _host_and_port(place)
        db = _database(path or None, options.get("db"))
        tls = Tls.of(options) if scheme == "rediss" else None
        return cls(host=host, port=port, db=db, user=user, password=password, tls=tls)

    @property
    def broker_url(self) -> str:
        """Return Celery's `broker_url`; user, password and TLS options are other settings.

        It is redis:// also for TLS: `broker_use_ssl` is enough, and kombu logs a warning about
        rediss:// without options in the URL.
        """
        return self._url("redis", f"{SOCKET_TRANSPORT}+socket")

    @property
    def backend_url(self) -> str:
        """Return Celery's `result_backend`; user, password and TLS options are other settings."""
        return self._url("rediss" if self.tls else "redis", "redis+socket")

    def _url(self, tcp: str, socket: str) -> str:
        if self.path is not None:
            return f"{socket}://{quote(self.path)}?virtual_host={self.db}"
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{tcp}://{host}:{self.port}/{self.db}"

    @property
    def tls_options(self) -> dict[str, Any]:
        """Return TLS options as redis-py, kombu, Celery and Flower name them; none without TLS."""
        if self.tls is None:
            return {}
        options = asdict(self.tls).items()
        return {f"ssl_{name}": value for name, value in options if value is not None}

    @property
    def redis_options(self) -> dict[str, Any]:
        """Return the arguments of redis-py's `Redis`."""
        options = {"db": self.db, "username": self.user, "password": self.password}
        if self.path is not None:
            return {**options, "unix_socket_path": self.path}
        place = {"host": self.host, "port": self.port, "ssl": self.tls is not None}
        return {**options, **place, **self.tls_options}


def _login(text: str) -> tuple[str | None, str | None]:
    found = _LOGIN.fullmatch(text)
    if found is None:
        raise ValueError(_ENCODE_LOGIN)
    user, password = (_decoded(part) if part else None for part in found.groups())
    return user, password


def _path(place: str, path: str) -> str:
    if place:
        raise ValueError(f"a socket has no host, write :///path; or {_ENCODE_LOGIN}")
    if path in ("", "/"):
        raise ValueError("the path of the socket is missing")
    if not _PATH.fullmatch(path):
        raise ValueError(_ENCODE)
    return _decoded(path)


def _host_and_port(place: str) -> tuple[str, int]:
    end = place.find("]") + 1  # of an IPv6 address
    host, colon, port = place[end:].partition(":")
    if colon and not (_PORT.fullmatch(port) and 1 <= int(port) <= 65535):
        raise ValueError("the port must be a number from 1 to 65535, and an IPv6 address in [ ]")
    return _host(place[:end] + host), int(port) if colon else RedisAddress.port


def _host(host: str) -> str:
    if not host:
        return RedisAddress.host
    if _NAME.fullmatch(host):
        return host.lower()
    try:
        return str(IPv6Address(host[1:-1] if _IPV6.fullmatch(host) else ""))
    except ValueError:
        raise ValueError(
            "the host must be a name, an IPv4 address or an IPv6 address in [ ]"
        ) from None


def _options(query: str, allowed: Collection[str]) -> dict[str, str]:
    found = dict[str, str]()
    for pair in query.split("&") if query else ():
        name, _, value = pair.partition("=")
        if name not in allowed:
            raise ValueError(f"has an option other than {', '.join(allowed)}")
        if name in found:
            raise ValueError(f"{name} is given twice")
        if not _OPTION.fullmatch(value):
            raise ValueError(_ENCODE)
        found[name] = _decoded(value)
    return found


def _database(*given: str | None) -> int:
    texts = [text for text in given if text is not None]
    if not all(map(_NUMBER.fullmatch, texts)):
        raise ValueError("the database must be a number from 0, as in /3 or ?db=3")
    numbers = {int(text) for text in texts}
    if len(numbers) > 1:
        raise ValueError("the database is given twice, with two numbers")
    return numbers.pop() if numbers else 0


def _decoded(text: str) -> str:
    try:
        return unquote(text, errors="strict")
    except UnicodeDecodeError:
        raise ValueError("what is percent-encoded is not UTF-8") from None
