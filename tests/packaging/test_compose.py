"""docker-compose.yml says only what the project can do, and opens nothing to the world."""

import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from celery.bin.celery import celery

from benchmarks.stage import POSTGRESQL
from card_worker.contracts.commands import QUEUES
from card_worker.settings import FROM_FILES, Settings
from tests.cli.commands import all_commands
from tests.servers import SORTING

ROOT = Path(__file__).parents[2]
COMPOSE = (ROOT / "docker-compose.yml").read_text()
WHOLE = yaml.safe_load(COMPOSE)
SERVICES: dict[str, dict[str, Any]] = WHOLE["services"]
PARTS = {name: service for name, service in SERVICES.items() if service["image"] == "card-worker"}
TLS_FILE = (ROOT / "docker-compose.tls.yml").read_text()
TLS = yaml.safe_load(TLS_FILE)
PROMETHEUS = (ROOT / "deploy" / "monitoring" / "prometheus.yml").read_text()
SECRET = "/run/secrets/"
OF_METRICS = {"prometheus", "grafana"}
"""They reach neither PostgreSQL nor Redis."""
LOGINS = ("migrate", "worker", "relay", "operator", "reader")

COMMANDS = {"card-worker": all_commands(), "celery": celery}


def program_of(service: dict[str, Any]) -> list[str]:
    return [*service.get("entrypoint", ["card-worker"]), *service["command"]]


def checks_of(service: dict[str, Any]) -> list[str]:
    """Return the health check as words; none where there is no check."""
    kind, *words = [str(word) for word in service.get("healthcheck", {"test": ["NONE"]})["test"]]
    return words[0].split() if kind == "CMD-SHELL" else words


def assert_runs(words: list[str]) -> None:
    """Follow a command line into the subcommands; every word and option of it must be known."""
    # Any: typer brings a click of its own, so its commands and Celery's share no class.
    command: Any = COMMANDS[words[0]]
    rest = words[1:]
    while subcommands := getattr(command, "commands", None):
        if rest[:2] == ["-A", "card_worker"]:
            rest = rest[2:]
        assert rest, f"{words}: a subcommand is missing"
        assert rest[0] in subcommands, f"{words}: no command {rest[0]}"
        command, rest = subcommands[rest[0]], rest[1:]
    parameters = list(command.params)
    # Our worker and beat hand what they don't know on to Celery's.
    if command.context_settings.get("allow_extra_args"):
        parameters += celery.commands[command.name].params
    # Flower hands its options on to tornado; no list of them can be had without running it.
    if command.name != "flower":
        known = {name for parameter in parameters for name in parameter.opts}
        assert {word.partition("=")[0] for word in rest if word.startswith("-")} <= known, words


def test_every_part_of_the_system_is_a_service() -> None:
    assert set(SERVICES) == {
        *("postgres", "redis"),
        *("migrate", "worker", "bulk", "relay", "beat", "flower", "operator"),
        *("reconcile", "prometheus", "grafana"),
    }


@pytest.mark.parametrize("name", PARTS)
def test_every_part_runs_a_command_that_exists(name: str) -> None:
    assert_runs(program_of(PARTS[name]))


def test_the_health_check_of_beat_is_a_command_that_exists() -> None:
    assert_runs(checks_of(PARTS["beat"]))


@pytest.mark.parametrize("name", ["worker", "bulk", "relay", "reconcile"])
def test_every_other_health_check_asks_the_port_that_is_set(name: str) -> None:
    port = PARTS[name]["environment"]["CARD_WORKER_METRICS_PORT"]
    assert f"'http://127.0.0.1:{port}/healthz'" in checks_of(PARTS[name])[-1]
    (scraped,) = yaml.safe_load(PROMETHEUS)["scrape_configs"]
    (found,) = scraped["dns_sd_configs"]
    assert found["port"] == int(port)
    assert name in found["names"]
    assert "metrics" in PARTS[name]["networks"]


def test_everything_but_the_one_off_has_a_health_check() -> None:
    without = {name for name in SERVICES if not checks_of(SERVICES[name])}
    assert without == {"migrate", "operator"}


