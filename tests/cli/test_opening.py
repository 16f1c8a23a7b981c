"""Encrypted content is opened for its owner; files that only the owner can read are left whole."""

import csv
import io
import json
import resource
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from card_worker.bureau_file import COLUMNS
from card_worker.secrets.sealing import new_key_pair, read_recipients, seal, seal_text
from tests.cli.commands import lines_of_json, refused, run
from tests.codes import OWNER

SECRETS = {"account_id": "T00000001", "card_id": "card-1", "token": "DINCARD:1", "pin": "4711"}
TOKEN = "SECRET-TOKEN"


@pytest.fixture
def identity(tmp_path: Path) -> Path:
    file = tmp_path / "identity.txt"
    file.write_text(OWNER.identity)
    return file


def sealed(folder: Path, plain: bytes) -> Path:
    file = folder / "sealed.age"
    file.write_bytes(seal(read_recipients([OWNER.recipient]), plain))
    return file


def lines(*card_ids: str, token: str = TOKEN) -> bytes:
    text = io.StringIO(newline="")
    rows = [(card_id, f"{token}-{n}", "4711", "gift_card") for n, card_id in enumerate(card_ids)]
    csv.writer(text).writerows([COLUMNS, *rows])
    return text.getvalue().encode()


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def other_files(folder: Path, *known: Path) -> list[Path]:
    """Return the files in a folder except known ones."""
    return [file for file in folder.rglob("*") if file.is_file() and file not in known]


# --- identities -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "written",
    [
        "{stranger}\n{owner}\n",
        "{owner}\n{stranger}\n",
        "\ufeff{owner}\n",
        "\ufeff# mine\r\n\r\n{stranger}\r\n  \r\n# public key: age1\r\n{owner}\r\n",
        "\n\n  # mine\n{owner}",
    ],
)
def test_any_identity_of_a_file_opens(written: str, tmp_path: Path) -> None:
    names = {"owner": OWNER.identity, "stranger": new_key_pair().identity}
    identity = tmp_path / "identities.txt"
    identity.write_text(written.format(**names), "utf-8", newline="")
    plain = lines("card-1")
    file = sealed(tmp_path, plain)
    assert run("batch", "open", file, "-i", identity).stdout_bytes == plain
    sheet = tmp_path / "sheet.pdf"
    assert run("batch", "open", file, "-i", identity, "--sheet", sheet).exit_code == 0
    answer = tmp_path / "answer.txt"
    answer.write_text(seal_text(read_recipients([OWNER.recipient]), json.dumps(SECRETS)))
    assert lines_of_json(run("codes", "open", answer, "-i", identity, "--json")) == [SECRETS]


@pytest.mark.parametrize("written", ["", "\ufeff", "# nothing\n\n"])
def test_a_file_without_an_identity_is_named(written: str, tmp_path: Path) -> None:
    identity = tmp_path / "identities.txt"
    identity.write_text(written, "utf-8")
    output = tmp_path / "new.csv"
    file = sealed(tmp_path, lines("card-1"))
    done = run("batch", "open", file, "-i", identity, "--output", output)
    assert refused(done) == (1, f"{identity}: has no age identity")
    assert not output.exists()


# --- answers ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "plain", [lines("card-1"), b"[]", b'"x"', b'{"token": 5}', b"\xff", b"", b"[" * 100_000]
)
def test_content_that_is_not_from_an_answer_is_refused(
    plain: bytes, tmp_path: Path, identity: Path
) -> None:
    file = sealed(tmp_path, plain)
    for options in ((), ("--json",), ("--sheet", tmp_path / "sheet.pdf")):
        code, why = refused(run("codes", "open", file, "--identity", identity, *options))
        assert (code, "card-worker batch open" in why) == (1, True)
    assert other_files(tmp_path, file, identity) == []


# --- files of batches -------------------------------------------------------------------------


@pytest.mark.parametrize(
    "plain",
    [
        json.dumps(SECRETS).encode(),
        b"",
        b"token\r\nSECRET-TOKEN\r\n",
        lines("card-1") + b"\xff,x,,gift_card\r\n",
        lines("card-1") + b"card-2,SECRET-TOKEN\r\n",
        lines("card-1") + b'card-2,"SECRET-TOKEN',
        lines("card-1") + b"card-2," + b"x" * 200_000 + b",,gift_card\r\n",
    ],
)
def test_content_that_is_not_a_bureau_file_is_not_drawn(
    plain: bytes, tmp_path: Path, identity: Path
) -> None:
    file, images, sheet = sealed(tmp_path, plain), tmp_path / "images", tmp_path / "sheet.pdf"
    for options in (("--images", images), ("--sheet", sheet)):
        code, why = refused(run("batch", "open", file, "-i", identity, *options))
        assert (code, why) == (1, f"{file}: its content is not that of a batch file")
    assert other_files(tmp_path, file, identity) == []


