"""The command line on a running system: its output and its exit codes."""

import json

import pytest

from card_worker.cli import connections
from tests.flow.processes import PARTS
from tests.flow.system import ACCOUNT, System

FIELDS = (f"account_id={ACCOUNT}", "amount=500", "currency=NOK")


@pytest.fixture(scope="module")
def running(shared: System) -> System:
    shared.start("worker")
    shared.start("relay")
    shared.create("card-1")
    shared.answers("card-1")
    return shared


def test_card_show_shows_the_card(running: System) -> None:
    (card,) = running.cli_json("card", "show", "card-1", "--account", ACCOUNT)
    assert (card["card_id"], card["amount_available"], card["status"]) == ("card-1", 500, "unused")
    assert "5.00 NOK" in running.cli("card", "show", "card-1", "-a", ACCOUNT).output


def test_card_history_shows_the_transactions(running: System) -> None:
    (row,) = running.cli_json("card", "history", "card-1", "--account", ACCOUNT)
    assert (row["type"], row["amount"], row["balance_after"]) == ("fund", 500, 500)
    assert "issuer → card" in running.cli("card", "history", "card-1", "-a", ACCOUNT).output


def test_card_list_filters(running: System) -> None:
    names = ["list-1", "list-2", "list-3"]
    running.create(*names)
    running.answers(*names)
    options = ("-a", ACCOUNT, "--status", "unused", "--after", "list", "--available-min", "1")
    listed = running.cli_json("card", "list", *options, "--limit", "3")
    assert [card["card_id"] for card in listed] == names
    shown = running.cli("card", "list", *options, "--limit", "2").output
    assert "list-2" in shown
    assert "list-3" not in shown
    assert "--after list-2" in shown
    assert running.cli_json("card", "list", "--account", ACCOUNT, "--type", "credit_note") == []


def test_card_list_names_an_invalid_time(running: System) -> None:
    done = running.cli("card", "list", "--account", ACCOUNT, "--created-from", "yesterday")
    assert (done.exit_code, done.stdout) == (2, "")
    assert "--created-from: yesterday" in done.stderr


@pytest.mark.parametrize("command", ["show", "history"])
def test_an_unknown_card_is_refused(command: str, running: System) -> None:
    done = running.cli("card", command, "card-1", "--account", "T00000002")
    assert (done.exit_code, done.stdout) == (1, "")
    assert "there is no card card-1 in T00000002" in done.stderr


def test_events_tail_prints_the_events(running: System) -> None:
    first, *_ = running.cli_json("events", "tail", "--from-start", "--count", "1")
    assert first == running.events()[0]
    done = running.cli("events", "tail", "--from-start", "--count", "1")
    assert "card.created" in done.output
    assert done.exit_code == 0


def test_send_and_wait_shows_the_answer(running: System) -> None:
    done = running.cli("send", "cards.create", *FIELDS, "card_id=sent", "--wait", "--json")
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout)["type"] == "card.created"
    table = running.cli("send", "cards.create", *FIELDS, "card_id=sent-2", "--wait")
    assert (table.exit_code, "card.created" in table.output) == (0, True)


def test_send_and_wait_ends_with_1_for_a_refusal(running: System) -> None:
    done = running.cli("send", "cards.create", *FIELDS, "card_id=card-1", "--wait", "--json")
    assert done.exit_code == 1
    assert json.loads(done.stdout)["data"]["reason"] == "card_exists"


def test_send_and_wait_ends_with_1_when_no_answer_comes(running: System) -> None:
    nobody = [{"command": "cards.create", "command_id": "n-1", "account_id": "nobody"}]
    listed = f"commands={json.dumps(nobody)}"
    done = running.cli("send", "commands.apply", listed, "--wait", "--timeout", "1")
    assert done.exit_code == 1
    assert "did not come within 1 s" in done.stderr


def test_send_and_wait_shows_the_first_answer_again(running: System) -> None:
    named = (f"account_id={ACCOUNT}", "card_id=again", "amount=500", "currency=NOK")
    first, again = (
        running.cli("send", "cards.create", *named, "command_id=again", "--wait", "--json")
        for _ in range(2)
    )
    assert first.exit_code == again.exit_code == 0
    assert first.stdout == again.stdout != ""


def test_send_and_wait_shows_what_another_command_id_was_answered(running: System) -> None:
    running.create("paid-card")
    pay = ("card_id=paid-card", "ref_id=r1", "amount=1", "currency=NOK", "--wait")
    shown = [running.cli("send", "transactions.create", FIELDS[0], *pay) for _ in range(2)]
    assert [done.exit_code for done in shown] == [0, 0]
    assert "card.drawn_down" in shown[0].stdout
    assert "command.repeated: card.drawn_down" in " ".join(shown[1].stdout.split())


def test_send_says_that_a_query_is_none_of_its_commands(running: System) -> None:
    done = running.cli("send", "cards.get", FIELDS[0], "card_id=x")
    assert (done.exit_code, done.stdout) == (2, "")
    assert "cards.get is a query" in done.stderr


def test_send_without_waiting_prints_the_command_id(running: System) -> None:
    done = running.cli("send", "cards.create", *FIELDS, "card_id=later", "--json")
    assert done.exit_code == 0
    (command_id,) = json.loads(done.stdout)["command_ids"]
    assert running.types(command_id) == ["card.created"]


