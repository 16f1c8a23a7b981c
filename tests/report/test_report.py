"""The financial report says what the rows say, and only about a time that is over."""

import re
import sys
from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import pytest
import typer
from sqlalchemy import text

from card_worker.cli.report import command
from card_worker.cli.report.periods import (
    NotAPeriod,
    day_after,
    first_day,
    midnight,
    months_before,
    segments,
)
from card_worker.cli.report.reading import Scope
from card_worker.storage import settled as settling
from card_worker.storage.engine import begin, open_engine
from card_worker.storage.migrations import upgrade
from card_worker.storage.reconcile import differences
from card_worker.storage.roles import Role
from card_worker.storage.settled import MARGIN, NotSettled, Settled, settled
from tests import servers
from tests.cli.commands import refused, run
from tests.report.rows import insert_rows, random_rows
from tests.report.trade import play


def report(url: str, out: Path, *options: str, code: int = 0) -> Any:
    done = run("report", "--out", out, *options, DATABASE_URL=url)
    assert done.exit_code == code, done.output
    return done


def test_a_shop_with_a_history_has_a_page(sqlite_url: str, tmp_path: Path) -> None:
    engine = open_engine(sqlite_url)
    first = play(engine, months=4, cards_a_day=2)
    with begin(engine) as (connection, now):
        assert list(differences(connection, published_within=timedelta(minutes=5))) == []
    engine.dispose()
    last = now.astimezone(ZoneInfo("Europe/Oslo")).date().replace(day=1) - timedelta(days=1)
    period = ("--from", f"{first:%Y-%m}", "--to", f"{last:%Y-%m}", "--timezone", "Europe/Oslo")
    done = report(sqlite_url, tmp_path / "out", *period)
    assert "4 CSV files" in done.stdout
    page = (tmp_path / "out" / "report.html").read_text()
    assert "The books add up" in page
    assert 2 * 3 < page.count("<svg") <= 2 * 3 + 4  # two currencies; redemption of each book
    assert page.count("<figcaption>") == page.count("<svg")
    # Nothing is loaded from anywhere, and nothing is run.
    assert set(re.findall(r"https?://[\w.]+", page)) <= {
        *("http://www.w3.org", "http://pygal.org", "http://github.com")
    }
    assert not re.search(r"<script|<link|<img|@import|url\(|\bsrc=|\bon\w+=", page)
    again = run("report", "--out", tmp_path / "out", *period, DATABASE_URL=sqlite_url)
    assert "exists, and is not overwritten" in refused(again)[1]
    # Nothing is written if only one of the files is there.
    (tmp_path / "partly").mkdir()
    (tmp_path / "partly" / "orders.csv").touch()
    again = run("report", "--out", tmp_path / "partly", *period, DATABASE_URL=sqlite_url)
    assert "orders.csv exists" in refused(again)[1]
    assert [each.name for each in (tmp_path / "partly").iterdir()] == ["orders.csv"]


def test_a_difference_ends_it_with_1_after_the_page_is_written(
    sqlite_url: str, tmp_path: Path
) -> None:
    rows = random_rows(50)
    engine = open_engine(sqlite_url)
    insert_rows(engine, rows)
    more = "UPDATE cards SET amount_balance = amount_balance + 123 WHERE id = :id"
    with begin(engine) as (connection, _):
        (card, *_) = (card for card in rows.cards if card.amount_balance)
        connection.execute(text(more), {"id": str(card.id)})
    engine.dispose()
    done = report(sqlite_url, tmp_path, "--from", "2025-01", "--to", "2025-12", code=1)
    currency = card.currency
    assert f"a difference of 1.23 {currency}; run card-worker reconcile" in done.stderr
    page = (tmp_path / "report.html").read_text()
    assert "The books do not add up" in page
    assert f"a difference of 1.23 {currency}" in page


def test_a_shop_without_history_has_an_empty_page(sqlite_url: str, tmp_path: Path) -> None:
    report(sqlite_url, tmp_path, "--from", "2025-01", "--to", "2025-02")
    page = (tmp_path / "report.html").read_text()
    assert "Nothing was on any card" in page
    assert "<table" not in page
    assert (tmp_path / "roll-forward.csv").read_text().count("\n") == 1


def test_a_shop_that_began_after_the_period_has_a_liability(
    sqlite_url: str, tmp_path: Path
) -> None:
    engine = open_engine(sqlite_url)
    insert_rows(engine, random_rows(50))
    engine.dispose()
    report(sqlite_url, tmp_path, "--from", "2023-01", "--to", "2023-02")
    page = (tmp_path / "report.html").read_text()
    assert "Nothing was on any card" in page
    assert "Liability by month of expiry, NOK" in page
    assert "on hold now" in page


# --- only a time that is over --------------------------------------------------------------------


def test_a_month_that_is_not_over_is_refused(sqlite_url: str, tmp_path: Path) -> None:
    today = datetime.now(UTC).date()
    wanted = ("--from", "2025-01", "--to", f"{today:%Y-%m}")
    done = run("report", *wanted, "--out", tmp_path / "out", DATABASE_URL=sqlite_url)
    code, line = refused(done)
    end = months_before(today.replace(day=1), -1)
    assert code == 1
    assert f"ends at {end}T00:00:00.000Z, and it is not over" in line
    assert f"or from {end}T00:01:00.000Z on" in line
    assert not (tmp_path / "out").exists()


