"""The Redis URLs that are accepted and refused, and what each library makes of an address."""

import re
from dataclasses import replace
from ssl import VerifyMode
from typing import Any
from urllib.parse import quote

import pytest
from celery import Celery
from hypothesis import given
from hypothesis import strategies as st
from kombu.connection import Connection
from redis.connection import SSLConnection, UnixDomainSocketConnection, parse_url

from card_worker.client import Client
from card_worker.redis_url import RedisAddress
from card_worker.settings import WrongSetting, load_settings
from card_worker.sinks import connect
from card_worker.transport import TRANSPORT, Transport

SETTINGS = ("BROKER_URL", "EVENTS_URL", "RESULT_BACKEND_URL")

TLS = {"ssl_cert_reqs": "required", "ssl_check_hostname": True}

ACCEPTED = {
    "redis://": RedisAddress(),
    "redis://cache": RedisAddress(host="cache"),
    "redis://Cache.example_1.com:6380": RedisAddress(host="cache.example_1.com", port=6380),
    "redis://10.0.0.1/3": RedisAddress(host="10.0.0.1", db=3),
    "redis:///3": RedisAddress(db=3),
    "redis://:6380/": RedisAddress(port=6380),
    "redis://cache/99": RedisAddress(host="cache", db=99),
    "redis://cache?db=3": RedisAddress(host="cache", db=3),
    "redis://cache/?db=3": RedisAddress(host="cache", db=3),
    "redis://cache/3?db=3": RedisAddress(host="cache", db=3),
    "redis://cache/0?": RedisAddress(host="cache"),
    "redis://[::1]": RedisAddress(host="::1"),
    "redis://[2001:DB8:0::1]:6380/3": RedisAddress(host="2001:db8::1", port=6380, db=3),
    "redis://:word@cache": RedisAddress(host="cache", password="word"),
    "redis://kari:word@cache": RedisAddress(host="cache", user="kari", password="word"),
    "redis://kari@cache": RedisAddress(host="cache", user="kari"),
    "redis://kari:@cache": RedisAddress(host="cache", user="kari"),
    "redis://:@cache": RedisAddress(host="cache"),
    "redis://k%23r:%23%2F%3F%40%3A%25%20%C3%A6@cache": RedisAddress(
        host="cache", user="k#r", password="#/?@:% æ"
    ),
    "redis://a-._~!$&'()*+,;=:a-._~!$&'()*+,;=@cache": RedisAddress(
        host="cache", user="a-._~!$&'()*+,;=", password="a-._~!$&'()*+,;="
    ),
    "unix:///run/redis.sock": RedisAddress(path="/run/redis.sock"),
    "unix:///run/a%20b@c:d+%3B.sock?db=3": RedisAddress(path="/run/a b@c:d+;.sock", db=3),
    "unix://kari:w%23rd@/run/redis.sock": RedisAddress(
        path="/run/redis.sock", user="kari", password="w#rd"
    ),
    "unix:///Run/redis.sock?virtual_host=3": RedisAddress(path="/Run/redis.sock", db=3),
    "redis+socket:///run/redis.sock": RedisAddress(path="/run/redis.sock"),
    "redis+socket:///run/redis.sock?db=3": RedisAddress(path="/run/redis.sock", db=3),
    "redis+socket://:word@/run/redis.sock?virtual_host=3&db=3": RedisAddress(
        path="/run/redis.sock", db=3, password="word"
    ),
    "rediss://cache": RedisAddress(host="cache", tls_options=TLS),
    "rediss://:word@cache:6380/3?ssl_ca_certs=/etc/a%20b/ca+1.pem": RedisAddress(
        host="cache",
        port=6380,
        db=3,
        password="word",
        tls_options=TLS | {"ssl_ca_certs": "/etc/a b/ca+1.pem"},
    ),
    "rediss://cache?ssl_certfile=a.pem": RedisAddress(
        host="cache", tls_options=TLS | {"ssl_certfile": "a.pem"}
    ),
    "rediss://cache?db=3&ssl_certfile=a.pem&ssl_keyfile=b.pem": RedisAddress(
        host="cache", db=3, tls_options=TLS | {"ssl_certfile": "a.pem", "ssl_keyfile": "b.pem"}
    ),
    "rediss://cache?ssl_check_hostname=False": RedisAddress(
        host="cache", tls_options=TLS | {"ssl_check_hostname": False}
    ),
    **{
        f"rediss://cache?ssl_cert_reqs={spelling}": RedisAddress(
            host="cache", tls_options=TLS | {"ssl_cert_reqs": meaning}
        )
        for meaning in ("none", "optional", "required")
        for spelling in (meaning, f"CERT_{meaning.upper()}")
    },
}

