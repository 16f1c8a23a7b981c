"""From a message to commands: what may pass, and who can be answered."""

import bz2
import gzip
import json
import lzma
import tracemalloc
import zlib
from collections.abc import Callable
from datetime import UTC, datetime
from functools import partial
from typing import Any
from uuid import UUID

import pytest

from card_worker.contracts.batches import CreateBatch
from card_worker.contracts.cards import ActivateCard, ExpireCard, UpdateCard
from card_worker.contracts.commands import (
    APPLY,
    COMMANDS,
    SWEEPS,
    Command,
    InvalidCommand,
    digest_of,
)
from card_worker.contracts.dead_letters import DeadLetterReason, Unreadable
from card_worker.contracts.envelope import (
    EMBEDDED,
    HEADERS_BYTES_MAX,
    LEVELS_MAX,
    MESSAGE_BYTES_MAX,
    UNSUPPORTED,
    Call,
    Conditions,
    decompressed,
    read_envelope,
)
from card_worker.contracts.message import (
    BATCH_COST,
    COMMAND_BYTES_MAX,
    EXTRA_COST_MAX,
    FIELD_CHARS_MAX,
    REASONS_MAX,
    UnreadableItem,
    cost_of,
    read_commands,
)
from card_worker.contracts.views import PROBLEMS_MAX, Problem

ACCOUNT = "T00000001"
GOOD = {"account_id": ACCOUNT, "card_id": "card-01", "amount": 500, "currency": "NOK"}
HEADERS = {"task": "cards.activate", "id": "message-1"}
TASKS = frozenset([*COMMANDS, APPLY, *SWEEPS])
IGNORED = {
    "retries": 3,
    "shadow": "cards.create",
    "group": "group-1",
    "stamped_headers": ["till"],
    "stamps": {"till": ["7"]},
    "origin": "gen1@till",
    "replaced_task_nesting": 0,
}
"""What Celery may write into headers, and what a worker does not look at."""


def vet_body(body: bytes | str) -> None:
    pass_through(HEADERS, body)


def pass_through(headers: Any, body: bytes | str = b"[[], {}, {}]", **changed: Any) -> Call:
    content = {"content_type": "application/json", "content_encoding": "utf-8", **changed}
    return read_envelope(headers, body, **content, tasks=TASKS)


def one(task: str = "cards.activate", message_id: str = "message-1", /, **fields: Any) -> Command:
    (command,) = read_commands(task, message_id, {**GOOD, **fields})
    assert not isinstance(command, UnreadableItem)
    return command


def invalid(task: str = "cards.activate", /, **fields: Any) -> InvalidCommand:
    command = one(task, **fields)
    assert isinstance(command, InvalidCommand)
    return command


# --- what may pass ----------------------------------------------------------------------------


@pytest.mark.parametrize("name", UNSUPPORTED)
@pytest.mark.parametrize("value", [1, "x", {"a": None}, ["x"], [None, 0]], ids=repr)
def test_what_a_header_asks_for_and_is_not_done_is_a_problem(name: str, value: object) -> None:
    (problem,) = pass_through({**HEADERS, name: value}).conditions.problems
    assert problem.field == f"headers.{name}"
    assert problem.message.startswith("is not supported: ")


@pytest.mark.parametrize("name", [*UNSUPPORTED, "expires"])
@pytest.mark.parametrize("value", [None, 0, "", {}, [], [None, None], False], ids=repr)
def test_a_header_that_says_nothing_is_no_problem(name: str, value: object) -> None:
    assert pass_through({**HEADERS, name: value}) == Call({})


def test_what_concerns_only_the_sender_is_ignored() -> None:
    assert pass_through(HEADERS | IGNORED) == Call({})


@pytest.mark.parametrize("name", EMBEDDED)
def test_a_signature_in_the_body_is_a_problem(name: str) -> None:
    call = pass_through(HEADERS, json.dumps([[], GOOD, {name: [{"task": "cards.create"}]}]))
    assert call.kwargs == GOOD
    assert [problem.field for problem in call.conditions.problems] == [name]
    for empty in ("null", "[]"):
        body = f'[[], {json.dumps(GOOD)}, {{"{name}": {empty}}}]'
        assert pass_through(HEADERS, body) == Call(GOOD)


