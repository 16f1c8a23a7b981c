"""Flower's pages in a real browser. `make pictures` takes the pictures of the documents here."""

import io
import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from selenium.common.exceptions import StaleElementReferenceException
from selenium.webdriver import Chrome, ChromeOptions, ChromeService
from selenium.webdriver.common.by import By

from tests.flow.processes import WAIT_S, Part, flower_address, until
from tests.flow.system import System, card, envelope
from tests.servers import missing

REFUSED, LETTER = "sale-4712", "sale-4713"
HOSTILE = "<img/src=x/onerror=document.title='taken'>"
"""The name of a task that a browser would run as a script."""
COLORS = 64
LOADED_S = 5.0


@pytest.fixture
def browser(tmp_path: Path) -> Iterator[Chrome]:
    driver = shutil.which("chromedriver")
    if driver is None:
        missing("the program chromedriver isn't installed: apt install chromium-driver")
    options = ChromeOptions()
    # Root may not use the sandbox, and containers have little shared memory.
    for option in ("headless", "no-sandbox", "disable-dev-shm-usage", "hide-scrollbars"):
        options.add_argument(f"--{option}")
    options.add_argument("--window-size=1400,940")
    service = ChromeService(driver, log_output=str(tmp_path / "chromedriver.log"))
    with Chrome(options, service) as chrome:
        yield chrome


class Pages:
    """Flower's pages as a browser shows them."""

    def __init__(self, browser: Chrome, flower: Part) -> None:
        self._browser = browser
        until(lambda: flower_address(flower), "Flower")
        self._flower = f"http://{flower_address(flower)}"

    def open(self, path: str, *texts: str, without: str | None = None) -> None:
        """Open a page, again and again, until it shows the texts."""
        until(lambda: self._opened(path, texts, without), f"{texts} on {path}")

    def _opened(self, path: str, texts: Sequence[str], without: str | None) -> bool:
        self._browser.get(f"{self._flower}{path}")
        # Scripts of the page ask for what it shows.
        with suppress(AssertionError):
            self.shows(*texts, without=without, within_s=LOADED_S)
            return True
        return False

    def shows(self, *texts: str, without: str | None = None, within_s: float = WAIT_S) -> None:
        """Return when the open page shows the texts by itself."""

        def is_so() -> bool:
            shown = self.text
            is_without = without is None or _close(without) not in shown
            return is_without and all(_close(text) in shown for text in texts)

        until(is_so, f"{texts} without {without}", within_s=within_s)

    @property
    def text(self) -> str:
        """The text of the open page, without spaces: the page breaks lines within names."""
        try:
            return _close(self._browser.find_element(By.TAG_NAME, "body").text)
        except StaleElementReferenceException:
            return ""

    def search(self, words: str) -> None:
        field = self._browser.find_element(By.CSS_SELECTOR, "input[type=search]")
        field.clear()
        field.send_keys(words)

    def picture(self, name: str) -> None:
        """Write a picture of the window into the folder that PICTURES names, if it is set."""
        if folder := os.environ.get("PICTURES"):
            shot = Image.open(io.BytesIO(self._browser.get_screenshot_as_png()))
            Path(folder).mkdir(exist_ok=True)
            shot.convert("RGB").quantize(COLORS).save(Path(folder) / f"{name}.png", optimize=True)


def _close(text: str) -> str:
    return "".join(text.split())


@pytest.mark.debian
def test_flower_shows_what_an_operator_looks_for(own: System, browser: Chrome) -> None:
    workers = [own.start("worker", "--task-events") for _ in range(2)]
    names = [f"celery-{worker.pid}@" for worker in workers]
    pages = Pages(browser, own.start("flower", "--port=0", "--purge_offline_workers=1"))
    pages.open("/workers", *names)
    _send(own)

    pages.open("/tasks", "sale-4711", REFUSED, LETTER, "card_not_found", "task_unknown")
    assert "sweeps." not in pages.text
    pages.picture("flower-tasks")
    own.push(envelope(HOSTILE, "hostile"))
    for path in ("/task/hostile", "/tasks"):
        pages.open(path, HOSTILE)
        assert browser.title != "taken"
    pages.search("result:card_not_found")
    pages.shows(REFUSED, without="sale-4711")

    pages.open(f"/task/{REFUSED}", "command.rejected: card_not_found", "SUCCESS")
    pages.picture("flower-refused")
    pages.open(f"/task/{LETTER}", "task_unknown: There is no task with this name", "FAILURE")
    pages.picture("flower-dead-letter")

    pages.open("/workers", *names)
    pages.picture("flower-workers")
    assert workers[0].stop() == 0
    pages.open("/workers", names[1], without=names[0])

    assert workers[1].stop() == 0
    with own.client as client:
        for number in range(7):
            client.publish("cards.block", {}, message_id=f"waits-{number}")
    own.push(envelope("cards.create", "low", card("low")), "cards\x06\x169")
    pages.open("/broker", "redis://", "cards.bulk", "cards 8")
    pages.picture("flower-broker")


def _send(system: System) -> None:
    """Send commands that are done, one that is refused, and one that becomes a dead letter."""
    account: dict[str, Any] = {"account_id": "T00000001"}
    for number in range(4):
        system.create(f"sale-47{number}")
    system.create("sale-4711")
    created = {**card("listed-1"), "command": "cards.create", "command_id": "listed-1"}
    refused = {"command": "cards.expire", **account, "card_id": "card-9", "command_id": "listed-2"}
    system.push(envelope("commands.apply", "list-17", {"commands": [created, refused]}))
    system.push(envelope("cards.expire", REFUSED, {**account, "card_id": "card-4712"}))
    system.push(envelope("cards.explode", LETTER, account))
