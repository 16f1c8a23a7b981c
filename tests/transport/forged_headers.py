"""Messages that can be read, but whose headers or properties are forged."""

import bz2
import json
import lzma
import pickle
import random
import string
import zlib
from collections.abc import Callable, Iterator
from functools import cache, partial
from typing import Any

from card_worker.contracts.envelope import UNSUPPORTED
from tests.transport.entries import (
    ABSENT,
    MESSAGE_PACK,
    MIB,
    ODD,
    YAML,
    Bomb,
    Entry,
    body,
    done,
    fields,
    letter,
    message,
    rejected,
    signature,
)

SWEEP = "sweeps.expire_cards"


def content_types() -> Iterator[Entry]:
    kinds: dict[str, tuple[str, str, bytes]] = {
        "pickle announced": ("application/x-python-serialize", "binary", pickle.dumps(Bomb())),
        "pickle as JSON": ("application/json", "utf-8", pickle.dumps([Bomb()])),
        "pickle as binary JSON": ("application/json", "binary", pickle.dumps((Bomb(), 1))),
        "YAML announced": ("application/x-yaml", "utf-8", YAML),
        "YAML as JSON": ("application/json", "utf-8", YAML + b"\n"),
        "message pack announced": ("application/x-msgpack", "binary", MESSAGE_PACK),
        "message pack as JSON": ("application/json", "utf-8", MESSAGE_PACK + b"\x00"),
        "data announced": ("application/data", "binary", body("data announced")),
        "signed": ("application/data", "utf-8", b'{"body": "", "signer": "x", "signature": "x"}'),
    }
    for name, (kind, encoding, raw) in kinds.items():
        yield letter(
            name, message(name, raw, parts={"content-type": kind, "content-encoding": encoding})
        )
    for kind in (
        "",
        "json",
        "text/plain",
        "text/json",
        "APPLICATION/JSON",
        "application/json ",
        "application/json; charset=utf-8",
        "application/json\x00",
        "application/jsön",
        "\ud800",
        "*/*",
    ):
        name = f"content type {kind!r}"
        yield letter(name, message(name, parts={"content-type": kind}))


def content_encodings() -> Iterator[Entry]:
    others = ["", "binary", "utf-16", "utf-32", "latin-1", "base64", "gzip", "zip", "hex", "rot13"]
    for encoding in [*others, "idna", "unicode_escape", "utf-8\x00", " utf-8", "\ud800"]:
        name = f"content encoding {encoding!r}"
        yield letter(name, message(name, parts={"content-encoding": encoding}))


def compressed() -> Iterator[Entry]:
    for name, kind, compress in (
        ("zlib", "zlib", zlib.compress),
        ("gzipped", "application/x-gzip", zlib.compress),
        ("bzip2", "bzip2", bz2.compress),
        ("lzma", "lzma", lzma.compress),
    ):
        packed = compress(body(name))
        yield done(name, message(name, packed, headers={"compression": kind}))
    broken: list[tuple[str, Any, bytes]] = [
        ("zlib that isn't", "zlib", body("zlib that isn't")),
        ("zlib cut off", "zlib", zlib.compress(body("zlib cut off"))[:-5]),
        ("an unknown compression", "middle-out", body("an unknown compression")),
        ("compression: a number", 5, body("compression: a number")),
        ("compression: a list", ["zlib"], body("compression: a list")),
        ("compression: an object", {"zlib": 1}, body("compression: an object")),
    ]
    for name, what, packed in broken:
        yield letter(name, message(name, packed, headers={"compression": what}))
    yield letter("a bomb of zlib", partial(_bomb, "zlib", zlib.compress))
    yield letter("a bomb of bzip2", partial(_bomb, "bzip2", bz2.compress))


@cache
def _bomb(kind: str, compress: Callable[[bytes], bytes]) -> bytes:
    packed = compress(b" " * 100 * MIB)
    return message(f"a bomb of {kind}", packed, headers={"compression": kind})


def steering() -> Iterator[Entry]:
    """Headers that ask for what a worker does not do, and those that concern only the sender."""
    said: dict[str, list[Any]] = {
        "eta": ["2030-01-01T00:00:00+00:00", "yesterday", 1e300],
        "expires": ["2020-01-01T00:00:00", "2020-01-01T00:00:00Z", 1, {"a": 1}],
        "timelimit": [[1, None], [None, 0.001], "x"],
        "retries": [3, -1, "x"],
        "shadow": ["cards.activate", 5],
        "stamps": [{"a": 1}, "x"],
        "chord": [{"task": "cards.create"}, 5],
        "group": ["group-1", 5],
        "callbacks": [[signature("the header callbacks")], 5],
        "errbacks": [[signature("the header errbacks")]],
        "chain": [[signature("the header chain")], "zz"],
        "stamped_headers": [["a"], 5],
    }
    assert said.keys() > UNSUPPORTED.keys()
    for header, values in said.items():
        for value in values:
            name = f"{header} = {json.dumps(value)[:40]}"
            is_refused = header == "expires" or header in UNSUPPORTED
            ends = rejected if is_refused else done
            yield ends(name, message(name, headers={header: value}))