ENCODE = "percent-encode every character of user and password"
PLACE = "the host must be a name, an IPv4 address or an IPv6 address in [ ], and the port a number"
SPECIAL = f"has an unencoded #, /, ? or @: {ENCODE}"
DATABASE = "the database must be a number from 0"

REFUSED = {
    "": "must begin with redis://, rediss://, unix://, redis+socket://",
    "mellon": "must begin with",
    " redis://mellon": "must begin with",
    "amqp://mellon": "must begin with",
    "mellon:6379/0": "must begin with",
    "REDIS://mellon": "must begin with",
    # The database
    "redis://mellon/cards": DATABASE,
    "redis://mellon/-1": DATABASE,
    "redis://mellon/+1": DATABASE,
    "redis://mellon/1.0": DATABASE,
    "redis://mellon/٣": DATABASE,
    "redis://mellon/3/": DATABASE,
    "redis://mellon//3": DATABASE,
    "redis://mellon/%33": DATABASE,
    "redis://mellon/0\n": DATABASE,
    "redis://mellon/1000000000": DATABASE,
    "redis://mellon?db=": DATABASE,
    "redis://mellon?db": DATABASE,
    "redis://mellon?db=cards": DATABASE,
    "unix:///mellon?virtual_host=/3": DATABASE,
    "redis://mellon/3?db=4": "the database is given twice, with two numbers",
    "unix:///mellon?db=3&virtual_host=4": "the database is given twice, with two numbers",
    # Options
    "redis://mellon?mellon=3": "has an option other than db",
    "redis://mellon?&db=3": "has an option other than db",
    "redis://mellon?db=3&db=3": "db is given twice",
    "redis://mellon?virtual_host=3": "has an option other than db",
    "redis://mellon?ssl_cert_reqs=none": "has an option other than db",
    "redis://mellon?socket_timeout=5": "has an option other than db",
    "unix:///mellon?ssl_cert_reqs=none": "has an option other than db, virtual_host",
    "rediss://mellon?ssl_ciphers=mellon": "has an option other than db, ssl_cert_reqs, ssl_ca",
    "rediss://mellon?ssl_cert_reqs=mellon": "ssl_cert_reqs must be one of none, CERT_NONE, opt",
    "rediss://mellon?ssl_cert_reqs=": "ssl_cert_reqs must be one of",
    "rediss://mellon?ssl_cert_reqs=Required": "ssl_cert_reqs must be one of",
    "rediss://mellon?ssl_check_hostname=mellon": "ssl_check_hostname must be true or false",
    "rediss://mellon?ssl_ca_certs=": "ssl_ca_certs, ssl_certfile and ssl_keyfile must name a file",
    "rediss://mellon?ssl_keyfile=/mellon": "ssl_keyfile needs ssl_certfile",
    "rediss://mellon?ssl_ca_certs=/a b": "percent-encode every character of a path or an option",
    "rediss://mellon?ssl_ca_certs=/a%zz": "percent-encode every character of a path or an option",
    # User and password
    "redis://:mel#lon@host/0": SPECIAL,
    "redis://host/0#mellon": SPECIAL,
    "redis://:mel@lon@host/0": ENCODE,
    "redis://:mel/lon@host:6379/0": SPECIAL,
    "redis://:mel?lon@host:6379/0": SPECIAL,
    "rediss://:mel?ssl_ca_certs=lon@host": SPECIAL,
    "redis://:mel:lon@host:6379/0": ENCODE,
    "redis://:mel lon@host:6379/0": ENCODE,
    "redis://:mel%lon@host:6379/0": ENCODE,
    "redis://:mel%0@host:6379/0": ENCODE,
    "redis://:mellôn@host:6379/0": ENCODE,
    "redis://:mel\nlon@host:6379/0": ENCODE,
    "redis://:mel[lon@host:6379/0": ENCODE,
    "redis://:mel%FFlon@host:6379/0": "has percent-encoded bytes that are not UTF-8",
    "redis://:mel%00lon@host:6379/0": "has the character NUL (%00)",
    "unix://:mel/lon@/run/redis.sock": f"a socket has no host, write :///path; or {ENCODE}",
    "unix://:mel@lon@/run/redis.sock": ENCODE,
    # The place
    "redis://mellon:": PLACE,
    "redis://mellon:0": PLACE,
    "redis://mellon:65536": PLACE,
    "redis://mellon:-1": PLACE,
    "redis://mellon:port": PLACE,
    "redis://mellon:6379:6379": PLACE,
    "redis://::1": PLACE,
    "redis://[::1": PLACE,
    "redis://mel lon": PLACE,
    "redis://mel%6Con": PLACE,
    "redis://mellôn": PLACE,
    "redis://mellon,other": PLACE,
    "redis://mellon;redis://other": PLACE,
    "redis://[mellon]": PLACE,
    "redis://[]": PLACE,
    "redis://[::1]mellon": PLACE,
    "redis://mellon[::1]": PLACE,
    "redis://[fe80::1%25eth0]": PLACE,
    "unix://": "the path of the socket is missing",
    "unix:///": "the path of the socket is missing",
    "unix://run/mellon.sock": "a socket has no host, write :///path",
    "redis+socket://mellon": "a socket has no host, write :///path",
    "unix:///mel lon": "percent-encode every character of a path or an option",
}