def test_only_web_pages_publish_a_port_and_only_to_the_host_itself() -> None:
    ports = {name: service["ports"] for name, service in SERVICES.items() if "ports" in service}
    assert ports == {"flower": ["127.0.0.1:5555:5555"], "grafana": ["127.0.0.1:3000:3000"]}
    assert not any("network_mode" in service for service in SERVICES.values())


def test_flower_is_read_only_and_asks_for_a_login() -> None:
    assert "--read_only" in SERVICES["flower"]["command"]
    assert f"--conf={SECRET}flower-login" in SERVICES["flower"]["command"]


def test_every_queue_is_read_by_somebody() -> None:
    commands = [service["command"] for service in PARTS.values()]
    options = [one for command in commands if command[0] == "worker" for one in command[1:]]
    read = [name for one in options for name in one.removeprefix("--queues=").split(",")]
    assert sorted(read) == sorted(set(QUEUES.values()))


@pytest.mark.parametrize("name", PARTS)
def test_every_part_reads_celery_s_settings_from_celeryconfig(name: str) -> None:
    (config,) = PARTS[name]["configs"]
    assert PARTS[name]["environment"]["CELERY_CONFIG_MODULE"] == "celeryconfig"
    assert config["target"] == f"{PARTS[name]['working_dir']}/celeryconfig.py"
    assert (ROOT / yaml.safe_load(COMPOSE)["configs"][config["source"]]["file"]).is_file()


def test_the_worker_can_be_scaled() -> None:
    assert not {"container_name", "ports", "hostname"} & set(SERVICES["worker"])


def test_redis_keeps_what_waits() -> None:
    words = SERVICES["redis"]["command"]
    options = dict(zip(words[1::2], words[2::2], strict=True))
    assert options["--appendonly"] == "yes"
    assert options["--maxmemory-policy"] == "noeviction"
    assert options["--aclfile"] == f"{SECRET}users.acl"


def test_postgresql_is_set_up_as_it_is_measured() -> None:
    program, *words = SERVICES["postgres"]["command"]
    assert (program, set(words[::2])) == ("postgres", {"-c"})
    assert dict(word.split("=") for word in words[1::2]) == POSTGRESQL
    assert SERVICES["postgres"]["environment"]["POSTGRES_INITDB_ARGS"] == SORTING


@pytest.mark.parametrize("name", ["postgres", "redis"])
def test_what_is_stored_outlives_its_container(name: str) -> None:
    volume, _, _ = SERVICES[name]["volumes"][0].partition(":")
    assert volume in yaml.safe_load(COMPOSE)["volumes"]


@pytest.mark.parametrize("name", sorted(PARTS.keys() - {"migrate"}))
def test_every_part_waits_for_the_newest_schema(name: str) -> None:
    assert PARTS[name]["depends_on"]["migrate"]["condition"] == "service_completed_successfully"


@pytest.mark.parametrize("name", PARTS)
def test_every_part_has_no_more_rights_than_it_needs(name: str) -> None:
    part = PARTS[name]
    assert part["read_only"] is True
    assert part["cap_drop"] == ["ALL"]
    assert "no-new-privileges:true" in part["security_opt"]


def test_every_setting_is_one_that_can_be_read_from_a_file() -> None:
    named = set(re.findall(r"CARD_WORKER_(\w+)", COMPOSE + TLS_FILE))
    from_files = {f"{name}_FILE" for name in FROM_FILES}
    assert named <= {name.upper() for name in Settings.model_fields} | from_files
    assert {name for name in named if re.search("URL|PEPPERS", name)} <= from_files | {"FILES_URL"}


def test_no_password_stands_in_a_variable_or_on_a_command_line() -> None:
    assert not re.search(r"(?<!\$)\$(?!\$)", COMPOSE)
    for service in SERVICES.values():
        for name, value in service.get("environment", {}).items():
            if re.search("PASSWORD|PEPPER|AUTH", name):
                assert name.endswith("_FILE")
                assert value.startswith(SECRET)


