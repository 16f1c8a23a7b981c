"""Entries that are a message as it should be, around a body that isn't."""

import json
from collections.abc import Iterator
from typing import Any

from card_worker.contracts.envelope import LEVELS_MAX
from tests.transport.entries import (
    ABSENT,
    ACCOUNT,
    ODD,
    Entry,
    body,
    body_around,
    deep,
    fields,
    letter,
    listed,
    message,
    nested,
    part,
    rejected,
    signature,
)


def unreadable(name: str, raw: bytes) -> Entry:
    return letter(name, message(name, raw))


def invalid(name: str, /, **changed: Any) -> Entry:
    return rejected(name, message(name, body(name, **changed)))


def truncated() -> Iterator[Entry]:
    raw = body("truncated body")
    for place in range(1, len(raw), len(raw) // 12):
        yield unreadable(f"the first {place} bytes of a body", raw[:place])
    for place in (1, 4, 5):
        yield unreadable(f"a body without its first {place} bytes", raw[place:])


def not_utf_8() -> Iterator[Entry]:
    for name, encoding in {
        "a body with a BOM": "utf-8-sig",
        "a body in UTF-16": "utf-16",
        "a body in UTF-16 BE": "utf-16-be",
        "a body in UTF-32": "utf-32",
        "a body in Latin-1": "latin-1",
    }.items():
        text = json.dumps([[], fields(name, name="kjøp"), {}], ensure_ascii=False)
        yield unreadable(name, text.encode(encoding))
    for name, wrong in {
        "a lone byte in a body": b"\xfe",
        "an overlong NUL in a body": b"\xc0\x80",
        "half a pair in a body": b"\xed\xb0\x80",
        "a character cut off in a body": b"\xe2\x82",
    }.items():
        yield unreadable(name, body(name, name="<here>").replace(b"<here>", wrong))


def not_strict() -> Iterator[Entry]:
    for number in ("NaN", "Infinity", "-Infinity", "9" * 5_000, "05", "+5", ".5", "5.", "0x10"):
        name = f"amount {number[:12]}"
        yield unreadable(name, body(name, amount="<here>").replace(b'"<here>"', number.encode()))
    for number in ("NaN", "9" * 5_000, "[-Infinity]", '{"a": {"b": NaN}}'):
        name = f"metadata {number[:20]}"
        yield unreadable(name, body_around(name, number))
    for name, old, new in (
        ("amount twice", b'"amount": ', b'"amount": 1, "amount": '),
        ("the same amount twice", b'"amount": ', b'"amount": 500, "amount": '),
        ("amount twice, escaped", b'"amount": ', b'"\\u0061mount": 1, "amount": '),
        ("account twice", b'"account_id": ', b'"account_id": "P00000001", "account_id": '),
        ("a comma too many in a body", b"}, {}]", b",}, {}]"),
        ("a comment in a body", b"}, {}]", b"/* */}, {}]"),
        ("single quotes in a body", b'"NOK"', b"'NOK'"),
        ("a NUL in a body", b'"NOK"', b'"N\x00K"'),
        ("a word behind a body", b"{}]", b"{}] x"),
        ("two bodies", b"{}]", b"{}][[], {}, {}]"),
    ):
        raw = body(name)
        assert raw.count(old) == 1
        yield unreadable(name, raw.replace(old, new))
    name = "twice in metadata"
    yield unreadable(name, body_around(name, '{"a": {"b": 1, "b": 1}}'))
    name = "twice in embed"
    yield unreadable(name, body(name)[:-3] + b'{"chain": 1, "chain": null}]')


def not_three() -> Iterator[Entry]:
    for text in ("null", "5", '"x"', "{}", "[]", "[[]]", "[[], {}]", "[[], {}, {}, {}]"):
        yield unreadable(f"a body of {text}", text.encode())
    asked = fields("not three")
    for odd, value in ODD.items():
        if odd not in ("a list", "absent"):
            name = f"args: {odd}"
            yield unreadable(name, json.dumps([value, asked, {}]).encode())
        if odd not in ("an object", "absent"):
            name = f"kwargs: {odd}"
            yield unreadable(name, json.dumps([[], value, {}]).encode())
        if odd not in ("an object", "absent", "null"):
            name = f"embed: {odd}"
            yield unreadable(name, json.dumps([[], asked, value]).encode())
    listed_args: list[Any] = [[None], ["card-1"], [[]], [{"card_id": "x"}], list(range(1_000))]
    for args in listed_args:
        name = f"args {json.dumps(args)[:20]}"
        yield invalid(name, args=args)
    name = "kwargs in pairs"
    yield unreadable(name, json.dumps([[], [["card_id", "x"]], {}]).encode())


def embedded() -> Iterator[Entry]:
    for what in ("callbacks", "errbacks", "chain"):
        name = f"{what} embedded"
        yield invalid(name, embed={what: [signature(f"what {what} make")]})
        for odd in ("x", 5, {"a": 1}, [5]):
            yield invalid(f"{what} {json.dumps(odd)}", embed={what: odd})
    yield invalid("chord embedded", embed={"chord": signature("what a chord makes")})
    yield invalid("chord 5", embed={"chord": 5})


def nobody() -> Iterator[Entry]:
    """Commands that nobody could be answered for."""
    odd = ODD | {
        "no text": "",
        "65 characters": "T" * 65,
        "a NUL": "T0000000\x00",
        "a surrogate": "T\ud800",
        "1e400": "<1e400>",
    }
    for kind, value in odd.items():
        name = f"account: {kind}"
        raw = body(name, account_id=value)
        yield unreadable(name, raw.replace(b'"<1e400>"', b"1e400"))
    yield unreadable("no fields", b"[[], {}, {}]")
    yield unreadable("foreign fields", b'[[], {"x": 1, "y": [2]}, {}]')


def amounts() -> Iterator[Entry]:
    for text in (
        "-1",
        "9007199254740992",
        "9007199254740993",
        "9223372036854775807",
        "9223372036854775808",
        "-9223372036854775809",
        "18446744073709551616",
        "1" + "0" * 400,
        "1" + "0" * 4_000,
        "1e5",
        "5.0",
        "0.1",
        "1e-400",
        '"500"',
        '""',
        '"NaN"',
        "true",
        "false",
        "null",
        "[]",
        "[500]",
        "{}",
        '"\N{ARABIC-INDIC DIGIT FIVE}"',
    ):
        name = f"amount = {text[:25]} of {len(text)}"
        raw = body(name, amount="<here>").replace(b'"<here>"', text.encode())
        yield rejected(name, message(name, raw))
    for text in ("1e400", "-1e400"):
        name = f"amount = {text}"
        yield unreadable(name, body(name, amount="<here>").replace(b'"<here>"', text.encode()))
    yield invalid("no amount", amount=ABSENT)
    currencies: list[Any] = [
        "XXX",
        "nok",
        "NOK ",
        "",
        "N\N{GREEK CAPITAL LETTER OMICRON}K",
        "NOK\x00",
        "\ud800",
        578,
        None,
        ["NOK"],
        {},
    ]
    for currency in currencies:
        yield invalid(f"currency = {json.dumps(currency)}", currency=currency)
    yield invalid("no currency", currency=ABSENT)


def odd_fields() -> Iterator[Entry]:
    for field in ("self", "__class__", "task", "kwargs", "message_id", "request", "command"):
        yield invalid(f"a field {field}", **{field: 1})
    name = "a field args"
    yield rejected(name, message(name, body(name, x=1).replace(b'"x"', b'"args"')))
    for field in ("", " ", "a\x00b", "\ud800", "__type__", "x" * 20_000, "\n", "account_id\x00"):
        yield invalid(f"a field {json.dumps(field)[:20]}", **{field: 1})
    for field in ("schema", "version", "v", "specversion", "datacontenttype"):
        yield invalid(f"a field {field}", **{field: "0.1"})
    wrong: dict[str, list[Any]] = {
        "card_id": ["", " ", "x" * 256, "a\x00b", "\ud800", "\u200b", "a\nb", None, 5, [], {}],
        "command_id": ["", "x" * 65, "a\x00b", "\udc00", None, 5, [], {}],
        "dry_run": ["yes", 1, None, []],
        "not_after": [
            "tomorrow",
            5,
            "2026-01-01",
            "2026-13-01T00:00:00Z",
            "9999-12-31T23:59:59-23:59",
        ],
        "expires_at": ["0000-00-00T00:00:00Z", "2026-11-22T10:00:00", True],
        "name": ["a\x00b", "\ud800", "\u202ea", "a\nb", "x" * 256, 5],
        "customer_id": ["\udfff", " x"],
        "created_by": ["a\x00", []],
        "type": ["bomb", 5],
        "pin": ["1234"],
        "seal_to": ["age1x"],
        "card_token": [{"format": "x"}],
        "metadata": [[], "x", {"\ud800": 1}, {"a\x00": 1}, {"a": "\ud800"}, {"dintero_x": 1}],
    }
    for field, values in wrong.items():
        for value in values:
            name = f"{field} = {json.dumps(value)[:30]}"
            yield invalid(name, **{field: value})
    yield invalid("metadata of 17 KiB", metadata={"a": "x" * 17 * 1024})
    name = "metadata of 1e400"
    yield unreadable(name, body_around(name, '{"a": 1e400}'))
    name = "64 KiB in one command"
    yield invalid(name, created_by="x" * 64 * 1024)
    name = "20,000 fields"
    yield invalid(name, **{f"field-{number}": number for number in range(20_000)})


def nested_deep() -> Iterator[Entry]:
    for levels in (9, 10, 11, 20, 100, 500, 945, 100_000):
        name = f"metadata {levels} deep"
        raw = body_around(name, nested(levels, '{"a":', "}", "1"))
        fate = rejected if levels <= LEVELS_MAX - 2 else letter
        yield fate(name, message(name, raw))
    for field in ("name", "card_id", "command_id", "account_id", "unknown"):
        for levels in (20, 100, 954) if field == "account_id" else (20, 100):
            name = f"{levels} lists as {field}"
            is_readable = levels == 20 and field != "account_id"
            fate = rejected if is_readable else letter
            yield fate(name, message(name, body_around(name, nested(levels), field)))
    name = "a body of 100,000 lists"
    yield unreadable(name, nested(100_000).encode())
    name = "args of 9 lists"
    yield invalid(name, args=deep(9))
    name = "embed of 100 lists"
    yield unreadable(name, body(name, embed={"note": deep(100)}))


def lists() -> Iterator[Entry]:
    for odd, value in ODD.items():
        name = f"commands: {odd}"
        if odd == "a list":
            value = []  # noqa: PLW2901
        yield letter(name, listed(name, value, **({"note": name} if odd == "absent" else {})))
    name = "1,001 commands"
    yield letter(name, listed(name, [part(f"{name}: {place}") for place in range(1_001)]))
    name = "20,000 nulls"
    yield letter(name, listed(name, [None] * 20_000))
    for name, more in {
        "a list with an account": {"account_id": ACCOUNT},
        "a list with a command": {"command_id": "x"},
    }.items():
        yield letter(name, listed(name, [part(name)], **more))
    for kind, value in {
        "null": None,
        "a number": 5,
        "a text": "x",
        "a list": [[]],
        "no fields": {},
        "only its name": {"command": "cards.create"},
        "an unknown command": part("a part", command="cards.explode"),
        "no command": part("a part", command=None),
        "a list as command": part("a part", command=["cards.create"]),
        "nobody's": part("a part", account_id=ABSENT),
        "a sweep": {"command": "sweeps.expire_cards"},
        "another list": {"command": "commands.apply", "commands": [part("a part")]},
        "1e400": {"command": "cards.create", "amount": "<1e400>"},
    }.items():
        name = f"a part: {kind}"
        raw = json.dumps([[], {"commands": [value]}, {}]).replace('"<1e400>"', "1e400")
        yield letter(name, message(name, raw.encode(), task="commands.apply"))
    wrong: dict[str, dict[str, Any]] = {
        "a part with a wrong amount": {"amount": -1},
        "a part with a foreign field": {"message_id": 1},
        "a part with a surrogate": {"name": "\ud800"},
        "a part with a wrong key": {"command_id": 5},
        "a part without a key": {"command_id": ABSENT},
    }
    for name, changed in wrong.items():
        yield rejected(name, listed(name, [part(name, **changed)]))
    name = "one key twice in a list"
    yield rejected(name, listed(name, [part(name), part(name, amount=501)]))


def batches() -> Iterator[Entry]:
    same = [{"card_id": "same"}, {"card_id": "same"}]
    many = [{"card_id": f"card-{number}"} for number in range(1_001)]
    wrong: dict[str, dict[str, Any]] = {
        "of nothing": {"cards": []},
        "of null": {"cards": None},
        "of text": {"cards": "card-01"},
        "of no cards": {"cards": [None, 5, []]},
        "of 1,001 cards": {"cards": many},
        "of one card twice": {"cards": same},
        "of a pattern": {"count": 5, "card_id_pattern": "A{n:09999999d}"},
        "of cards with more": {"cards": [{"card_id": "x", "amount": 5}]},
    }
    for kind, asked in wrong.items():
        name = f"a batch {kind}"
        kwargs = {"account_id": ACCOUNT, "command_id": name, **asked}
        raw = json.dumps([[], kwargs, {}]).encode()
        yield rejected(name, message(name, raw, task="cards.batch_create"))