def test_a_time_in_which_an_open_commit_may_post_is_refused(
    capsys: pytest.CaptureFixture[str],
) -> None:
    scope = Scope(None, date(2025, 1, 1), date(2025, 2, 1), UTC, "UTC")
    end = midnight(scope.last, UTC)
    command.check_settled(scope, Settled(end + timedelta(hours=1), end))
    since = end + MARGIN - timedelta(milliseconds=1)
    with pytest.raises(typer.Exit):
        command.check_settled(scope, Settled(end + timedelta(hours=1), since - MARGIN))
    assert "a commit has been open since 2025-02-01T00:00:59.999Z" in capsys.readouterr().err


def test_the_books_are_settled_until_before_the_oldest_open_commit(postgres_url: str) -> None:
    engine = open_engine(postgres_url)
    free = settled(engine)
    assert free.until == free.now - MARGIN
    with engine.connect() as reads, engine.connect() as writes:
        reads.execute(text("SELECT 1 FROM cards"))
        (since,) = writes.execute(text("SELECT now()")).one()
        assert settled(engine).until > since - MARGIN  # it has written nothing yet
        writes.execute(text("SELECT pg_current_xact_id()"))
        assert settled(engine).until == since.astimezone(UTC) - MARGIN
        writes.commit()
        assert settled(engine).until > since - MARGIN
    engine.dispose()


def test_a_login_that_can_not_see_how_long_a_commit_is_open_waits_for_its_end(
    postgres_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    upgrade(postgres_url)  # a copy of a database has no rights on the database itself
    engine, reader = open_engine(postgres_url), open_engine(reader_url(postgres_url))
    monkeypatch.setattr(settling, "WAIT_S", 0.3)
    with engine.connect() as writes:
        writes.execute(text("SELECT pg_current_xact_id()"))
        with pytest.raises(NotSettled, match="pg_read_all_stats"):
            settled(reader)
        writes.commit()
    found = settled(reader)
    assert found.until == found.now - MARGIN
    engine.dispose()
    reader.dispose()


def reader_url(url: str) -> str:
    return servers.role_urls(url)[Role.READER]


def test_the_role_of_readers_is_enough(postgres_url: str, tmp_path: Path) -> None:
    upgrade(postgres_url)
    engine = open_engine(postgres_url)
    insert_rows(engine, random_rows(50))
    engine.dispose()
    report(reader_url(postgres_url), tmp_path, "--from", "2025-01", "--to", "2025-12")


# --- what is asked for ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (("--from", "2025", "--to", "2025-02"), "--from: 2025 is not a month such as 2026-11"),
        (("--from", "2025-01", "--to", "2025-13"), "--to: 2025-13 is not a month"),
        (("--from", "2025-01", "--to", "2025-02-30"), "--to: 2025-02-30 is not a month"),
        (("--from", "2025-02", "--to", "2025-01"), "--to: 2025-01 is before --from 2025-02"),
        (("--from", "2025-01", "--to", "9999-12"), "--to: 9999-12 is not a month"),
        (("--from", "1999-01", "--to", "2025-02"), "--from: a report has at most 240 months"),
        (
            ("--from", "2025-01", "--to", "2025-02", "--timezone", "Europe/Olso"),
            "--timezone: there is no time zone Europe/Olso",
        ),
        (
            ("--from", "2025-01", "--to", "2025-02", "--timezone", "../../etc/passwd"),
            "--timezone: there is no time zone ../../etc/passwd",
        ),
        (
            ("--from", "2025-01", "--to", "2025-02", "--account", "4711"),
            "--account: 4711 is not an account such as T00000001",
        ),
    ],
)
def test_wrong_usage_names_the_option(
    options: tuple[str, ...], expected: str, sqlite_url: str, tmp_path: Path
) -> None:
    code, line = refused(run("report", *options, "--out", tmp_path, DATABASE_URL=sqlite_url))
    assert code == 2
    assert line.startswith(expected)


def test_without_the_extra_it_says_what_to_install(
    sqlite_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("page", "plots"):
        monkeypatch.delitem(sys.modules, f"card_worker.cli.report.{name}", raising=False)
        monkeypatch.delattr(f"card_worker.cli.report.{name}", raising=False)
    monkeypatch.setitem(sys.modules, "pygal", None)
    wanted = ("--from", "2025-01", "--to", "2025-02", "--out", tmp_path)
    code, line = refused(run("report", *wanted, DATABASE_URL=sqlite_url))
    assert (code, line) == (1, "pygal is missing: pip install 'card-worker[report]'")


def of(first: str, last: str) -> Iterator[str]:
    zone = ZoneInfo("Europe/Oslo")
    return (each.label for each in segments(first_day(first), day_after(last), zone))


def test_a_period_is_made_of_months_and_parts_of_months() -> None:
    assert [*of("2025-11", "2026-01")] == ["2025-11", "2025-12", "2026-01"]
    assert [*of("2025-11-02", "2025-12-31")] == ["2025-11-02 – 2025-11-30", "2025-12"]
    assert [*of("2025-11-02", "2025-11-02")] == ["2025-11-02 – 2025-11-02"]
    assert months_before(date(2026, 5, 31), 3) == date(2026, 2, 28)
    assert months_before(date(2026, 1, 15), 12) == date(2025, 1, 15)
    for odd in ("2025-1", "0001-01"):
        with pytest.raises(NotAPeriod):
            first_day(odd)