def tasks() -> Iterator[Entry]:
    random_name = "".join(random.Random(1).choices(string.ascii_letters, k=10_000))
    unknown: dict[str, Any] = {
        **{f"task: {odd}": value for odd, value in ODD.items()},
        "task: no text": "",
        "task: a blank behind": "cards.create ",
        "task: capitals": "CARDS.CREATE",
        "task: a NUL behind": "cards.create\x00",
        "task: another alphabet": "\N{CYRILLIC SMALL LETTER ES}ards.create",
        "task: a surrogate": "cards.\ud800",
        "task: unknown": "cards.explode",
        "task: of the system": "os.system",
        "task: a path": "../../etc/passwd",
        "task: noise": random_name,
        "task: in a list": ["cards.create"],
    }
    for name, task in unknown.items():
        yield letter(name, message(name, task=task))
    of_celery = ["accumulate", "backend_cleanup", "chain", "chord", "chord_unlock", "chunks"]
    for task in [*of_celery, "group", "map", "starmap"]:
        name = f"celery.{task}"
        yield letter(name, message(name, task=name))


def ids() -> Iterator[Entry]:
    # PostgreSQL compresses what it keeps in an index; this it can't.
    noisy = "".join(random.Random(2).choices(string.ascii_letters + string.digits, k=10_000))
    odd = ODD | {
        "no text": "",
        "65 characters": "x" * 65,
        "a NUL": "a\x00b",
        "a surrogate": "\udfff",
        "noise": noisy,
    }
    for kind, value in odd.items():
        name = f"id: {kind}"
        yield letter(name, message(name, headers={"id": value}))


def addresses() -> Iterator[Entry]:
    """What a message says of where it came from, and nobody who takes it should believe."""
    for part in ("routing_key", "exchange"):
        for odd, value in ODD.items():
            name = f"{part}: {odd}"
            nobody = body(name, account_id=None)
            yield letter(name, message(name, nobody, delivery_info={part: value}))
    for part, value in {
        "consumer_tag": [],
        "delivery_tag": {"a": 1},
        "priority": "first",
        "reply_to": [5],
        "correlation_id": {"a": [1]},
        "delivery_mode": None,
        "expiration": "0",
    }.items():
        name = f"odd {part}"
        nobody = body(name, account_id=None)
        place = "delivery_info" if part == "consumer_tag" else "properties"
        yield letter(name, message(name, nobody, **{place: {part: value}}))


def protocol_1() -> Iterator[Entry]:
    old: dict[str, dict[str, Any]] = {
        "protocol 1": {},
        "protocol 1, later": {"eta": "2030-01-01T00:00:00", "utc": True, "retries": 1},
        "protocol 1, and then": {"callbacks": [signature("protocol 1's callback")]},
        "protocol 1, in a set": {"taskset": "x", "chord": signature("protocol 1's chord")},
    }
    none = dict.fromkeys(("lang", "task", "id"), ABSENT)
    for name, more in old.items():
        yield letter(name, message(name, _body_1(name, **more), headers=none))
    yield letter("both protocols", message("both protocols", _body_1("both protocols")))


def _body_1(name: str, **more: Any) -> bytes:
    asked = {"task": "cards.create", "id": name, "args": [], "kwargs": fields(name), **more}
    return json.dumps(asked).encode()


def sweeps() -> Iterator[Entry]:
    """What beat asks for takes no fields, and Celery runs it by itself."""
    for name, raw in {
        "a sweep of something": b'[[], {"account_id": "T00000001"}, {}]',
        "a sweep with a place": b"[[5], {}, {}]",
        "a sweep of nothing": b"null ",
    }.items():
        yield letter(name, message(name, raw, task=SWEEP))
    steered: dict[str, dict[str, Any]] = {
        "a sweep, and then": {"callbacks": [signature("a sweep's callback")]},
        "a sweep, or else": {"errbacks": [signature("a sweep's errback")]},
        "a sweep in a chain": {"chain": [signature("a sweep's chain")]},
        "a sweep, and then 5": {"callbacks": 5},
        "a sweep in a text": {"chain": "zz"},
        "a sweep that expires": {"expires": 5},
    }
    for name, headers in steered.items():
        empty = json.dumps([[], {}, {"note": name}]).encode()
        yield letter(name, message(name, empty, task=SWEEP, headers=headers))
