"""Dead letters: everything that is stored besides the body is bounded."""

import json
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import Engine, select

from card_worker.contracts.dead_letters import DeadLetterReason
from card_worker.contracts.envelope import HEADERS_BYTES_MAX
from card_worker.storage import dead_letters
from card_worker.storage.dead_letters import (
    DeadLetter,
    Which,
    count_by_reason,
    find,
    list_letters,
    open_ids,
    open_letter,
)
from card_worker.storage.engine import begin
from card_worker.storage.tables import dead_letters as table
from tests.codes import OWNER

NOW = datetime(2026, 11, 25, tzinfo=UTC)
LONG = "\x00😀\ud800" * 500_000
SECRET = "DINCARD:9f0c-4711"


def store_letter(engine: Engine, **parts: Any) -> DeadLetter:
    """Store a dead letter; return it as it is stored."""
    about: dict[str, Any] = {
        "queue": "cards",
        "reason": DeadLetterReason.DEFECT,
        "body": b"x",
        "task": "cards.create",
    }
    letter = DeadLetter(**{"received_at": NOW, **about, **parts})
    with begin(engine) as (connection, _):
        dead_letters.add(connection, letter, [OWNER.recipient])
        # Of the same letter, come again, the number stays.
        newest = connection.execute(select(table.c.id).order_by(table.c.id.desc())).first()
        assert newest is not None
        kept = find(connection, newest.id)
    assert kept is not None
    return kept


@pytest.mark.parametrize(
    ("part", "chars_max"),
    [
        *(("queue", 255), ("task", 255), ("message_id", 255), ("content_type", 255)),
        *(("content_encoding", 255), ("detail", 32 * 1024)),
    ],
)
def test_texts_of_a_dead_letter_are_cut(engine: Engine, part: str, chars_max: int) -> None:
    kept = getattr(store_letter(engine, **{part: LONG}), part)
    assert len(kept) == chars_max
    assert kept.startswith("\\x00😀\\ud800")
    assert kept.endswith("…")
    assert getattr(store_letter(engine, **{part: "x" * chars_max}), part) == "x" * chars_max


HEADERS: dict[str, dict[str, Any]] = {
    "one is long": {"task": "cards.create", "note": LONG},
    "many": {"task": "cards.create", **{f"x{number}": [1] for number in range(50_000)}},
    "a name is long": {"task": "cards.create", LONG: None},
    "with secrets": {"token": SECRET, "argsrepr": f"('{SECRET}',)", "note": "x" * 100_000},
}


@pytest.mark.parametrize("headers", HEADERS.values(), ids=HEADERS)
def test_the_beginning_of_too_large_headers_is_stored(
    engine: Engine, headers: dict[str, Any]
) -> None:
    kept = store_letter(engine, headers=headers, task="transactions.create")
    assert kept.is_cut
    assert kept.headers is not None
    shown = kept.headers["cut"]
    assert shown.startswith('{"task":"cards.create",') or '"token":"***"' in shown
    assert len(shown) == 8 * 1024
    assert SECRET not in json.dumps(kept.headers)
    if kept.sealed is not None:
        assert len(kept.sealed) < 50_000
        assert SECRET in json.dumps(open_letter(kept, [OWNER.identity]).headers)
        assert open_letter(kept, [OWNER.identity]).is_cut


def test_readable_headers_are_stored_whole(engine: Engine) -> None:
    headers = {"task": "cards.create", "note": "x" * (HEADERS_BYTES_MAX - 40)}
    kept = store_letter(engine, headers=headers)
    assert (kept.headers, kept.is_cut) == (headers, False)


@pytest.mark.parametrize("body", [b"nonsense", b"nonsense ", b"\xff", b'{"cut": {}'])
def test_an_entry_that_is_no_message_is_stored_once(engine: Engine, body: bytes) -> None:
    about: dict[str, Any] = {"task": None, "message_id": None, "headers": {}}
    ends = (b"", b" ", b" \t") if body.endswith(b"}") else (b"", b"", b"")
    kept = [store_letter(engine, body=body + end, **about) for end in ends]
    assert len({letter.id for letter in kept}) == 1
    assert store_letter(engine, body=body + b"!", **about).id != kept[0].id
    assert store_letter(engine, body=body, **about | {"message_id": "m"}).id != kept[0].id
    with begin(engine) as (connection, _):
        assert len(list_letters(connection, resolved=False, letters_max=9)) == 3


def test_a_body_is_stored_whole(engine: Engine) -> None:
    body = bytes(range(256)) * 20_000
    assert store_letter(engine, body=body).body == body


def test_letters_are_selected_by_reason_task_and_time(engine: Engine) -> None:
    hour = timedelta(hours=1)
    ids = [
        store_letter(engine, message_id=str(place), reason=reason, task=task, received_at=at).id
        for place, (reason, task, at) in enumerate(
            [
                (DeadLetterReason.DEFECT, "cards.create", NOW),
                (DeadLetterReason.DEFECT, "cards.block", NOW + hour),
                (DeadLetterReason.UNSIGNED, "cards.create", NOW + 2 * hour),
            ]
        )
    ]
    selected = {
        Which(): [0, 1, 2],
        Which(reason=DeadLetterReason.DEFECT): [0, 1],
        Which(task="cards.create"): [0, 2],
        Which(since=NOW + hour): [1, 2],
        Which(before=NOW + hour): [0],
        Which(reason=DeadLetterReason.DEFECT, since=NOW + hour): [1],
    }
    with begin(engine) as (connection, now):
        for which, places in selected.items():
            letters = list_letters(connection, resolved=False, letters_max=9, which=which)
            wanted = [ids[place] for place in places]
            assert [letter.id for letter in letters] == wanted[::-1], which
            assert open_ids(connection, which) == wanted, which
        counts = count_by_reason(connection, resolved=False)
        assert counts == [
            (DeadLetterReason.DEFECT, 2, NOW, NOW + hour),
            (DeadLetterReason.UNSIGNED, 1, NOW + 2 * hour, NOW + 2 * hour),
        ]
        dead_letters.resolve(connection, ids[0], now, "dropped")
        assert open_ids(connection, Which()) == ids[1:]
        assert [each.letters for each in count_by_reason(connection, resolved=True)] == [1]
