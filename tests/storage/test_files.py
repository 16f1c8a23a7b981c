"""Files are written into their store, each of them whole."""

import base64
import os
import re
import subprocess
from collections.abc import Iterable, Iterator
from datetime import timedelta
from hashlib import sha256
from pathlib import Path
from threading import Event
from uuid import UUID

import fsspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import Engine, Executable, select

from card_worker import file_store
from card_worker.bureau_file import file_name
from card_worker.domain.rows import File, FileKind
from card_worker.file_store import UNFINISHED, FileStore
from card_worker.files import FileWriter, StoreUnavailable, write_files
from card_worker.storage import leases
from card_worker.storage.engine import begin
from card_worker.storage.files import find_files, insert_file, request_rewrite
from card_worker.storage.tables import file_parts, files
from tests.flow.processes import until

ACCOUNT = "T00000001"
CONTENT = bytes(range(256))


def insert_files(engine: Engine, *names: str) -> None:
    """Insert a file for each batch that is not written yet."""
    with begin(engine) as (connection, now):
        for name in names:
            file = File(
                account_id=ACCOUNT,
                batch_id=name,
                kind=FileKind.CODES,
                name=f"{ACCOUNT}/{name}.csv.age",
                sha256=sha256(CONTENT).hexdigest(),
                cards=1,
                bytes=len(CONTENT),
                recipients=["age1"],
                created_at=now,
            )
            for place in (0, 128):
                parts = file_parts.insert().values(
                    name=file.name,
                    number=place + 1,
                    content=base64.b64encode(CONTENT[place : place + 128]).decode(),
                )
                connection.execute(parts)
            insert_file(connection, file)


def is_written(engine: Engine, name: str) -> bool:
    with begin(engine) as (connection, _):
        (file,) = find_files(connection, ACCOUNT, name)
    assert (file.last_error is None) or file.written_at is None
    return file.written_at is not None


def last_error_of(engine: Engine, name: str) -> str | None:
    with begin(engine) as (connection, _):
        (file,) = find_files(connection, ACCOUNT, name)
    return file.last_error


def test_all_files_are_written(engine: Engine, tmp_path: Path) -> None:
    names = [f"b{number}" for number in range(20)]
    insert_files(engine, *names)
    store = FileStore(str(tmp_path / "new" / "folder"))
    assert write_files(engine, store) == len(names)
    put = sorted((tmp_path / "new" / "folder" / ACCOUNT).iterdir())
    assert [file.name for file in put] == sorted(f"{name}.csv.age" for name in names)
    assert {file.read_bytes() for file in put} == {CONTENT}
    assert write_files(engine, store) == 0


def test_a_file_that_cannot_be_written_does_not_stop_others(engine: Engine, tmp_path: Path) -> None:
    names = [f"b{number}" for number in range(12)]
    insert_files(engine, *names)
    in_the_way = tmp_path / ACCOUNT / "b0.csv.age"
    in_the_way.mkdir(parents=True)
    (in_the_way / "something").touch()
    store = FileStore(tmp_path.as_uri())
    assert write_files(engine, store) == len(names) - 1
    assert [is_written(engine, name) for name in names] == [False] + [True] * (len(names) - 1)
    assert not list(tmp_path.rglob(".*")), "half a file"
    assert last_error_of(engine, "b0") == "IsADirectoryError: Is a directory"
    (in_the_way / "something").unlink()
    in_the_way.rmdir()
    let_time_pass(engine)
    assert write_files(engine, store) == 1
    assert in_the_way.read_bytes() == CONTENT


MOUNT = "mount -t tmpfs -o size=64k tmpfs /mnt && echo mounted && cat"


