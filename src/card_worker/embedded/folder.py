"""The folder of an embedded system: used by one at a time; only its owner can read it."""

import fcntl
import os
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from stat import S_ISDIR

from card_worker.embedded.errors import StackFailed
from card_worker.secrets.peppers import new_pepper
from card_worker.secrets.sealing import new_key_pair, read_identities
from card_worker.secrets.signing import SigningKey
from card_worker.settings import PEPPERS

LOCK, KEYS = "lock", "keys"
PRODUCER_KEY = "producer.json"


@contextmanager
def locked(folder: Path) -> Iterator[int]:
    """Create `folder` if necessary, and lock it; yield the lock, a file descriptor.

    Processes that inherit the lock hold it too, until the last one ends. Only the owner can read
    the folder, because it contains keys. Raises StackFailed.
    """
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    folder.chmod(0o700)  # for a folder that existed before
    with (folder / LOCK).open("wb") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise StackFailed(f"another demo or dev is already running in {folder}") from None
        # The folder may be in a repository. Nothing in it may be committed.
        (folder / ".gitignore").write_text("*\n")
        yield lock.fileno()


def remove_abandoned(folders: Iterable[Path]) -> None:
    """Remove those folders of this user that have keys and are not locked by a running system."""
    for folder in folders:
        with suppress(OSError):
            status = folder.lstat()
            is_ours = S_ISDIR(status.st_mode) and status.st_uid == os.getuid()
            # Keys are created under the lock, so a folder that is being set up has none.
            if not is_ours or not (folder / KEYS).is_dir():
                continue
            with (folder / LOCK).open("rb") as lock:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(folder)


def make_keys(folder: Path) -> str:
    """Create peppers, an identity and a producer's key in `folder` unless they exist.

    Returns the recipient of the identity.
    """
    folder.mkdir(mode=0o700, exist_ok=True)
    for name in PEPPERS:
        _write_once(folder / f"{name.lower()}.txt", new_pepper("k1"))
    _write_once(folder / PRODUCER_KEY, SigningKey.new("dev-1").text.rstrip())
    identity = folder / "command_identities.txt"
    _write_once(identity, new_key_pair().identity)
    return str(read_identities([identity.read_text()])[0].to_public())


def _write_once(file: Path, line: str) -> None:
    if not file.exists():
        with os.fdopen(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as new:
            new.write(f"{line}\n")
