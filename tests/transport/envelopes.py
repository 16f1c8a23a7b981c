"""Entries that are no message, or one whose envelope isn't strict JSON of the right shape."""

import base64
import gzip
import json
import pickle
import random
from collections.abc import Iterator

from tests.transport.entries import (
    MESSAGE_PACK,
    MIB,
    ODD,
    YAML,
    Bomb,
    Entry,
    body,
    deep,
    letter,
    message,
    nested,
    said,
)


def noise(size: int) -> bytes:
    return random.Random(size).randbytes(size)


def not_json() -> Iterator[Entry]:
    raws = {
        "nothing": b"",
        "a blank": b" ",
        "blanks": b" " * 5_000,
        "a line": b"\n",
        "a word": b"hello",
        "XML": b"<sale><card>1</card></sale>",
        "YAML": YAML,
        "message pack": MESSAGE_PACK,
        "pickle": pickle.dumps(Bomb()),
        "a pickled message": pickle.dumps(json.loads(message("a pickled message"))),
        "gzip": gzip.compress(message("gzip"), mtime=0),
        "base64 around it": base64.b64encode(message("base64 around it")),
        "a NUL": b"\x00",
        "many NULs": b"\x00" * 10_000,
        "every byte": bytes(range(256)),
        "noise": noise(3_000),
        "a command of Redis": b"*1\r\n$8\r\nFLUSHALL\r\n",
        "formats": b"%s %n %d {} {0} ${x} \\u0000",
        "SQL": b"'; DROP TABLE dead_letters; --",
        "single quotes": str(json.loads(message("single quotes"))).encode(),
        "bare keys": b"{body: 1, headers: {}, properties: {}}",
        "a comma too many": message("a comma too many")[:-1] + b",}",
        "a comment": b"// hello\n" + message("a comment"),
        "undefined": b'{"body": undefined}',
        "an open quote": b'{"body": "',
        "a wrong escape": b'{"body": "\\x41"}',
        "half an escape": b'{"body": "\\u12"}',
        "a bare line end": b'{"body": "a\nb"}',
        "two messages": message("two messages") * 2,
        "two lines": b"{}\n{}\n",
        "a word behind": message("a word behind") + b" x",
        "a NUL behind": message("a NUL behind") + b"\x00",
        "a byte before": b"x" + message("a byte before"),
    }
    for name, raw in raws.items():
        yield letter(name, raw)


def other_values() -> Iterator[Entry]:
    texts = ["null", "true", "false", "0", "-0", "1.5", '"x"', '""', "[]", "{}", "[[]]", "[{}]"]
    texts += ["NaN", "Infinity", "-Infinity", "1e400", "9" * 5_000, '{"body": "", "headers": {}}']
    for text in texts:
        yield letter(f"{text[:20]} instead", text.encode())
    yield letter("in a list", b"[" + message("in a list") + b"]")
    yield letter("in text", json.dumps(message("in text").decode()).encode())
    yield letter("only a body", body("only a body"))