def secrets_of(*services: dict[str, Any]) -> set[str]:
    return {secret for service in services for secret in service.get("secrets", ())}


@pytest.mark.parametrize("name", sorted(SERVICES.keys() - OF_METRICS))
def test_a_part_sees_just_the_secrets_that_it_names(name: str) -> None:
    named = set(re.findall(f"{SECRET}([\\w.-]+)", yaml.dump(SERVICES[name])))
    if name == "postgres":
        named |= {f"postgres-{login}" for login in LOGINS}
    assert secrets_of(SERVICES[name]) == named
    both = SERVICES[name] | TLS["services"][name]
    in_tls = re.findall(f"{SECRET}([\\w.-]+)", yaml.dump(both) + yaml.dump(TLS["x-database"]))
    assert secrets_of(SERVICES[name], TLS["services"][name]) >= set(in_tls) - {"ca.crt"}
    assert name == "postgres" or "ca.crt" in secrets_of(TLS["services"][name])


def test_every_secret_is_a_file_of_the_folder_that_git_ignores() -> None:
    for whole in (WHOLE, TLS):
        assert secrets_of(*whole["services"].values()) == whole["secrets"].keys()
        for name, secret in whole["secrets"].items():
            assert secret == {"file": f"./secrets/{name}"}
    assert "/secrets/" in (ROOT / ".gitignore").read_text().splitlines()


def test_each_part_has_a_login_and_a_user_of_its_own() -> None:
    for name, part in PARTS.items():
        role = {"bulk": "worker", "reconcile": "operator"}.get(name, name)
        urls = {key: value for key, value in part["environment"].items() if "_URL_FILE" in key}
        for key, value in urls.items():
            kind = "database-url" if "DATABASE" in key else "broker-url"
            assert value == f"{SECRET}{kind}-{role}"


def test_flower_and_beat_can_not_reach_the_database() -> None:
    on = {name: set(service["networks"]) for name, service in SERVICES.items()}
    assert on["postgres"] == {"database"}
    assert {name for name, networks in on.items() if "database" in networks} == {
        *("postgres", "migrate", "worker", "bulk", "relay", "operator", "reconcile"),
    }
    for name in ("database", "broker", "metrics"):
        assert WHOLE["networks"][name]["internal"]


def test_images_of_others_have_an_exact_tag() -> None:
    images = [service["image"] for service in SERVICES.values() if service not in PARTS.values()]
    images += re.findall(r"^FROM (\S+:\S+)", (ROOT / "Dockerfile").read_text(), re.MULTILINE)
    assert len(images) == 5
    assert all(re.search(r":v?\d+\.\d+(\.\d+)?(-\w+)?$", image) for image in images)


def test_tls_changes_nothing_else() -> None:
    assert TLS["services"].keys() == SERVICES.keys() - OF_METRICS
    for name in ("postgres", "redis"):
        before, after = SERVICES[name]["command"], TLS["services"][name]["command"]
        assert after[: len(before)] == before
    for name in PARTS:
        before, after = SERVICES[name]["environment"], TLS["services"][name]["environment"]
        if "CARD_WORKER_BROKER_URL_FILE" in before:
            url = before["CARD_WORKER_BROKER_URL_FILE"]
            assert after["CARD_WORKER_BROKER_URL_FILE"] == f"{url}-tls"
        if "CARD_WORKER_DATABASE_URL_FILE" in before:
            assert after["PGSSLMODE"] == "verify-full"


def test_every_alert_has_its_section_in_the_runbook() -> None:
    (group,) = yaml.safe_load((ROOT / "deploy" / "monitoring" / "alerts.yml").read_text())["groups"]
    page = "docs/how-to/alerts.md"
    links = [rule["annotations"]["runbook"] for rule in group["rules"]]
    assert links == [f"{page}#{rule['alert'].lower()}" for rule in group["rules"]]
    titles = re.findall(r"^## (\w+)$", (ROOT / page).read_text(), re.MULTILINE)
    assert titles == [rule["alert"] for rule in group["rules"]]