def test_positional_arguments_are_a_problem() -> None:
    call = pass_through(HEADERS, json.dumps([["card-1"], GOOD, {}]))
    assert [problem.field for problem in call.conditions.problems] == ["args"]


def test_all_problems_are_named() -> None:
    body = json.dumps([[1], {}, {"chord": {"task": "x"}}])
    call = pass_through({**HEADERS, "eta": "2030", "expires": "soon"}, body)
    fields = [problem.field for problem in call.conditions.problems]
    assert fields == ["headers.eta", "chord", "args", "headers.expires"]


@pytest.mark.parametrize(
    ("expires", "deadline"),
    [
        ("2030-01-01T00:00:00+00:00", datetime(2030, 1, 1, tzinfo=UTC)),
        ("2030-01-01T02:00:00.123456+02:00", datetime(2030, 1, 1, 0, 0, 0, 123_000, tzinfo=UTC)),
        ("2030-01-01T00:00:00Z", datetime(2030, 1, 1, tzinfo=UTC)),
    ],
)
def test_expires_is_a_deadline(expires: str, deadline: datetime) -> None:
    assert pass_through({**HEADERS, "expires": expires}) == Call({}, Conditions(deadline))


@pytest.mark.parametrize("expires", ["2030-01-01T00:00:00", "soon", 3600, [1], {"a": 1}, 1e400])
def test_an_expires_that_is_no_time_with_a_zone_is_a_problem(expires: object) -> None:
    call = pass_through({**HEADERS, "expires": expires})
    assert call.conditions.deadline is None
    assert [problem.field for problem in call.conditions.problems] == ["headers.expires"]


@pytest.mark.parametrize("task", SWEEPS)
@pytest.mark.parametrize("headers", [{"eta": "2030"}, {"expires": 5}, {"chain": [1]}], ids=repr)
def test_a_task_of_the_workers_own_has_nobody_to_answer(task: str, headers: Any) -> None:
    with pytest.raises(Unreadable, match=r"^header_not_allowed"):
        pass_through({**HEADERS, **headers, "task": task})


COMPRESSED: dict[str, Callable[[bytes], bytes]] = {
    "application/x-gzip": zlib.compress,
    "gzip": gzip.compress,
    "zlib": zlib.compress,
    "application/x-bz2": bz2.compress,
    "bzip2": bz2.compress,
    "application/x-lzma": lzma.compress,
    "xz": lzma.compress,
    "lzma": lambda data: lzma.compress(data, lzma.FORMAT_ALONE),
}


@pytest.mark.parametrize("name", COMPRESSED)
def test_a_body_may_be_compressed(name: str) -> None:
    body = json.dumps([[], GOOD, {}]).encode()
    assert decompressed(COMPRESSED[name](body), name) == body
    largest = b"x" * MESSAGE_BYTES_MAX
    assert decompressed(COMPRESSED[name](largest), name) == largest


@pytest.mark.parametrize("name", COMPRESSED)
def test_a_body_that_is_not_compressed_as_it_says_is_unreadable(name: str) -> None:
    good = COMPRESSED[name](json.dumps([[], GOOD, {}]).encode())
    for body in (b"", b"[[], {}, {}]", good[:-3], good + b"more", good[:5] + b"\0" * 20):
        with pytest.raises(Unreadable, match=r"^body_invalid: .*not decompressed"):
            decompressed(body, name)


@pytest.mark.parametrize("name", COMPRESSED)
def test_a_body_is_decompressed_only_up_to_the_limit(name: str) -> None:
    bomb = COMPRESSED[name](b"x" * (64 * MESSAGE_BYTES_MAX))
    tracemalloc.start()
    with pytest.raises(Unreadable, match="more than 1048576 bytes when decompressed"):
        decompressed(bomb, name)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 16 * MESSAGE_BYTES_MAX  # of which LZMA's dictionary takes half


