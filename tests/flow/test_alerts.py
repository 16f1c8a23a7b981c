"""Each alert fires on its cause, by the rules and what real processes have served."""

import json
import shutil
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from time import monotonic, sleep, time
from typing import Any

import pytest
import yaml

from card_worker.contracts.commands import SWEEPS
from card_worker.shared_state import CACHED_S
from tests.documents.reading import ROOT
from tests.flow.processes import Part, until
from tests.flow.scraping import METRICS_PORT, Scrape, scrape, value
from tests.flow.system import System, envelope
from tests.servers import missing

MONITORING = ROOT / "deploy" / "monitoring"
RULES = MONITORING / "alerts.yml"
ALERTS = {rule["alert"] for rule in yaml.safe_load(RULES.read_text())["groups"][0]["rules"]}
GOES_ON_S = 1800
STEP_S = 15
UNSIGNED = "T00000009"
"""An account that requires signatures."""
STOP_READING = """
DO $$ DECLARE name text; BEGIN
    FOR name IN SELECT grantee FROM information_schema.role_table_grants
        WHERE table_name = 'unpublished' AND privilege_type = 'SELECT'
    LOOP EXECUTE format('REVOKE SELECT ON unpublished FROM %I', name); END LOOP;
END $$
"""

pytestmark = pytest.mark.debian


