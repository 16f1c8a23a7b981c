"""Parses the URL of a Redis server, and gives each library the address in its own form.

redis-py, kombu and Celery's result backend read the same URL in different ways. So none of them
gets the operator's URL: redis-py gets arguments; kombu and Celery get a URL that each understands,
and user, password and TLS options as separate settings.
"""

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from ipaddress import IPv6Address
from typing import Any
from urllib.parse import quote, unquote

SOCKET_TRANSPORT = "card-worker"
"""The name of our transport in `card-worker+socket:///path`.

With `redis+socket://` kombu would use its own transport, whatever `broker_transport` says.
"""

_SOCKET_OPTIONS = ("db", "virtual_host")
_TLS_FILES = ("ssl_ca_certs", "ssl_certfile", "ssl_keyfile")
_OPTIONS = {
    "redis": ("db",),
    "rediss": ("db", "ssl_cert_reqs", *_TLS_FILES, "ssl_check_hostname"),
    "unix": _SOCKET_OPTIONS,
    "redis+socket": _SOCKET_OPTIONS,
}
"""The options that each scheme accepts."""

_CERT_REQS = {
    spelling: value
    for value in ("none", "optional", "required")
    for spelling in (value, f"CERT_{value.upper()}")
}
_BOOLEANS = {"true": True, "false": False}

# RFC 3986 without `:`, `@` and `/`, which separate the parts of a URL.
_CHARACTERS = r"(?:[A-Za-z0-9._~!$&'()*+,;=-]|%[0-9A-Fa-f]{2})"
_LOGIN = re.compile(f"({_CHARACTERS}*)(?::({_CHARACTERS}*))?")
_PLACE = re.compile(r"([A-Za-z0-9._-]*|\[[0-9A-Fa-f:.]+\])(?::([0-9]{1,5}))?")
_PATH = re.compile(f"/(?:{_CHARACTERS}|[:@/])+")
_OPTION = re.compile(f"(?:{_CHARACTERS}|[:/])*")
_NUMBER = re.compile(r"[0-9]{1,9}")

_ENCODE_LOGIN = (
    "percent-encode every character of user and password that is not a letter, a digit or one of"
    " -._~ (# is %23, / is %2F, ? is %3F, @ is %40, : is %3A)"
)
_ENCODE = (
    "percent-encode every character of a path or an option that is not a letter, a digit or one of"
    " -._~/"
)
_WRONG_PLACE = (
    "the host must be a name, an IPv4 address or an IPv6 address in [ ], and the port a number from"
    " 1 to 65535"
)


@dataclass(frozen=True)
class RedisAddress:
    """The address of a Redis server, and the login. Its repr and str do not show the password."""

    host: str = "localhost"
    port: int = 6379
    path: str | None = None
    """The Unix socket. If there is one, host and port are not used."""
    db: int = 0
    user: str | None = None
    password: str | None = field(default=None, repr=False)
    tls_options: Mapping[str, Any] = field(default_factory=dict)
    """As redis-py, kombu, Celery and Flower name them; empty without TLS."""

    @classmethod
    def parse(cls, url: str) -> "RedisAddress":
        """Parse `url`. Raises ValueError: one line that repeats no part of the URL."""
        scheme, separator, rest = url.partition("://")
        if not separator or scheme not in _OPTIONS:
            raise ValueError(f"must begin with {', '.join(f'{name}://' for name in _OPTIONS)}")
        is_socket = _OPTIONS[scheme] is _SOCKET_OPTIONS
        before, _, query = rest.partition("?")
        authority, slash, path = before.partition("/")
        login, _, place = authority.rpartition("@")
        if "#" in rest or "@" in query or ("@" in path and not is_socket):
            raise ValueError(f"has an unencoded #, /, ? or @: {_ENCODE_LOGIN}")
        if "%00" in rest:
            raise ValueError("has the character NUL (%00)")
        found = _match(_LOGIN, login, _ENCODE_LOGIN)
        user, password = (_decode(part) if part else None for part in found.groups())
        options = _read_options(query, _OPTIONS[scheme])
        if is_socket:
            if place:
                raise ValueError(f"a socket has no host, write :///path; or {_ENCODE_LOGIN}")
            if not path:
                raise ValueError("the path of the socket is missing")
            path = _decode(_match(_PATH, slash + path, _ENCODE)[0])
            db = _read_db(options.get("db"), options.get("virtual_host"))
            return cls(path=path, db=db, user=user, password=password)
        host, port = _read_place(place)
        db = _read_db(path or None, options.get("db"))
        tls = _read_tls(options) if scheme == "rediss" else {}
        return cls(host, port, db=db, user=user, password=password, tls_options=tls)

    @property
    def broker_url(self) -> str:
        """The value of Celery's `broker_url`; user, password and TLS options are other settings.

        It is redis:// also for TLS: `broker_use_ssl` is enough, and kombu logs a warning about
        rediss:// without options in the URL.
        """
        return self._url("redis", f"{SOCKET_TRANSPORT}+socket")

    @property
    def backend_url(self) -> str:
        """The value of Celery's `result_backend`; user, password and TLS are other settings."""
        return self._url("rediss" if self.tls_options else "redis", "redis+socket")

    def _url(self, tcp: str, socket: str) -> str:
        if self.path is not None:
            return f"{socket}://{quote(self.path)}?virtual_host={self.db}"
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{tcp}://{host}:{self.port}/{self.db}"

    @property
    def redis_options(self) -> dict[str, Any]:
        """The arguments for redis-py's `Redis`."""
        options = {"db": self.db, "username": self.user, "password": self.password}
        if self.path is not None:
            return {**options, "unix_socket_path": self.path}
        place = {"host": self.host, "port": self.port, "ssl": bool(self.tls_options)}
        return {**options, **place, **self.tls_options}