def test_a_decompressor_that_needs_much_memory_is_not_used() -> None:
    filters = [{"id": lzma.FILTER_LZMA2, "dict_size": 512 * 1024 * 1024}]
    body = lzma.compress(b"[[], {}, {}]", lzma.FORMAT_XZ, filters=filters)
    with pytest.raises(Unreadable, match=r"not decompressed: LZMAError"):
        decompressed(body, "lzma")


@pytest.mark.parametrize(
    "name", ["application/zstd", "brotli", "", 5, ["gzip"], {"a": 1}], ids=repr
)
def test_another_compression_is_unreadable(name: object) -> None:
    with pytest.raises(Unreadable, match=r"^compression_unsupported"):
        decompressed(b"x", name)


@pytest.mark.parametrize(
    "task", ["celery.chord", "", None, 5, [], {}, ["cards.activate"]], ids=repr
)
def test_a_task_that_is_not_ours_does_not_pass(task: object) -> None:
    with pytest.raises(Unreadable, match=r"^task_unknown"):
        pass_through({**HEADERS, "task": task})


@pytest.mark.parametrize(
    ("task", "detail"),
    [
        ("cards.activte", '"cards.activte"; did you mean cards.activate?'),
        ("card.activate", '"card.activate"; did you mean cards.activate?'),
        ("nonsense", '"nonsense"'),
        ("x" * 60_000, f'"{"x" * 199}'),
    ],
    ids=["a letter", "a dot", "none", "long"],
)
def test_the_closest_task_is_suggested(task: str, detail: str) -> None:
    with pytest.raises(Unreadable) as raised:
        pass_through({**HEADERS, "task": task})
    assert raised.value.detail == detail
    _, item = listed({"command": "cards.activate", "command_id": "c", **GOOD}, {"command": task})
    assert isinstance(item, UnreadableItem)
    assert item.detail == detail


@pytest.mark.parametrize(
    "message_id",
    ["", "x" * 65, None, 5, [], {}, "a\x00", "\ud800", "a\nb", " a", "\u200b"],
    ids=repr,
)
def test_a_message_must_have_an_id_to_be_known_by(message_id: object) -> None:
    with pytest.raises(Unreadable, match=r"^message_id_invalid"):
        pass_through({**HEADERS, "id": message_id})


@pytest.mark.parametrize("headers", [None, {}, [], "x", {"id": "message-1"}], ids=repr)
def test_what_is_not_protocol_2_does_not_pass(headers: object) -> None:
    with pytest.raises(Unreadable, match=r"^not_a_task"):
        pass_through(headers)


def noted(size: int) -> dict[str, Any]:
    """Return headers that take so many bytes as JSON."""
    around = len(json.dumps({**HEADERS, "note": ""}, separators=(",", ":")))
    return {**HEADERS, "note": "x" * (size - around)}


