"""The rules of an account: set with the command line, applied by the worker."""

import re

import pytest

from tests.flow.system import ACCOUNT, System

OTHER = "P00000009"
RULES = {
    "account_id": ACCOUNT,
    "currencies": None,
    "load_max": None,
    "balance_max": None,
    "expiry": "keep",
    "reversal_window_s": 86_400,
    "recipients": None,
    "transfers_extend_expiry": True,
    "approve_from": None,
    "signatures": "accepted",
    "signature_window_s": 604_800,
    "only_own_recipients": False,
}


@pytest.fixture(scope="module")
def running(shared: System) -> System:
    shared.start("worker")
    shared.start("relay")
    return shared


def test_an_account_needs_no_set_up(running: System) -> None:
    (rules,) = running.cli_json("account", "show", OTHER)
    assert rules == RULES | {"account_id": OTHER}


def test_rules_that_are_set_apply_and_others_stay(running: System) -> None:
    (rules,) = running.cli_json("account", "set", ACCOUNT, "--load-max", "500")
    assert rules == RULES | {"load_max": 500}
    (rules,) = running.cli_json(
        "account", "set", ACCOUNT, "--currencies", "NOK,SEK", "--expiry", "breakage"
    )
    expected = RULES | {"load_max": 500, "currencies": ["NOK", "SEK"], "expiry": "breakage"}
    assert rules == expected
    assert running.cli_json("account", "show", ACCOUNT) == [expected]
    running.send("cards.create", "too-much", card_id="c1", amount=501, currency="NOK")
    running.send("cards.create", "other-money", card_id="c1", amount=500, currency="EUR")
    running.send("cards.create", "well", card_id="c1", amount=500, currency="SEK")
    assert running.types("too-much", "other-money", "well") == [
        "limit_exceeded",
        "currency_mismatch",
        "card.created",
    ]
    (rules,) = running.cli_json(
        "account", "set", ACCOUNT, "--load-max", "none", "--currencies", "none"
    )
    assert rules == RULES | {"expiry": "breakage"}
    signing = ("--signatures", "required", "--signature-window-s", "60", "--only-own-recipients")
    (rules,) = running.cli_json("account", "set", OTHER, *signing)
    signed = {"signatures": "required", "signature_window_s": 60, "only_own_recipients": True}
    assert rules == RULES | {"account_id": OTHER} | signed
    assert re.search(r"load_max\W+none", running.cli("account", "show", ACCOUNT).output)


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (("T1", "--load-max", "5"), "T1"),
        ((ACCOUNT,), "--help"),
        ((ACCOUNT, "--load-max", "-1"), "--load-max"),
        ((ACCOUNT, "--balance-max", "5.5"), "--balance-max"),
        ((ACCOUNT, "--currencies", "NOK,GBP"), "--currencies"),
        ((ACCOUNT, "--expiry", "burn"), "--expiry"),
        ((ACCOUNT, "--reversal-window-s", "-1"), "--reversal-window-s"),
        ((ACCOUNT, "--signatures", "no"), "--signatures"),
        ((ACCOUNT, "--signature-window-s", "0"), "--signature-window-s"),
    ],
)
def test_invalid_rules_are_named(arguments: tuple[str, ...], text: str, running: System) -> None:
    before = running.cli("account", "show", ACCOUNT).output
    done = running.cli("account", "set", *arguments)
    assert (done.exit_code, done.stdout) == (2, "")
    assert text in done.stderr
    assert running.cli("account", "show", ACCOUNT).output == before
