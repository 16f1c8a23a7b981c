"""All entries by kind, and some that only look odd."""

import base64
import json
from collections.abc import Callable, Iterator
from typing import Any

from tests.transport import bodies, envelopes, forged_headers
from tests.transport.entries import Entry, body, body_around, done, message, nested

KINDS: dict[str, Callable[[], Iterator[Entry]]] = {
    "not JSON": envelopes.not_json,
    "other values": envelopes.other_values,
    "truncated": envelopes.truncated,
    "odd parts": envelopes.odd_parts,
    "body encodings": envelopes.body_encodings,
    "base64": envelopes.base64_broken,
    "charsets": envelopes.charsets,
    "keys twice": envelopes.twice,
    "numbers": envelopes.numbers,
    "nested": envelopes.nested_deep,
    "large": envelopes.large,
    "blanks": envelopes.blanks,
    "content types": forged_headers.content_types,
    "content encodings": forged_headers.content_encodings,
    "compressed": forged_headers.compressed,
    "steering headers": forged_headers.steering,
    "tasks": forged_headers.tasks,
    "ids": forged_headers.ids,
    "addresses": forged_headers.addresses,
    "protocol 1": forged_headers.protocol_1,
    "sweeps": forged_headers.sweeps,
    "truncated bodies": bodies.truncated,
    "bodies not UTF-8": bodies.not_utf_8,
    "bodies not strict": bodies.not_strict,
    "bodies not three": bodies.not_three,
    "embedded": bodies.embedded,
    "nobody's": bodies.nobody,
    "amounts": bodies.amounts,
    "odd fields": bodies.odd_fields,
    "nested bodies": bodies.nested_deep,
    "lists": bodies.lists,
    "batches": bodies.batches,
}

CORPUS: dict[str, Entry] = {
    f"{kind}: {entry.name}": entry for kind, entries in KINDS.items() for entry in entries()
}
"""The entries by kind and name."""


def _legal() -> Iterator[Entry]:
    for name, raw in {
        "a blank behind": message("a blank behind") + b" ",
        "100,000 blanks behind": message("100,000 blanks behind") + b" " * 100_000,
        "a tab behind": message("a tab behind") + b"\t",
        "lines around": b"\r\n" + message("lines around") + b"\r\n\n",
        "blanks before": b"   " + message("blanks before"),
        "a header of one's own": message("a header of one's own", headers={"mine": [1, None]}),
        "headers that say nothing": message(
            "headers that say nothing", headers={"eta": None, "timelimit": [None, None]}
        ),
        "another encoding's name": message(
            "another encoding's name", parts={"content-encoding": "UTF8"}
        ),
        "no embed": message("no embed", body("no embed", embed=None)),
        "all the money": message("all the money", body("all the money", amount=2**53 - 1)),
        "from right to left": message(
            "from right to left",
            body("from right to left", name="\u05d0\u05d1 \U0001f381 e\u0301 \ufeff"),
        ),
        "metadata 8 deep": message(
            "metadata 8 deep", body_around("metadata 8 deep", nested(8, '{"a":', "}", "1"))
        ),
        "a body as it is": _as_it_is("a body as it is"),
    }.items():
        yield done(name, raw)


def _as_it_is(name: str) -> bytes:
    envelope: dict[str, Any] = json.loads(message(name))
    del envelope["properties"]["body_encoding"]
    return json.dumps(envelope | {"body": base64.b64decode(envelope["body"]).decode()}).encode()


LEGAL: dict[str, Entry] = {entry.name: entry for entry in _legal()}
"""Entries that look odd and are in order. They are not of the corpus."""
