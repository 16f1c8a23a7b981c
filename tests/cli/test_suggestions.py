"""A mistyped name is answered with the closest known one, otherwise with all known ones."""

import json
from pathlib import Path

import pytest

from tests.cli.commands import refused, run

BROKER = {"BROKER_URL": "redis://127.0.0.1:1/0"}


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (("cards.activte",), "there is no command cards.activte; did you mean cards.activate?"),
        (("command.apply",), "there is no command command.apply; did you mean commands.apply?"),
        (("x" * 100_000,), f"there is no command {'x' * 100_000}; there are cards."),
        (("nonsense",), "there is no command nonsense; there are cards."),
        (("cards.block", "acount_id=T00000001"), "no field acount_id; did you mean account_id?"),
        (("cards.block", "zzz=1"), "cards.block has no field zzz; there are account_id, "),
        (("cards.block", "command=cards.block"), "cards.block has no field command; did you mean"),
        (("commands.apply", "command=[]"), "commands.apply has no field command; did you mean co"),
    ],
)
def test_send(arguments: tuple[str, ...], text: str) -> None:
    code, line = refused(run("send", *arguments, **BROKER))
    assert (code, text in line) == (2, True), line


def test_send_file_names_a_command(tmp_path: Path) -> None:
    file = tmp_path / "cards.csv"
    file.write_text("card_id\n")
    code, line = refused(run("send-file", file, "--task", "card.block", **BROKER))
    assert (code, line) == (2, "there is no command card.block; did you mean cards.block?")


@pytest.mark.parametrize(
    ("header", "text"),
    [
        (
            "card_id,amout",
            "column 2 of the header is no field of cards.activate; did you mean amou",
        ),
        ("card_id,zzz", "column 2 of the header is no field of cards.activate; there are account_"),
        ("crd_id,amout", "columns 1 and 2 of the header are no fields of cards.activate; there ar"),
    ],
)
def test_send_file_names_a_column(header: str, text: str, tmp_path: Path) -> None:
    file = tmp_path / "cards.csv"
    file.write_text(f"{header}\n")
    code, line = refused(run("send-file", file, **BROKER))
    assert (code, text in line) == (1, True), line


@pytest.mark.parametrize(
    ("field", "text"),
    [
        ("amout", "its field 2 is no field of cards.activate; did you mean amount?"),
        ("zzz", "its field 2 is no field of cards.activate"),
        ("SECRET" * 50, "its field 2 is no field of cards.activate"),
        ("SECRET\n", "its field 2 is no field of cards.activate"),
    ],
)
def test_send_file_names_no_unknown_field_of_a_line(field: str, text: str, tmp_path: Path) -> None:
    file = tmp_path / "cards.jsonl"
    file.write_text(json.dumps({"account_id": "T00000001", field: 1, "card_id": "c"}))
    done = run("send-file", file, **BROKER)
    problems = done.stderr.splitlines()[0].removeprefix("line 1: ").split("; ", 2)
    assert "; ".join(problems[2:]) == text or text in done.stderr
    assert "SECRET" not in done.stderr