def _match(pattern: re.Pattern[str], text: str, problem: str) -> re.Match[str]:
    found = pattern.fullmatch(text)
    if found is None:
        raise ValueError(problem)
    return found


def _read_place(place: str) -> tuple[str, int]:
    host, digits = _match(_PLACE, place, _WRONG_PLACE).groups()
    port = RedisAddress.port if digits is None else int(digits)
    try:
        host = str(IPv6Address(host[1:-1])) if host.startswith("[") else host.lower()
    except ValueError:
        port = 0
    if not 1 <= port <= 65535:
        raise ValueError(_WRONG_PLACE)
    return host or RedisAddress.host, port


def _read_options(query: str, allowed: Collection[str]) -> dict[str, str]:
    found = dict[str, str]()
    for pair in query.split("&") if query else ():
        name, _, value = pair.partition("=")
        if name not in allowed:
            raise ValueError(f"has an option other than {', '.join(allowed)}")
        if name in found:
            raise ValueError(f"{name} is given twice")
        found[name] = _decode(_match(_OPTION, value, _ENCODE)[0])
    return found


def _read_tls(options: Mapping[str, str]) -> dict[str, Any]:
    cert_reqs = _CERT_REQS.get(options.get("ssl_cert_reqs", "required"))
    if cert_reqs is None:
        raise ValueError(f"ssl_cert_reqs must be one of {', '.join(_CERT_REQS)}")
    check_hostname = _BOOLEANS.get(options.get("ssl_check_hostname", "true").lower())
    if check_hostname is None:
        raise ValueError("ssl_check_hostname must be true or false")
    files = {name: options[name] for name in _TLS_FILES if name in options}
    if "" in files.values():
        raise ValueError("ssl_ca_certs, ssl_certfile and ssl_keyfile must name a file")
    if "ssl_keyfile" in files and "ssl_certfile" not in files:
        raise ValueError("ssl_keyfile needs ssl_certfile")
    return {"ssl_cert_reqs": cert_reqs, "ssl_check_hostname": check_hostname, **files}


def _read_db(*given: str | None) -> int:
    problem = "the database must be a number from 0, as in /3 or ?db=3"
    numbers = {int(_match(_NUMBER, text, problem)[0]) for text in given if text is not None}
    if len(numbers) > 1:
        raise ValueError("the database is given twice, with two numbers")
    return numbers.pop() if numbers else 0


def _decode(text: str) -> str:
    try:
        return unquote(text, errors="strict")
    except UnicodeDecodeError:
        raise ValueError("has percent-encoded bytes that are not UTF-8") from None