def truncated() -> Iterator[Entry]:
    raw = message("truncated")
    for place in range(1, len(raw), len(raw) // 24):
        yield letter(f"its first {place} bytes", raw[:place])
    for place in (1, 2, len(raw) // 2, len(raw) - 2):
        yield letter(f"without its first {place} bytes", raw[place:])
    yield letter("without its last byte", raw[:-1])


def odd_parts() -> Iterator[Entry]:
    for part in ("body", "headers", "properties", "content-type", "content-encoding"):
        for odd, value in ODD.items():
            name = f"{part}: {odd}"
            yield letter(name, message(name, parts={part: value}))
    for odd, value in ODD.items():
        if odd != "an object":
            name = f"delivery info: {odd}"
            yield letter(name, message(name, properties={"delivery_info": value}))
    name = "headers in pairs"
    pairs = [["task", "cards.create"], ["id", name]]
    yield letter(name, message(name, parts={"headers": pairs}))
    name = "a body of no text"
    yield letter(name, message(name, parts={"body": ""}))


def body_encodings() -> Iterator[Entry]:
    odd = ODD | {"utf-8": "utf-8", "in capitals": "BASE64", "rot13": "rot13", "no text": ""}
    for other, value in odd.items():
        name = f"body encoding: {other}"
        yield letter(name, message(name, properties={"body_encoding": value}))


def base64_broken() -> Iterator[Entry]:
    good = base64.b64encode(body("base64", name="???>>>~~~")).decode()
    assert "/" in good or "+" in good
    bad = {
        "unpadded": good.rstrip("=")[:-1],
        "overpadded": good + "==",
        "one short": good[:-1] if not good.endswith("=") else good[:-3],
        "urlsafe": good.replace("+", "-").replace("/", "_"),
        "with a NUL": "\x00" + good,
        "with NULs between": "\x00".join(good),
        "with lines": "\n".join(good[at : at + 76] for at in range(0, len(good), 76)),
        "with blanks": " ".join(good),
        "not ASCII": "ø" + good,
        "fullwidth": "".join(chr(ord(char) + 0xFEE0) for char in good),
        "a surrogate": "\ud800" + good,
        "twice": base64.b64encode(good.encode()).decode(),
        "hex": base64.b64decode(good).hex(),
        "as a data URL": f"data:application/json;base64,{good}",
        "only padding": "====",
        "plain": '[[], {"card_id": "plain"}, {}]',
    }
    for name, text in bad.items():
        yield letter(f"base64 {name}", message(f"base64 {name}", parts={"body": text}))


def charsets() -> Iterator[Entry]:
    for name, encoded in {
        "UTF-8 with a BOM": "utf-8-sig",
        "UTF-16": "utf-16",
        "UTF-16 LE": "utf-16-le",
        "UTF-16 BE": "utf-16-be",
        "UTF-32": "utf-32",
        "UTF-32 BE": "utf-32-be",
        "EBCDIC": "cp500",
    }.items():
        yield letter(name, message(name).decode().encode(encoded))
    for name, wrong in {
        "a lone byte": b"\xff",
        "a lone continuation": b"\x80",
        "a character cut off": b"\xe2\x82",
        "an overlong slash": b"\xc0\xaf",
        "an overlong NUL": b"\xc0\x80",
        "half a pair": b"\xed\xa0\x80",
        "beyond Unicode": b"\xf5\x80\x80\x80",
        "Latin-1": "kjøp".encode("latin-1"),
    }.items():
        raw = message(name, headers={"note": "<here>"})
        yield letter(name, raw.replace(b"<here>", wrong))


def twice() -> Iterator[Entry]:
    """A key that stands twice: one of the two would be believed."""
    for name, old, new in (
        ("body twice", b'{"body": ', b'{"body": "", "body": '),
        ("headers twice", b'"headers": ', b'"headers": {"task": "x"}, "headers": '),
        ("properties twice", b'"properties": ', b'"properties": {}, "properties": '),
        ("type twice", b'"content-type": ', b'"content-type": "a/b", "content-type": '),
        ("task twice", b'"task": ', b'"task": "cards.expire", "task": '),
        ("id twice", b'"id": ', b'"id": "x", "id": '),
        ("id twice, escaped", b'"id": ', b'"\\u0069d": "x", "id": '),
        ("priority twice", b'"priority": ', b'"priority": 9, "priority": '),
    ):
        raw = message(name)
        assert raw.count(old) == 1
        yield letter(name, raw.replace(old, new))


def numbers() -> Iterator[Entry]:
    for number in ("NaN", "Infinity", "-Infinity", "9" * 5_000, "-" + "9" * 5_000, "1" * 4_301):
        for place in ("headers", "properties"):
            name = f"{number[:12]} in {place}"
            yield letter(name, said(name, place, "note", number))


def nested_deep() -> Iterator[Entry]:
    for name, text in {
        "100,000 lists": nested(100_000),
        "100,000 open lists": "[" * 100_000,
        "100,000 objects": nested(100_000, '{"a":', "}", "1"),
        "100,000 open objects": '{"a":' * 100_000,
        "100,000 of both": nested(100_000, '[{"a":', "}]", "1"),
    }.items():
        yield letter(name, text.encode())
    # Python 3.11 can read some 960 lists, but then not write them.
    for place, depths in {
        "headers": (100, 958, 990, 100_000),
        "properties": (100, 990, 100_000),
    }.items():
        for levels in depths:
            name = f"{levels} lists in {place}"
            yield letter(name, said(name, place, "note", nested(levels), b"[" + name.encode()))
    for part in ("content-type", "content-encoding", "headers", "properties", "body"):
        name = f"9 lists as {part}"
        yield letter(name, message(name, parts={part: deep(9)}))
    for header in ("task", "id", "root_id"):
        name = f"955 lists as {header}"
        yield letter(name, said(name, "headers", header, nested(955)))


def large() -> Iterator[Entry]:
    def of_body(size: int) -> bytes:
        name = f"a body of {size} bytes"
        around = len(body(name, name=""))
        return message(name, body(name, name="x" * (size - around)))

    yield letter("a body just over 1 MiB", lambda: of_body(MIB + 1))
    yield letter("2 MiB of blanks", lambda: message("2 MiB of blanks", b" " * 2 * MIB))
    yield letter("20 MB of noise", lambda: noise(20_000_000))
    yield letter("20 MB in a body", lambda: of_body(20_000_000))
    yield letter("20 MB of nulls", lambda: b"[" + b"null," * 4_000_000 + b"null]")
    yield letter("20 MB of objects", lambda: b"[" + b"{}," * 6_600_000 + b"{}]")
    yield letter("20 MB in a header", lambda: _noted("20 MB in a header", "x" * 20_000_000))
    yield letter("2 MiB in a header", lambda: _noted("2 MiB in a header", "x" * 2 * MIB))
    many = range(200_000)
    yield letter("200,000 notes", lambda: _noted("200,000 notes", dict(enumerate(many))))


def _noted(name: str, note: object) -> bytes:
    return message(name, headers={"note": note})


def too_large_for_a_storm() -> Entry:
    return letter("100 MB of noise", lambda: b"\xff" * 100_000_000)


def blanks() -> Iterator[Entry]:
    """Blanks at the end tell how often an entry came back to its list."""
    for name, raw in {
        "a word and a blank": b"word ",
        "a word and 9 blanks": b"word" + b" " * 9,
        "a word and 100,000 blanks": b"word" + b" " * 100_000,
        "a word and a tab": b"word\t",
        "a word and a line": b"word\r\n",
        "a blank and a word": b" word",
        "a word between blanks": b"   word   ",
        "a message cut off, and blanks": message("cut off, and blanks")[:-1] + b"   ",
        "no-break blanks": message("no-break blanks") + "\u00a0".encode(),
        "a form feed": message("a form feed") + b"\x0c",
    }.items():
        yield letter(name, raw)
    name = "unreadable, and 3 blanks"
    yield letter(name, message(name, b"[" + name.encode()) + b"   ")
