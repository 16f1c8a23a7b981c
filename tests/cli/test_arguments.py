"""Arguments that are not UTF-8 are refused."""

import os
import subprocess
import sys

import pytest

NOT_UTF_8 = b"B\xff"
ACCOUNT = (b"--account", b"T00000001")


@pytest.mark.parametrize(
    "arguments",
    [
        (b"batch", b"confirm", NOT_UTF_8, *ACCOUNT),
        (b"batch", b"show", NOT_UTF_8, *ACCOUNT, b"--json"),
        (b"card", b"show", NOT_UTF_8, *ACCOUNT),
        (b"card", b"list", *ACCOUNT, b"--batch", NOT_UTF_8),
        (b"batch", b"confirm", b"B1", *ACCOUNT, b"--by=" + NOT_UTF_8),
        (b"send", b"cards.block", b"account_id=T00000001", b"card_id=" + NOT_UTF_8),
        (NOT_UTF_8,),
    ],
)
def test_an_argument_that_is_not_utf_8_is_refused(
    arguments: tuple[bytes, ...], sqlite_url: str
) -> None:
    environment = {"PATH": os.defpath, "CARD_WORKER_DATABASE_URL": sqlite_url}
    done = subprocess.run(
        [sys.executable, "-m", "card_worker.cli", *arguments],
        env=environment,
        capture_output=True,
        check=False,
        text=True,
    )
    number = next(n for n, each in enumerate(arguments, start=1) if NOT_UTF_8 in each)
    text = os.fsdecode(arguments[number - 1]).replace("\udcff", r"\udcff")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == f"card-worker: argument {number} is not UTF-8: {text}\n"