@pytest.mark.parametrize("url", ACCEPTED)
def test_an_accepted_url_has_one_meaning(url: str) -> None:
    assert RedisAddress.parse(url) == ACCEPTED[url]


@pytest.mark.parametrize("url", REFUSED)
def test_an_error_is_one_line_without_the_url(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    reason = refusal(url)
    assert reason is not None
    assert reason.startswith(REFUSED[url])
    assert len(reason.splitlines()) == 1
    assert "mel" not in reason
    assert "lon" not in reason
    for urls in ((url, None), ("redis://", url)):
        with pytest.raises(ValueError, match=f"^{re.escape(reason)}$"):
            Client(urls[0], events_url=urls[1])
    for name in SETTINGS:
        monkeypatch.setenv(f"CARD_WORKER_{name}", url)
    with pytest.raises(WrongSetting) as wrong:
        load_settings()
    assert str(wrong.value) == "; ".join(f"CARD_WORKER_{name}: {reason}" for name in SETTINGS)


def refusal(url: str) -> str | None:
    """Return why `url` is refused; None if it is accepted."""
    try:
        assert_hidden(RedisAddress.parse(url))
    except ValueError as refused:
        return str(refused)
    return None


# What a refusal may say shares no four of these in a row with it.
MARKED = st.text("QXZJ7#@/?:%&=[]\n\u00e6", min_size=4, max_size=20)
RAW = st.tuples(
    st.sampled_from(["redis://", "rediss://", "unix://", "redis+socket://", ""]),
    MARKED,
    st.sampled_from(["", "@", ":", "/", "?", "#"]),
    MARKED,
    st.sampled_from(["", "/", "?db=", "?ssl_cert_reqs=", "?ssl_keyfile="]),
    MARKED | st.just(""),
)


@given(RAW)
def test_no_error_repeats_four_characters_of_the_url(parts: tuple[str, ...]) -> None:
    said = refusal("".join(parts)) or ""
    for part in parts[1::2]:
        assert [part[n : n + 4] for n in range(len(part) - 3) if part[n : n + 4] in said] == []


def assert_hidden(address: RedisAddress) -> None:
    """Nothing that may be shown of an address shows its password."""
    hidden = replace(address, password=None)
    assert repr(address) == str(address) == repr(hidden)
    assert (address.broker_url, address.backend_url) == (hidden.broker_url, hidden.backend_url)


TEXT = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), min_size=1)