@pytest.fixture
def small_disk() -> Iterator[Path]:
    """A disk with room for 64 KiB, mounted in a namespace, where any user may mount."""
    command = ["sh", "-c", f"exec unshare --map-root-user --mount sh -c '{MOUNT}'"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdin
        assert process.stdout
        if process.stdout.readline() != b"mounted\n":
            pytest.skip("the kernel allows no user namespaces, so no small disk can be mounted")
        yield Path(f"/proc/{process.pid}/root/mnt")
        process.stdin.close()


@pytest.mark.debian
def test_a_full_disk_leaves_no_partial_file_and_is_retried(
    engine: Engine, small_disk: Path
) -> None:
    insert_files(engine, "b1", "b2")
    store = FileStore(str(small_disk))
    (small_disk / ACCOUNT).mkdir()
    in_the_way = small_disk / "in the way"
    with pytest.raises(OSError, match="No space left"):
        in_the_way.write_bytes(bytes(128 * 1024))
    with pytest.raises(StoreUnavailable):
        write_files(engine, store)
    assert last_error_of(engine, "b1") == "OSError: No space left on device"
    assert last_error_of(engine, "b2") is None, "tried although the store takes nothing"
    assert list((small_disk / ACCOUNT).iterdir()) == [], "half a file"
    in_the_way.unlink()
    let_time_pass(engine)
    assert write_files(engine, store) == 2
    assert (small_disk / ACCOUNT / "b1.csv.age").read_bytes() == CONTENT
    assert last_error_of(engine, "b1") is None


OTHER = base64.b64encode(bytes(128)).decode()


@pytest.mark.parametrize(
    "change",
    [
        file_parts.delete().where(file_parts.c.number > 1),
        file_parts.update().where(file_parts.c.number == 1).values(content=OTHER),
    ],
    ids=["a part is gone", "a part is another of the same length"],
)
@pytest.mark.parametrize("url", ["folder", "memory://altered"])
def test_a_file_with_altered_content_is_not_written(
    engine: Engine, tmp_path: Path, change: Executable, url: str
) -> None:
    insert_files(engine, "b1", "b2")
    with begin(engine) as (connection, _):
        connection.execute(change)
    store = FileStore(str(tmp_path) if url == "folder" else url)
    assert write_files(engine, store) == 0
    assert not list(tmp_path.rglob("*.age"))
    assert not fsspec.filesystem("memory").exists(f"/altered/{ACCOUNT}/b1.csv.age")
    assert not is_written(engine, "b1")
    assert (
        last_error_of(engine, "b2") == "Altered: its content in the database is not what was sealed"
    )


def let_time_pass(engine: Engine) -> None:
    """Make the next try of all files due."""
    with begin(engine) as (connection, now):
        connection.execute(files.update().values(next_attempt_at=now))


def test_the_pause_before_the_next_attempt_grows_up_to_an_hour(
    engine: Engine, tmp_path: Path
) -> None:
    insert_files(engine, "b1")
    (tmp_path / ACCOUNT).touch()
    store, pauses = FileStore(str(tmp_path)), []
    for _ in range(14):
        let_time_pass(engine)
        assert write_files(engine, store) == 0
        with begin(engine) as (connection, now):
            (next_attempt_at,) = connection.execute(select(files.c.next_attempt_at)).scalars()
        pauses.append(round((next_attempt_at - now).total_seconds()))
    assert pauses[:6] == pytest.approx([1, 2, 4, 8, 16, 32], abs=1)
    assert pauses[-1] == pytest.approx(3_600, abs=1)
    # The clock is set back: the next try lies farther away than any pause.
    with begin(engine) as (connection, now):
        connection.execute(files.update().values(next_attempt_at=now + timedelta(days=1)))
    (tmp_path / ACCOUNT).unlink()
    assert write_files(engine, store) == 1


# --- stores that are away or hang ----------------------------------------------------------------


class HangingStore(FileStore):
    """A store whose calls take until they are let go."""

    def __init__(self, folder: Path) -> None:
        super().__init__(str(folder))
        self.is_let_go = Event()

    def _put(self, name: str, content: Iterable[bytes]) -> None:
        assert self.is_let_go.wait(60)
        super()._put(name, content)


@pytest.fixture
def hanging(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[HangingStore]:
    monkeypatch.setattr(file_store, "CALL_MAX_S", 0.05)
    store = HangingStore(tmp_path)
    yield store
    store.is_let_go.set()


def test_a_store_that_hangs_is_not_called_until_it_is_available(
    engine: Engine, tmp_path: Path, hanging: HangingStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    insert_files(engine, "b1", "b2")
    with pytest.raises(StoreUnavailable):
        write_files(engine, hanging)
    assert last_error_of(engine, "b1") == "TimeoutError: took longer than 0 s"
    with pytest.raises(StoreUnavailable):
        write_files(engine, hanging)
    assert last_error_of(engine, "b2") == "TimeoutError: an earlier call has not ended"
    monkeypatch.setattr(file_store, "CALL_MAX_S", 60.0)
    hanging.is_let_go.set()
    let_time_pass(engine)
    until(lambda: not hanging._calls.is_busy, "the end of the call")
    assert write_files(engine, hanging) == 2
    assert (tmp_path / ACCOUNT / "b1.csv.age").read_bytes() == CONTENT


def test_waking_the_writer_does_not_wait_for_the_store(
    engine: Engine, tmp_path: Path, hanging: HangingStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(file_store, "CALL_MAX_S", 60.0)
    insert_files(engine, "b1")
    writer = FileWriter(engine, hanging)
    for _ in range(3):
        writer.wake()
    assert not is_written(engine, "b1")
    hanging.is_let_go.set()
    until(lambda: is_written(engine, "b1"), "the file")
    writer.close(within_s=60)


def test_the_writer_retries_when_the_store_is_available(engine: Engine, tmp_path: Path) -> None:
    insert_files(engine, "b1")
    folder = tmp_path / "store"
    folder.touch()  # no folder can be made there
    writer = FileWriter(engine, FileStore(str(folder)))
    writer.wake()
    folder.unlink()
    writer.wake()
    until(lambda: is_written(engine, "b1"), "the file")
    assert (folder / ACCOUNT / "b1.csv.age").read_bytes() == CONTENT
    assert list(folder.iterdir()) == [folder / ACCOUNT], "the probe is still there"
    writer.close(within_s=60)


def test_a_file_is_written_by_one_worker_at_a_time(engine: Engine, tmp_path: Path) -> None:
    insert_files(engine, "b1")
    with begin(engine) as (connection, _):
        assert leases.take(connection, f"file {ACCOUNT}/b1.csv.age", "another", at=0.0)
    assert write_files(engine, FileStore(str(tmp_path))) == 0


class StoreWithRewriteRequest(FileStore):
    """A store from which a file is gone as soon as it was put there, once, and is asked for."""

    def __init__(self, engine: Engine, folder: Path) -> None:
        super().__init__(str(folder))
        self._engine, self._folder = engine, folder
        self.puts = 0

    def put(self, name: str, content: Iterable[bytes], *, size: int = 0) -> None:
        super().put(name, content, size=size)
        self.puts += 1
        if self.puts == 1:
            (self._folder / name).unlink()
            with begin(self._engine) as (connection, _):
                (file,) = find_files(connection, ACCOUNT, "b1")
                request_rewrite(connection, file)


def test_a_file_requested_while_it_is_written_is_written_again(
    engine: Engine, tmp_path: Path
) -> None:
    insert_files(engine, "b1")
    store = StoreWithRewriteRequest(engine, tmp_path)
    assert write_files(engine, store) == 1
    assert store.puts == 2
    assert (tmp_path / ACCOUNT / "b1.csv.age").read_bytes() == CONTENT
    assert is_written(engine, "b1")
    assert write_files(engine, store) == 0


def test_a_reader_sees_the_whole_file_or_the_one_before(tmp_path: Path) -> None:
    path, store = tmp_path / ACCOUNT / "b1", FileStore(str(tmp_path))
    store.put(f"{ACCOUNT}/b1", [b"before"])

    def content(*, breaks: bool) -> Iterator[bytes]:
        yield bytes(1_000_000)
        assert path.read_bytes() == b"before"
        if breaks:
            raise OSError("gone")

    with pytest.raises(OSError, match="gone"):
        store.put(f"{ACCOUNT}/b1", content(breaks=True))
    assert path.read_bytes() == b"before"
    store.put(f"{ACCOUNT}/b1", content(breaks=False))
    assert path.read_bytes() == bytes(1_000_000)


def test_a_file_and_then_its_folder_are_synced_to_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / ACCOUNT / "b1"
    synced: list[tuple[int, bool]] = []
    monkeypatch.setattr(
        os, "fsync", lambda handle: synced.append((os.fstat(handle).st_ino, path.exists()))
    )
    FileStore(str(tmp_path)).put(f"{ACCOUNT}/b1", [CONTENT])
    assert synced == [(path.stat().st_ino, False), (path.parent.stat().st_ino, True)]


def test_files_are_written_to_any_fsspec_store(engine: Engine) -> None:
    insert_files(engine, "b1")
    assert write_files(engine, FileStore("memory://bureau/cards")) == 1
    with fsspec.open(f"memory://bureau/cards/{ACCOUNT}/b1.csv.age") as file:
        assert file.read() == CONTENT


@pytest.mark.parametrize(
    "url", ["nothing://x", "s3://x", "simplecache::nothing://x", "no::file:///x"]
)
def test_a_store_without_its_library_is_reported_at_the_start(url: str) -> None:
    with pytest.raises((ValueError, ImportError)):
        FileStore(url).check()


def test_checking_a_store_opens_nothing() -> None:
    FileStore("ftp://127.0.0.1:1/folder").check()


@pytest.mark.parametrize(
    "batch_id",
    [".writing-x", ".writing+x", ".writing+", ".writing%2Bx", "..", "+", ".writing-1.pins"],
)
@pytest.mark.parametrize("kind", FileKind)
def test_no_file_of_a_batch_is_removed_as_unfinished(
    tmp_path: Path, batch_id: str, kind: FileKind
) -> None:
    store, name = FileStore(str(tmp_path)), file_name(ACCOUNT, batch_id, kind, UUID(int=1))
    store.put(name, [CONTENT])
    os.utime(tmp_path / name, (0, 0))
    store.put(file_name(ACCOUNT, "next", FileKind.CODES), [CONTENT])
    assert (tmp_path / name).read_bytes() == CONTENT


@given(st.text(min_size=1, max_size=255), st.sampled_from(FileKind))
def test_names_of_files_differ_from_those_of_unfinished_files(
    batch_id: str, kind: FileKind
) -> None:
    account_id, _, name = file_name(ACCOUNT, batch_id, kind, UUID(int=1)).partition("/")
    assert account_id == ACCOUNT
    assert re.fullmatch(r"[A-Za-z0-9_.~%-]{1,200}", name)
    assert "+" in UNFINISHED


def test_unfinished_files_of_dead_workers_are_removed(engine: Engine, tmp_path: Path) -> None:
    folder = tmp_path / ACCOUNT
    folder.mkdir()
    dead, alive, other = (folder / name for name in (".writing+1", ".writing+2", "writing-1"))
    for path in (dead, alive, other):
        path.write_bytes(CONTENT)
    for path in (dead, other):
        os.utime(path, (0, 0))
    insert_files(engine, "B1")
    assert write_files(engine, FileStore(str(tmp_path))) == 1
    assert sorted(folder.iterdir()) == sorted([alive, other, folder / "B1.csv.age"])