def test_headers_have_at_most_64_kib() -> None:
    pass_through(noted(HEADERS_BYTES_MAX))
    many = HEADERS | {f"header-{number}": None for number in range(10_000)}
    wide = HEADERS | {"note": "ø" * (HEADERS_BYTES_MAX // 2)}
    half = HEADERS | {"note": "\ud800" + "x" * HEADERS_BYTES_MAX}
    for headers in (noted(HEADERS_BYTES_MAX + 1), many, wide, half):
        with pytest.raises(Unreadable, match=r"^headers_too_large: .*\(\d+ bytes;"):
            pass_through(headers)


def test_headers_are_json() -> None:
    for odd in (b"bytes", {1, 2}, object()):
        with pytest.raises(Unreadable, match=r"^headers_not_json"):
            pass_through({**HEADERS, "note": odd})


@pytest.mark.parametrize("kind", [None, "", "text/plain", "application/x-python-serialize", 5, []])
def test_a_body_must_say_that_it_is_json(kind: object) -> None:
    with pytest.raises(Unreadable, match=r"^content_type_unsupported"):
        pass_through(HEADERS, content_type=kind)


def test_a_body_must_say_that_it_is_utf_8() -> None:
    for encoding in ("utf-8", "UTF-8", "utf8", "us-ascii"):
        pass_through(HEADERS, content_encoding=encoding)
    others: list[Any] = [None, "", "binary", "utf-16", "latin-1", 5, []]
    for other in others:
        with pytest.raises(Unreadable, match=r"^content_encoding_unsupported"):
            pass_through(HEADERS, content_encoding=other)


CASES = {"not a call": DeadLetterReason.BODY_NOT_A_CALL}


@pytest.mark.parametrize(
    ("body", "why"),
    [
        (b"", "not JSON: Expecting value"),
        (b"\xef\xbb\xbf[[], {}, {}]", "not JSON: Expecting value"),
        (b'[[], {"a": "\xff"}, {}]', "not JSON: 'utf-8' codec"),
        (b'[[], {"a": "\xed\xa0\x80"}, {}]', "not JSON: 'utf-8' codec"),
        (b"[[], {}, {}] x", "not JSON: Extra data"),
        (b"[[], {'a': 1}, {}]", "not JSON: Expecting property name"),
        (b'[[], {"a": "\x00"}, {}]', "not JSON: Invalid control character"),
        *(
            (f'[[], {{"a": {n}}}, {{}}]', f"not JSON: {n}")
            for n in ("NaN", "Infinity", "-Infinity")
        ),
        ('[[], {"a": {"b": 1, "b": 1}}, {}]', "not JSON: duplicate key"),
        ('[[], {"a": 1, "\\u0061": 1}, {}]', "not JSON: duplicate key"),
        ("[" * 100_000 + "]" * 100_000, "not JSON: nested too deep"),
        ('{"a":' * 100_000 + "1" + "}" * 100_000, "not JSON: nested too deep"),
        ('[[], {"a": ' + "9" * 5_000 + "}, {}]", "not JSON: a number is too long"),
        *((body, "not a call") for body in ("5", "null", '"x"', "{}", "[]", "[[], {}]")),
        *((body, "not a call") for body in ("[{}, {}, {}]", "[[], [], {}]", "[[], {}, []]")),
        ("[[], {}, {}, {}]", "not a call"),
    ],
    ids=lambda value: str(value)[:30],
)
def test_a_body_that_is_no_message_does_not_pass(body: bytes | str, why: str) -> None:
    with pytest.raises(Unreadable) as raised:
        vet_body(body)
    assert raised.value.reason is CASES.get(why, DeadLetterReason.BODY_INVALID)
    assert why in CASES or (raised.value.detail or "").startswith(why)
    assert "\n" not in str(raised.value)


def test_a_message_has_at_most_1_mib() -> None:
    empty = len('[[], {"a": ""}, {}]')
    vet_body(json.dumps([[], {"a": "x" * (MESSAGE_BYTES_MAX - empty)}, {}]))
    for letters in ("x" * (MESSAGE_BYTES_MAX - empty + 1), "ø" * (MESSAGE_BYTES_MAX // 2)):
        body = json.dumps([[], {"a": letters}, {}], ensure_ascii=False)
        with pytest.raises(Unreadable, match="bytes; at most"):
            vet_body(body.encode())
        with pytest.raises(Unreadable, match="bytes; at most"):
            vet_body(body)


# --- who can be answered ----------------------------------------------------------------------


def test_a_command_is_known_by_its_message_unless_it_says_otherwise() -> None:
    assert one("cards.activate", "m").command_id == "m"
    assert one("cards.activate", "m", command_id="c").command_id == "c"


@pytest.mark.parametrize(
    "command_id", ["", "x" * 65, None, 5, "a\x00", "\ud800", "a\nb", "a\u202eb"], ids=repr
)
def test_who_names_no_usable_key_is_answered_under_the_messages(command_id: object) -> None:
    command = invalid(command_id=command_id)
    assert command.command_id == "message-1"
    assert [problem.field for problem in command.problems] == ["command_id"]


def test_the_answer_to_a_wrong_command_names_what_can_be_named() -> None:
    command = invalid(amount="5", dry_run=True)
    assert (command.account_id, command.card_id, command.dry_run) == (ACCOUNT, "card-01", True)
    for card_id in ("x" * 256, "a\nb", "\u202ea", " a", 5):
        assert invalid(card_id=card_id).card_id is None


def test_at_most_20_problems_are_named() -> None:
    assert len(invalid(**{f"x{n}": 1 for n in range(50)}).problems) == PROBLEMS_MAX


@pytest.mark.parametrize("name", ["x" * 60_000, "\U0001f600" * 10_000, "a\nb" * 10_000])
def test_of_the_name_of_an_unknown_field_no_more_is_repeated_than_the_beginning(name: str) -> None:
    (problem,) = invalid(**{name: 1}).problems
    assert problem.field == name.replace("\n", r"\n")[: FIELD_CHARS_MAX - 1] + "…"
    options = {"card_token": {"format": {name: 1}}}
    command = read_commands(
        "cards.batch_create", "m", {"account_id": ACCOUNT, "cards": [{}], "options": options}
    )
    assert isinstance(command[0], InvalidCommand)
    assert all(len(problem.field) <= FIELD_CHARS_MAX for problem in command[0].problems)


@pytest.mark.parametrize(
    ("name", "escaped"),
    [
        ("a\x1b[31m", r"a\x1b[31m"),
        ("a\nb\x00", r"a\nb\x00"),
        ("\u202eb\u200b\ufeff", r"\u202eb\u200b\ufeff"),
        ("\U000e0041\ue000", r"\U000e0041\ue000"),
        ("kort-æ 卡😀", "kort-æ 卡😀"),
    ],
)
def test_the_name_of_an_unknown_field_is_repeated_in_visible_characters(
    name: str, escaped: str
) -> None:
    assert [problem.field for problem in invalid(**{name: 1}).problems] == [escaped]
    inside = invalid("cards.create", card_token={name: 1})
    assert f"card_token.{escaped}" in [problem.field for problem in inside.problems]


def wrong_fields(**fields: Any) -> list[str]:
    (command,) = read_commands("cards.batch_create", "m", {"account_id": ACCOUNT, **fields})
    assert isinstance(command, InvalidCommand)
    return [problem.field for problem in command.problems]


def test_a_list_too_long_for_a_batch_is_read_up_to_its_first_wrong_card() -> None:
    # To describe each of the 500,000 wrong cards of a message would take 10 s.
    good, wrong = {"card_id": "a"}, [0, {}, {"x": 1}, {"card_id": "\u200b"}]
    assert len(wrong_fields(cards=[good] * 996 + wrong)) == len(wrong) + 1
    assert wrong_fields(cards=[good] * 997 + wrong) == ["cards.997"]
    assert wrong_fields(cards=[0] * 500_000) == ["cards.0"]


def test_a_listed_batch_has_at_most_64_kib_besides_its_cards() -> None:
    cards = [{"card_id": f"{number}-{'x' * 200}"} for number in range(1_000)]
    assert wrong_fields(cards=cards, name="x" * COMMAND_BYTES_MAX) == [""]
    assert wrong_fields(cards=cards, **{f"x{n}": 0 for n in range(10_000)}) == [""]
    whole = {"account_id": ACCOUNT, "cards": cards, "name": "x" * 255}
    (command,) = read_commands("cards.batch_create", "m", whole)
    assert isinstance(command, CreateBatch)


SECRET = "tok-12345678"
HIDING: list[Any] = [
    {"token": SECRET},
    {"token": {"value": SECRET}},
    [{"pin": [SECRET]}],
    json.dumps({"token": SECRET}),
    repr({"pin": SECRET}),
]


@pytest.mark.parametrize("value", HIDING, ids=repr)
def test_a_reason_repeats_no_secret(value: Any) -> None:
    content = ("content_type", "content_encoding")
    attempts: list[Callable[[], object]] = [
        lambda: pass_through({**HEADERS, "task": value}),
        *(partial(pass_through, HEADERS, **{name: value}) for name in content),
        lambda: listed({"command": value, **GOOD}),
    ]
    for attempt in attempts:
        with pytest.raises(Unreadable) as raised:
            attempt()
        assert SECRET not in f"{raised.value} {raised.value.detail}"
        assert len(str(raised.value)) < 300
    neighbour = {"command": "cards.activate", "command_id": "c", **GOOD}
    _, letter = listed(neighbour, {"command": value, **GOOD})
    assert isinstance(letter, UnreadableItem)
    assert SECRET not in str(letter.detail)


def test_a_batch_of_which_no_card_is_right_has_only_their_problems() -> None:
    asked = {"account_id": ACCOUNT, "cards": [{"card_id": ""}, {}]}
    (command,) = read_commands("cards.batch_create", "m", asked)
    assert isinstance(command, InvalidCommand)
    named = [problem.field for problem in command.problems]
    assert named == ["cards.0.card_id", "cards.1.card_id"]


@pytest.mark.parametrize("task", ["cards.create", "cards.activate"])
def test_no_problem_repeats_a_value(task: str) -> None:
    marker = "4711-0815"
    fields: dict[str, Any] = dict.fromkeys(
        ("amount", "currency", "type", "expires_at", "dry_run", "metadata", "pin", "card_token"),
        marker,
    )
    problems = invalid(task, **fields, seal_to=[marker]).problems
    assert {problem.field for problem in problems} >= {"pin", "card_token", "seal_to", "amount"}
    assert all(marker not in problem.message for problem in problems)


def test_a_command_has_at_most_64_kib() -> None:
    def padded(size: int) -> Any:
        fields = {**GOOD, "command_id": "c", "name": ""}
        room = size - len(json.dumps(fields, separators=(",", ":")))
        return one(command_id="c", name="x" * room).problems  # type: ignore[union-attr]

    assert [problem.field for problem in padded(COMMAND_BYTES_MAX)] == ["name"]
    assert [problem.message for problem in padded(COMMAND_BYTES_MAX + 1)] == [
        f"a command has at most {COMMAND_BYTES_MAX} bytes"
    ]


# --- lists ------------------------------------------------------------------------------------


def listed(*parts: Any, message_id: str = "m") -> list[Command | UnreadableItem]:
    return read_commands(APPLY, message_id, {"commands": list(parts)})


def test_a_list_may_mix_commands_and_keeps_their_order() -> None:
    about = {"account_id": ACCOUNT, "card_id": "card-01"}
    read = listed(
        {"command": "cards.batch_create", "command_id": "a", "account_id": ACCOUNT, "cards": [{}]},
        {"command": "cards.expire", "command_id": "b", **about},
        {"command": "cards.activate", "command_id": "c", **GOOD},
        {
            "command": "cards.batch_create",
            "command_id": "d",
            "account_id": "P00000001",
            "cards": [{"card_id": "card-01"}],
        },
    )
    assert [type(part) for part in read] == [InvalidCommand, ExpireCard, ActivateCard, CreateBatch]
    assert [part.command_id for part in read if not isinstance(part, UnreadableItem)] == list(
        "abcd"
    )


def test_metadata_that_is_too_deep_is_a_problem_of_its_own_command_only() -> None:
    deep: Any = 1
    for _ in range(LEVELS_MAX - 4):
        deep = {"a": deep}
    part = {"command": "cards.activate", **GOOD}
    parts = [
        {**part, "command_id": "good"},
        {**part, "command_id": "wrong", "metadata": deep},
    ]
    call = pass_through({"task": APPLY, "id": "m"}, json.dumps([[], {"commands": parts}, {}]))
    good, wrong = read_commands(APPLY, "m", call.kwargs)
    assert isinstance(good, ActivateCard)
    assert isinstance(wrong, InvalidCommand)
    assert [(each.field, each.message) for each in wrong.problems] == [
        ("metadata", "must have at most 8 levels")
    ]


def test_a_command_in_a_list_brings_its_own_key() -> None:
    (command,) = listed({"command": "cards.activate", **GOOD}, message_id="x" * 64)
    assert isinstance(command, InvalidCommand)
    assert [problem.field for problem in command.problems] == ["command_id"]
    # An id to answer under: the message's and the place, within the 64 characters of an id.
    assert command.command_id == "x" * 60 + ":0"


UNKNOWN: list[Any] = [5, [], {}, "cards.explode", APPLY]


@pytest.mark.parametrize(
    "part",
    [
        *(None, 5, "x", [], {}, {"command": "cards.activate"}, {"command": None, **GOOD}),
        *({"command": command, **GOOD} for command in UNKNOWN),
    ],
    ids=repr,
)
def test_a_part_nobody_can_be_answered_for_is_a_letter(part: Any) -> None:
    neighbour = {"command": "cards.activate", "command_id": "c", **GOOD}
    first, letter, last = listed(neighbour, part, neighbour)
    assert isinstance(letter, UnreadableItem)
    assert (letter.index, letter.item) == (1, part)
    assert first == last
    assert isinstance(first, ActivateCard)


GARBAGE: list[tuple[list[Any], list[str]]] = [
    ([0], ["1 of 1", "0: item_not_an_object"]),
    ([0] * 1_000, ["1000 of 1000", "0-999: item_not_an_object"]),
    (
        [{}, 1, 2, {}, 3, {"command": "x"}],
        [
            *("6 of 6", "0, 3: command_unknown null", "1-2, 4: item_not_an_object"),
            '5: command_unknown "x"',
        ],
    ),
]


@pytest.mark.parametrize(("items", "lines"), GARBAGE)
def test_a_list_of_which_nothing_can_be_read_says_why(items: list[Any], lines: list[str]) -> None:
    with pytest.raises(Unreadable) as raised:
        listed(*items)
    assert raised.value.reason is DeadLetterReason.ITEMS_UNREADABLE
    assert (raised.value.detail or "").splitlines() == lines


def test_what_a_list_says_of_itself_is_bounded() -> None:
    every_other = [{"command": f"{number}" + "x" * 1_000} for number in range(500)]
    with pytest.raises(Unreadable) as raised:
        listed(*(part for one in every_other for part in (one, 0)))
    lines = (raised.value.detail or "").splitlines()
    assert len(lines) == REASONS_MAX + 2
    assert lines[-1] == "and 481 other reasons"
    assert len(str(raised.value)) < 300
    assert len(raised.value.detail or "") < 10_000


@pytest.mark.parametrize("task", ["batches.approve", "batches.block", "cards.batch_create"])
def test_a_list_has_room_for_ten_commands_about_batches(task: str) -> None:
    about: dict[str, Any] = {"batch_id": "b"} if task != "cards.batch_create" else {}
    about |= {"reason": "x"} if task == "batches.block" else {}
    about |= {"count": 5, "card_id_pattern": "{n}"} if task == "cards.batch_create" else {}
    part = {"command": task, "account_id": ACCOUNT, **about}
    plain = {"command": "cards.activate", "command_id": "plain", **GOOD}
    read = listed(*({**part, "command_id": f"c{n}"} for n in range(20)), plain)
    assert [isinstance(one, InvalidCommand) for one in read] == [False] * 10 + [True] * 10 + [False]
    refused = read[10]
    assert isinstance(refused, InvalidCommand)
    assert (refused.command_id, refused.problems[0].field) == ("c10", "")
    assert refused.problems[0].message.startswith("a list has at most 1000 listed cards;")


def test_a_list_has_room_for_a_thousand_listed_cards() -> None:
    def batch(number: int, cards: int) -> dict[str, Any]:
        listed_cards = [{"card_id": f"{number}-{n}"} for n in range(cards)]
        about = {"command": "cards.batch_create", "command_id": f"c{number}"}
        return {**about, "account_id": ACCOUNT, "cards": listed_cards}

    read = listed(*(batch(number, cards) for number, cards in enumerate([500, 501, 500, 1])))
    assert [isinstance(one, InvalidCommand) for one in read] == [False, True, False, True]
    # As alone, the rules refuse it.
    assert isinstance(listed(batch(0, 1_001))[0], CreateBatch)


@pytest.mark.parametrize(
    ("task", "fields", "parts"),
    [
        ("cards.activate", GOOD, 1),
        ("nobody.knows", {}, 1),
        (["x"], {}, 1),
        ("cards.batch_create", {"cards": [{}] * 3}, 4),
        ("cards.batch_create", {"cards": [{}] * 9_999}, 1 + EXTRA_COST_MAX),
        ("cards.batch_create", {"cards": 5}, 1 + BATCH_COST),
        ("cards.batch_create", {"count": 5}, 1 + BATCH_COST),
        ("batches.block", {}, 1 + BATCH_COST),
        (APPLY, {}, 1),
        (APPLY, {"commands": 5}, 1),
        (APPLY, {"commands": [0, {}, {"command": []}, {"command": "cards.expire"}]}, 4),
        (APPLY, {"commands": [{"command": "batches.close"}, 0]}, 2 + BATCH_COST),
        (APPLY, {"commands": [{"command": "batches.close"}] * 1_000}, 1_000 + EXTRA_COST_MAX),
    ],
)
def test_how_much_the_commit_of_a_message_is_asked_for(
    task: str, fields: dict[str, Any], parts: int
) -> None:
    assert cost_of(task, fields) == parts


LATE = datetime(2030, 1, 1, tzinfo=UTC)


@pytest.mark.parametrize(
    ("not_after", "expected"),
    [
        (None, LATE),
        ("2029-12-31T00:00:00Z", datetime(2029, 12, 31, tzinfo=UTC)),
        ("2030-01-02T00:00:00Z", LATE),
    ],
)
def test_of_two_deadlines_the_earlier_counts(not_after: str | None, expected: datetime) -> None:
    fields = GOOD if not_after is None else {**GOOD, "not_after": not_after}
    (command,) = read_commands("cards.activate", "m", fields, conditions=Conditions(LATE))
    assert isinstance(command, ActivateCard)
    assert command.not_after == expected
    (plain,) = read_commands("cards.activate", "m", GOOD)
    assert isinstance(plain, ActivateCard)
    assert digest_of(command) == digest_of(plain)


def test_the_deadline_of_a_list_is_that_of_each_command() -> None:
    parts = [{"command": "cards.activate", "command_id": f"c{n}", **GOOD} for n in range(2)]
    read = read_commands(APPLY, "m", {"commands": parts}, conditions=Conditions(LATE))
    assert [getattr(command, "not_after", None) for command in read] == [LATE, LATE]


def test_a_deadline_changes_nothing_else_of_an_update() -> None:
    fields = {"account_id": ACCOUNT, "card_id": "card-01", "name": None}
    (late,) = read_commands("cards.update", "m", fields, conditions=Conditions(LATE))
    (plain,) = read_commands("cards.update", "m", fields)
    assert isinstance(late, UpdateCard)
    assert isinstance(plain, UpdateCard)
    assert digest_of(late) == digest_of(plain)
    assert late.model_fields_set - {"not_after"} == plain.model_fields_set


def test_with_problems_of_its_envelope_each_command_is_invalid() -> None:
    problem = Problem(field="headers.eta", message="is not supported")
    conditions = Conditions(problems=(problem,))
    (command,) = read_commands("cards.activate", "m", GOOD, conditions=conditions)
    assert isinstance(command, InvalidCommand)
    assert (command.account_id, command.card_id) == (ACCOUNT, "card-01")
    assert command.problems == (problem,)
    parts = [{"command": "cards.activate", "command_id": f"c{n}", **GOOD} for n in range(2)]
    read = read_commands(APPLY, "m", {"commands": parts}, conditions=conditions)
    assert [type(command) for command in read] == [InvalidCommand, InvalidCommand]
    with pytest.raises(
        Unreadable, match=r"^account_id_invalid: .*\(headers.eta: is not supported\)"
    ):
        read_commands("cards.activate", "m", {}, conditions=conditions)


def test_a_list_of_a_thousand_is_read_and_one_more_is_not() -> None:
    part = {"command": "cards.activate", "command_id": "c", **GOOD}
    assert len(listed(*[part] * 1000)) == 1000
    with pytest.raises(Unreadable, match=r"^command_list_invalid: .*\(1001 items\)\.$"):
        listed(*[part] * 1001)


@pytest.mark.parametrize("task", [*COMMANDS])
def test_without_an_account_even_a_wrong_command_is_unreadable(task: str) -> None:
    with pytest.raises(Unreadable, match=r"^account_id_invalid"):
        read_commands(task, "m", {"unknown": UUID(int=1)})