@given(user=TEXT, password=TEXT, db=st.integers(0, 999_999_999), port=st.integers(1, 65535))
def test_percent_encoding_is_reversible(user: str, password: str, db: int, port: int) -> None:
    login = f"{quote(user, safe='')}:{quote(password, safe='')}"
    url = f"redis://{login}@cache:{port}/{db}"
    address = RedisAddress.parse(url)
    assert address == RedisAddress("cache", port, None, db, user, password)
    assert_hidden(address)
    # redis-py reads the same.
    assert parse_url(url) | {"ssl": False} == address.redis_options  # type: ignore[no-untyped-call]
    path = f"/{user}"
    socket = RedisAddress.parse(f"unix://{login}@{quote(path)}?db={db}")
    assert socket == RedisAddress(path=path, db=db, user=user, password=password)


# --- What each library makes of an address -------------------------------------------------------

ADDRESSES = [
    RedisAddress("cache", 6380, None, 3, "kari", "w#rd"),
    RedisAddress("::1", 6379, None, 0, None, "w#rd"),
    RedisAddress(path="/Run/a b;c+d.sock", db=3, user="kari", password="w#rd"),
    RedisAddress("cache", tls_options=TLS, password="w#rd"),
    RedisAddress(
        "cache",
        tls_options={
            "ssl_cert_reqs": "none",
            "ssl_check_hostname": False,
            "ssl_ca_certs": "/etc/%25 ca.pem",
            "ssl_certfile": "/c.pem",
            "ssl_keyfile": "/k.pem",
        },
    ),
]


@pytest.mark.parametrize("address", ADDRESSES, ids=str)
def test_redis_py_uses_the_address(address: RedisAddress) -> None:
    assert_connects(connect(address).connection_pool, address)


@pytest.mark.parametrize("address", ADDRESSES, ids=str)
def test_kombu_uses_our_transport_and_the_address(address: RedisAddress) -> None:
    with Connection(
        address.broker_url,
        userid=address.user,
        password=address.password,
        ssl=address.tls_options,
        transport=TRANSPORT,
    ) as made:
        connection = made.clone()  # as pools do
    assert connection.get_transport_cls() is Transport
    assert (connection.userid, connection.password) == (address.user, address.password)
    assert connection.ssl == address.tls_options
    if address.path is None:
        said = (connection.hostname, connection.port, connection.virtual_host)
        assert said == (address.host, address.port, str(address.db))
    shown = f"{connection.as_uri()} {dict(connection.info()) | {'password': None}}"
    assert "w#rd" not in shown
    assert "w%23rd" not in shown


def test_kombu_alone_would_use_other_transports_and_no_tls() -> None:
    # Why no library gets the URL of the user; docs/explanation/transport.md says the same.
    socket = Connection("redis+socket:///run/redis.sock", transport=TRANSPORT)
    assert socket.get_transport_cls() is not Transport
    assert not Connection("rediss://cache", transport=TRANSPORT).ssl


@pytest.mark.parametrize("address", ADDRESSES, ids=str)
def test_the_result_backend_uses_the_address(address: RedisAddress) -> None:
    with Celery(backend=address.backend_url, set_as_current=False) as app:
        app.conf.update(
            redis_username=address.user,
            redis_password=address.password,
            redis_backend_use_ssl=address.tls_options,
        )
        assert_connects(app.backend.client.connection_pool, address)
        assert "w#rd" not in app.backend.as_uri()
        app.backend.client.close()


def assert_connects(pool: Any, address: RedisAddress) -> None:
    """A pool makes connections to just this address."""
    connection = pool.make_connection()
    assert connection.db == address.db
    assert (connection.username, connection.password) == (address.user, address.password)
    if address.path is not None:
        assert isinstance(connection, UnixDomainSocketConnection)
        assert connection.path == address.path
        return
    assert (connection.host, connection.port) == (address.host, address.port)
    assert isinstance(connection, SSLConnection) is bool(address.tls_options)
    if tls := address.tls_options:
        assert connection.cert_reqs == VerifyMode[f"CERT_{tls['ssl_cert_reqs'].upper()}"]
        assert connection.check_hostname is tls["ssl_check_hostname"]
        for name in ("ca_certs", "certfile", "keyfile"):
            assert getattr(connection, name) == tls.get(f"ssl_{name}")


def test_settings_show_no_password(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in SETTINGS:
        monkeypatch.setenv(f"CARD_WORKER_{name}", "redis://kari:mellon@cache")
    settings = load_settings()
    assert settings.broker() == settings.events() == settings.result_backend_url
    assert settings.broker().password == "mellon"
    assert "mellon" not in f"{settings} {settings!r}"
