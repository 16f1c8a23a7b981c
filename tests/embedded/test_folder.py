"""The folder of an embedded system: rights, and the removal of abandoned ones."""

import fcntl
import stat
from pathlib import Path

from card_worker.embedded.folder import KEYS, LOCK, locked, remove_abandoned


def left(folder: Path, *, keys: bool = True) -> Path:
    folder.mkdir(mode=0o700)
    (folder / LOCK).touch()
    if keys:
        (folder / KEYS).mkdir()
        (folder / KEYS / "pin_peppers.txt").write_text("k1:x\n")
    return folder


def test_only_unlocked_folders_are_removed(tmp_path: Path) -> None:
    dead, alive = left(tmp_path / "dead"), left(tmp_path / "alive")
    new = left(tmp_path / "new", keys=False)
    elsewhere = left(tmp_path / "elsewhere")
    link, file, gone = tmp_path / "link", tmp_path / "file", tmp_path / "gone"
    link.symlink_to(elsewhere)
    file.touch()
    with (alive / LOCK).open("wb") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        remove_abandoned([gone, file, link, new, alive, dead])
    assert [path.exists() for path in (dead, alive, new, elsewhere, link, file)] == [
        *(False, True, True, True, True, True)
    ]
    remove_abandoned([alive])
    assert not alive.exists()


def test_only_the_owner_can_read_the_folder(tmp_path: Path) -> None:
    new, there = tmp_path / "new", tmp_path / "there"
    there.mkdir(mode=0o755)
    for folder in (new, there):
        with locked(folder):
            assert stat.S_IMODE(folder.stat().st_mode) == 0o700
