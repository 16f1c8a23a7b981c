"""Only the recipients can open what is sealed."""

import errno
import io
import shutil
import subprocess
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest

from card_worker.secrets.sealing import (
    RECIPIENTS_MAX,
    NotOpened,
    new_key_pair,
    open_pieces,
    open_sealed,
    read_recipients,
    seal,
    seal_pieces,
    seal_text,
)
from tests.servers import missing

OWNERS = [new_key_pair() for _ in range(2)]
STRANGER = new_key_pair()
PLAIN = "DINCARD:4711,æøå\n"


def test_each_recipient_can_open() -> None:
    recipients = read_recipients([owner.recipient for owner in OWNERS])
    sealed = [seal(recipients, PLAIN.encode()), seal_text(recipients, PLAIN).encode()]
    for one in sealed:
        assert PLAIN.encode() not in one
        assert [open_sealed([owner.identity], one).decode() for owner in OWNERS] == [PLAIN, PLAIN]
        with pytest.raises(NotOpened, match="No matching keys"):
            open_sealed([STRANGER.identity], one)


def test_armored_text_is_ascii() -> None:
    armored = seal_text(read_recipients([STRANGER.recipient]), PLAIN)
    assert armored.startswith("-----BEGIN AGE ENCRYPTED FILE-----\n")
    assert armored.isascii()


@pytest.mark.parametrize("size", [0, 1, 64 * 1024, 1_000_001])
def test_any_size_is_sealed_and_opened(size: int) -> None:
    plain = bytes(size)
    assert (
        open_sealed([STRANGER.identity], seal(read_recipients([STRANGER.recipient]), plain))
        == plain
    )


@pytest.mark.parametrize("pieces", [[], [b""], [b"a"], [b"line\r\n"] * 30_000, [bytes(200_000)]])
def test_pieces_are_sealed_and_opened(pieces: list[bytes]) -> None:
    plain, sealed = b"".join(pieces), pieces_sealed(pieces)
    assert open_sealed([STRANGER.identity], sealed) == plain
    for one in (sealed, seal(read_recipients([STRANGER.recipient]), plain)):
        opened: list[bytes] = []
        open_pieces([STRANGER.identity], io.BytesIO(one), opened.append)
        assert b"".join(opened) == plain
        assert max(map(len, opened), default=0) <= 64 * 1024


def pieces_sealed(pieces: Iterable[bytes]) -> bytes:
    sealed: list[bytes] = []
    seal_pieces(read_recipients([STRANGER.recipient]), pieces, sealed.append)
    return b"".join(sealed)


def test_errors_of_pieces_and_write_are_raised() -> None:
    def broken() -> Iterator[bytes]:
        yield b"a"
        raise ZeroDivisionError

    def full(_: bytes) -> None:
        raise OSError(errno.ENOSPC, "full")

    to, sealed = read_recipients([STRANGER.recipient]), pieces_sealed([bytes(200_000)])
    with pytest.raises(ZeroDivisionError):
        seal_pieces(to, broken(), bytearray().extend)
    with pytest.raises(OSError, match="full"):
        seal_pieces(to, [b"a"], full)
    with pytest.raises(OSError, match="full"):
        open_pieces([STRANGER.identity], io.BytesIO(sealed), full)
    for wrong in (sealed[:-1], sealed[:-40_000], b"not sealed", b""):
        with pytest.raises(NotOpened):
            open_pieces([STRANGER.identity], io.BytesIO(wrong), bytearray().extend)
    with pytest.raises(NotOpened):
        open_pieces([OWNERS[0].identity], io.BytesIO(sealed), bytearray().extend)


@pytest.mark.parametrize(
    ("texts", "why"),
    [
        ([], "1 to 16"),
        ([new_key_pair().recipient for _ in range(RECIPIENTS_MAX + 1)], "1 to 16"),
        ([STRANGER.recipient, "age1xyz"], "item 1 is not an age recipient"),
        ([STRANGER.identity], "item 0 is not an age recipient"),
        (["ssh-ed25519 AAAA"], "item 0 is not an age recipient"),
        ([""], "item 0 is not an age recipient"),
        ([STRANGER.recipient] * 2, "twice"),
    ],
)
def test_an_invalid_recipient_is_named_by_its_index(texts: list[str], why: str) -> None:
    with pytest.raises(ValueError, match=why) as raised:
        read_recipients(texts)
    assert STRANGER.identity not in str(raised.value)


@pytest.mark.parametrize(
    ("secret", "sealed"),
    [
        (STRANGER.identity, b"not sealed"),
        (STRANGER.identity, b""),
        (STRANGER.recipient, seal(read_recipients([STRANGER.recipient]), b"x")),
        ("AGE-SECRET-KEY-1WRONG", b""),
    ],
    ids=["not sealed", "empty", "a recipient", "no identity"],
)
def test_an_error_of_opening_shows_no_identity(secret: str, sealed: bytes) -> None:
    with pytest.raises(NotOpened) as raised:
        open_sealed([secret], sealed)
    assert str(raised.value)
    assert secret not in str(raised.value)


def test_a_changed_byte_is_detected() -> None:
    sealed = bytearray(seal(read_recipients([STRANGER.recipient]), PLAIN.encode()))
    sealed[-1] ^= 1
    with pytest.raises(NotOpened):
        open_sealed([STRANGER.identity], bytes(sealed))


@pytest.mark.debian
@pytest.mark.parametrize("armored", [True, False])
def test_files_are_compatible_with_the_program_age(armored: bool, tmp_path: Path) -> None:
    identity = tmp_path / "key.txt"
    identity.write_text(STRANGER.identity)
    to = read_recipients([OWNERS[0].recipient, STRANGER.recipient])
    sealed = seal_text(to, PLAIN).encode() if armored else seal(to, PLAIN.encode())
    assert _age(sealed, "--decrypt", "--identity", str(identity)) == PLAIN.encode()
    options = ["--armor"] if armored else []
    assert _age(pieces_sealed([b"a", b"b"]), "--decrypt", "--identity", str(identity)) == b"ab"
    theirs = _age(PLAIN.encode(), "--recipient", STRANGER.recipient, *options)
    assert open_sealed([STRANGER.identity], theirs) == PLAIN.encode()


def _age(given: bytes, *options: str) -> bytes:
    program = shutil.which("age") or missing("the program `age` isn't installed: apt install age")
    return subprocess.run([program, *options], input=given, capture_output=True, check=True).stdout