def test_send_takes_a_list(running: System) -> None:
    listed = [
        {
            "command": "cards.create",
            "command_id": f"l-{n}",
            "account_id": account,
            "card_id": f"l-{n}",
            "amount": 1,
            "currency": "NOK",
        }
        for account, n in ((ACCOUNT, 0), (ACCOUNT, 1), ("T00000002", 0))
    ]
    done = running.cli(
        "send", "commands.apply", f"commands={json.dumps(listed)}", "--wait", "--json"
    )
    assert done.exit_code == 0, done.output
    keys = [json.loads(line)["partitionkey"] for line in done.stdout.splitlines()]
    assert keys == [f"{ACCOUNT}/l-0", f"{ACCOUNT}/l-1", "T00000002/l-0"]


@pytest.mark.parametrize(
    "wrong",
    [
        ("send", "cards.explode", f"account_id={ACCOUNT}"),
        ("send", "cards.create", "card_id=x"),
        ("send", "cards.create", "card_id"),
        ("send",),
        ("send-file",),
        ("card", "show"),
        ("card", "show", "card-1"),
        ("explode",),
        ("events", "tail", "--count", "0"),
    ],
    ids=" ".join,
)
def test_wrong_usage_ends_with_2(wrong: tuple[str, ...], running: System) -> None:
    assert running.cli(*wrong).exit_code == 2


@pytest.mark.parametrize(
    "command",
    [
        *((part,) for part in PARTS if part != "flower"),  # which is Celery's own
        *(("batch", how) for how in ("show", "open", "write", "confirm")),
        *(("codes", how) for how in ("new-identity", "new-pepper", "open")),
        *(("account", how) for how in ("show", "set")),
        ("demo",),
        ("dev",),
        ("migrate",),
        ("send",),
        ("send-file",),
        ("reconcile",),
        ("card", "show"),
        ("card", "history"),
        ("events", "tail"),
        *(("dead-letters", how) for how in ("list", "show", "requeue", "drop")),
    ],
    ids=" ".join,
)
def test_every_command_has_help(command: tuple[str, ...], running: System) -> None:
    done = running.cli(*command, "--help")
    assert done.exit_code == 0
    assert "Usage: card-worker" in done.output.replace("\x1b[1m", "") or "Usage" in done.output


def test_migrating_twice_is_harmless(running: System) -> None:
    assert running.cli("migrate").exit_code == 0
    assert running.types("card-1") == ["card.created"]


def test_reconcile_names_a_card_with_a_wrong_balance(running: System) -> None:
    running.create("corrupt")
    running.answers("corrupt")
    assert running.cli("reconcile").exit_code == 0
    (result,) = running.cli_json("reconcile")
    assert result["differences"] == []
    # The row is consistent in itself, so no constraint refuses it.
    change = "UPDATE cards SET amount_funds = {0}, amount_balance = {0} WHERE card_id = 'corrupt'"
    running.sql(change.format(501))
    try:
        done = running.cli("reconcile", "--json")
        assert done.exit_code == 1
        found = json.loads(done.stdout)["differences"]
        assert {(row["subject"], row["what"], row["actual"], row["expected"]) for row in found} >= {
            ("corrupt", "amount_balance", "501", "500"),
            ("corrupt", "amount_funds", "501", "500"),
        }
        # Other rows that contradict these two are reported, too, but no other card.
        assert {row["subject"].split(",")[0] for row in found} == {"corrupt", "NOK"}
        shown = running.cli("reconcile")
        assert (shown.exit_code, "corrupt" in shown.output) == (1, True)
    finally:
        running.sql(change.format(500))
    assert running.cli("reconcile").exit_code == 0


def test_reconcile_waits_longer_for_a_reply_than_other_commands(
    running: System, monkeypatch: pytest.MonkeyPatch
) -> None:
    running.send("cards.batch_create", "slow", batch_id="slow", cards=[{"card_id": "slow-1"}])
    running.answers("slow")
    monkeypatch.setattr(connections, "REPLY_MAX_S", 0.5)
    running.sql("ALTER TABLE batches RENAME TO kept")
    try:
        running.sql("CREATE VIEW batches AS SELECT kept.* FROM kept, pg_sleep(1)")
        running.sql("GRANT SELECT ON batches TO PUBLIC")
        shown = running.cli("batch", "show", "slow", "--account", ACCOUNT)
        assert "no reply for 0.5 s" in str(shown.exception)
        assert running.cli("reconcile").exit_code == 0
    finally:
        running.sql("DROP VIEW IF EXISTS batches")
        running.sql("ALTER TABLE kept RENAME TO batches")


@pytest.mark.parametrize(
    ("task", "fields", "shown"),
    [
        ("cards.batch_create", ('cards=[{"card_id": "one-1"}]',), "1 card created"),
        ("cards.batch_create", ("count=2", "card_id_pattern=two-{n}"), "2 cards requested"),
    ],
)
def test_send_counts_the_cards_of_a_batch(
    task: str, fields: tuple[str, ...], shown: str, running: System
) -> None:
    done = running.cli("send", task, FIELDS[0], *fields, "--wait")
    assert (done.exit_code, shown in " ".join(done.stdout.split())) == (0, True), done.output