def test_only_the_owner_can_read_images(tmp_path: Path, identity: Path) -> None:
    images = tmp_path / "above" / "images"
    file = sealed(tmp_path, lines("card-1", "card-2"))
    for _ in range(2):
        assert run("batch", "open", file, "-i", identity, "--images", images).exit_code == 0
        assert sorted(each.name for each in images.iterdir()) == ["card-1.svg", "card-2.svg"]
        assert (mode(images), {mode(each) for each in images.iterdir()}) == (0o700, {0o600})
        # As earlier versions wrote them.
        images.joinpath("card-1.svg").chmod(0o644)


def test_each_image_has_a_name_of_its_own(tmp_path: Path, identity: Path) -> None:
    names = ["æ" * 254 + end for end in "ab"] + ["c" * 255, "d" * 254 + "/", "c" * 200, ".."]
    images = tmp_path / "images"
    file = sealed(tmp_path, lines(*names))
    done = run("batch", "open", file, "-i", identity, "--images", images)
    assert (done.exit_code, done.stderr) == (0, f"6 barcodes in {images}\n")
    assert len({each.read_text() for each in images.iterdir()}) == len(names)
    assert sum(each.name.startswith("%C3%A6%C3") for each in images.iterdir()) == 2


@pytest.mark.parametrize("beyond", ["", "x"])
def test_images_need_a_folder(beyond: str, tmp_path: Path, identity: Path) -> None:
    images = identity / beyond
    file = sealed(tmp_path, lines("card-1"))
    done = run("batch", "open", file, "-i", identity, "--images", images)
    assert refused(done) == (2, f"{images} is not a folder")
    assert other_files(tmp_path, file, identity) == []


@pytest.mark.parametrize("token", ["x" * 200, "blåbær"])
def test_all_images_are_drawn_or_none(token: str, tmp_path: Path, identity: Path) -> None:
    plain = lines("card-1") + f"card-2,{token},4711,gift_card\r\n".encode()
    file, images, sheet = sealed(tmp_path, plain), tmp_path / "images", tmp_path / "sheet.pdf"
    for options in (("--images", images), ("--sheet", sheet)):
        code, why = refused(run("batch", "open", file, "-i", identity, *options))
        assert (code, "use QR" in why, token in why) == (1, True, False)
    assert other_files(tmp_path, file, identity) == []


@pytest.mark.parametrize("option", ["--sheet", "--output"])
def test_an_existing_file_is_kept(option: str, tmp_path: Path, identity: Path) -> None:
    file, to = sealed(tmp_path, lines("card-1")), tmp_path / "to"
    arguments = "batch", "open", file, "-i", identity, option, to
    assert run(*arguments).exit_code == 0
    before = to.read_bytes()
    assert refused(run(*arguments)) == (
        1,
        f"{to} exists, and is not overwritten: name another file, or move this one away",
    )
    assert to.read_bytes() == before


@pytest.mark.parametrize("wrong", ["--sheet", "--output", "--images"])
def test_nothing_is_written_if_one_target_is_wrong(
    wrong: str, tmp_path: Path, identity: Path
) -> None:
    file, taken = sealed(tmp_path, lines("card-1")), tmp_path / "taken"
    taken.write_text("mine")
    targets = {option: tmp_path / f"new{option}" for option in ("--sheet", "--output", "--images")}
    options = [part for pair in (targets | {wrong: taken}).items() for part in pair]
    code, why = refused(run("batch", "open", file, "-i", identity, *options))
    assert (code, why.startswith(f"{taken} ")) == (2 if wrong == "--images" else 1, True)
    assert taken.read_text() == "mine"
    assert other_files(tmp_path, file, identity) == [taken]


@contextmanager
def room_for(bytes_max: int) -> Iterator[None]:
    """Limit the size of files, as on a full disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (bytes_max, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.parametrize("option", ["--images", "--sheet", "--output"])
def test_nothing_half_written_is_left(option: str, tmp_path: Path, identity: Path) -> None:
    file, to = sealed(tmp_path, lines("card-1", "card-2")), tmp_path / "to"
    with room_for(20):
        code, why = refused(run("batch", "open", file, "-i", identity, option, to))
    assert (code, why) == (1, f"{to}: File too large")
    assert other_files(tmp_path, file, identity) == []