def promtool(*arguments: object) -> str:
    """Return what promtool says if it finds something wrong; else nothing."""
    program = shutil.which("promtool") or missing("Debian's prometheus is not installed")
    command = [program, *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return "" if done.returncode == 0 else f"it failed: {done.stdout}{done.stderr}"


@dataclass
class Seen:
    """Two scrapes, `seconds` apart, the first at the Unix time `at`."""

    before: Scrape
    after: Scrape
    seconds: float
    at: float

    def series(self) -> Iterator[dict[str, str]]:
        """Yield what Prometheus has stored if things go on like this, as promtool reads it."""
        for (name, labels), first in self.before.items():
            if (name, labels) in self.after:
                # The time of promtool begins with 0.
                shift = self.at if name.endswith("_timestamp_seconds") else 0.0
                step = (self.after[name, labels] - first) / self.seconds * STEP_S
                shown = "".join(f",{label}={json.dumps(of)}" for label, of in sorted(labels))
                values = f"{first - shift:.6f}{step:+.6f}x{GOES_ON_S // STEP_S}"
                yield {"series": f'{name}{{job="card_worker"{shown}}}', "values": values}


def look(*parts: Part, meanwhile: Callable[[], None] = lambda: None) -> Seen:
    """Scrape twice, so far apart that workers read the shared state anew."""
    at, before, started = time(), scrape(*parts), monotonic()
    meanwhile()
    sleep(CACHED_S + 0.5)
    return Seen(before, scrape(*parts), monotonic() - started, at)


def sweeps(scraped: Scrape) -> list[str]:
    name = "card_worker_sweep_last_success_timestamp_seconds"
    return [dict(labels)["sweep"] for of, labels in scraped if of == name]


@pytest.fixture(scope="module")
def story(shared: System) -> dict[str, Seen]:
    """A healthy system; one with each cause but two; and these two."""
    served: Any = {"METRICS_PORT": METRICS_PORT}
    shared.cli_json("account", "set", UNSIGNED, "--signatures", "required")
    worker = shared.start("worker", "--queues=cards,cards.system", **served)
    relay = shared.start("relay", **served)
    beat = shared.start("beat", SWEEP_INTERVAL_S="1")
    every = ("reconcile", "--every", "1")
    reconcile = shared.parts.run("-m", "card_worker.cli", *every, name="reconcile", **served)
    shared.create("a")
    shared.answers("a")
    # Without a limit for old rows, nothing requests the sweep that deletes them.
    expected = len(SWEEPS) - 1
    until(lambda: len(sweeps(scrape(worker))) == expected, "the sweeps")
    seen = {"healthy": look(worker, reconcile)}

    def send_unsigned() -> None:
        shared.push(envelope("cards.get", f"u-{monotonic()}", {"account_id": UNSIGNED}))

    relay.stop()
    beat.stop()
    shared.create("b")  # its event is not published
    shared.push(b"no message")
    shared.client.publish("commands.apply", {"commands": []})  # no worker reads that queue
    shared.sql("UPDATE cards SET amount_balance = amount_balance - 1")
    used = int(shared.redis.info("memory")["used_memory"])
    shared.redis.config_set("maxmemory", round(used / 0.85))
    send_unsigned()
    until(lambda: value(scrape(worker), "dead_letters_total", reason="unsigned"), "a letter")
    until(lambda: value(scrape(reconcile), "reconcile_differences"), "a difference")
    until(lambda: value(scrape(worker), "unpublished_events"), "the state with all of this")
    seen["ill"] = look(worker, reconcile, meanwhile=send_unsigned)

    shared.sql(STOP_READING)
    until(lambda: value(scrape(worker), "state_errors_total", part="database"), "an error")
    seen["blind"] = look(worker, reconcile)

    worker.stop()
    seen["without workers"] = look(reconcile)
    return seen


def fires(seen: Seen, alerts: set[str], folder: Path) -> str:
    """Return how the alerts that fire after GOES_ON_S differ from these; nothing if they don't."""
    question = {
        "expr": 'group by (alertname) (ALERTS{alertstate="firing"})',
        "eval_time": f"{GOES_ON_S}s",
        "exp_samples": [{"labels": f'{{alertname="{name}"}}', "value": 1} for name in alerts],
    }
    test = {
        "interval": f"{STEP_S}s",
        "input_series": list(seen.series()),
        "promql_expr_test": [question],
    }
    tests = {
        "rule_files": [str(RULES)],
        "evaluation_interval": f"{STEP_S}s",
        "tests": [test],
    }
    file = folder / "tests.yml"
    file.write_text(yaml.dump(tests))
    return promtool("test", "rules", file)


def test_rules_and_dashboard_are_valid(tmp_path: Path) -> None:
    assert promtool("check", "config", RULES.with_name("prometheus.yml")) == ""  # and the rules
    panels = json.loads((MONITORING / "grafana" / "dashboard.json").read_text())["panels"]
    asked = [target["expr"] for panel in panels for target in panel["targets"]]
    rules = [{"record": f"panel_{number}", "expr": expr} for number, expr in enumerate(asked)]
    file = tmp_path / "panels.yml"
    file.write_text(yaml.dump({"groups": [{"name": "panels", "rules": rules}]}))
    assert promtool("check", "rules", file) == ""


def test_a_healthy_system_raises_no_alert(story: dict[str, Seen], tmp_path: Path) -> None:
    assert fires(story["healthy"], set(), tmp_path) == ""


def test_each_cause_raises_its_alert(story: dict[str, Seen], tmp_path: Path) -> None:
    others = {"CardWorkerGone", "CardWorkerStateUnread"}
    assert fires(story["ill"], ALERTS - others, tmp_path) == ""


def test_a_state_that_workers_can_not_read_raises_an_alert(
    story: dict[str, Seen], tmp_path: Path
) -> None:
    # Of the rest, those that only the database could tell are silent now.
    silent = {"CardWorkerGone", "CardWorkerRelayLag", "CardWorkerDeadLetter"}
    silent |= {"CardWorkerUnauthenticated"}  # nobody sends any more
    assert fires(story["blind"], ALERTS - silent, tmp_path) == ""


def test_no_worker_raises_an_alert(story: dict[str, Seen], tmp_path: Path) -> None:
    alone = {"CardWorkerGone", "CardWorkerReconcileFailed"}
    assert fires(story["without workers"], alone, tmp_path) == ""
