"""What stands in deploy/, by the tools that read it."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from consumer.model_files import BUNDLED_MODEL, copy_model, find_model
from embedstream.fleet.pod import FINAL
from tests.brokers import REPOSITORY
from tests.cli import run_cli

DEPLOY = REPOSITORY / "deploy"
DOCKERFILES = sorted((DEPLOY / "docker").glob("Dockerfile*"))


def tool(name: str) -> str:
    found = shutil.which(name)
    if found is None:
        pytest.skip(f"{name} is not installed")
    return found


def kubernetes() -> list[dict[str, Any]]:
    return list(yaml.safe_load_all((DEPLOY / "kubernetes" / "consumer.yaml").read_text()))


def test_systemd_takes_the_unit(tmp_path: Path) -> None:
    unit = (DEPLOY / "systemd" / "embedstream@.service").read_text()
    # The program must be there for it.
    copy = tmp_path / "embedstream@.service"
    copy.write_text(unit.replace("/opt/embedstream/bin/embedstream", sys.executable))
    instance = tmp_path / "embedstream@0.service"
    instance.symlink_to(copy.name)
    done = subprocess.run(
        [tool("systemd-analyze"), "verify", "--man=no", str(instance)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "embedstream@" not in done.stderr, done.stderr


def test_a_supervisor_does_not_restart_what_would_end_the_same_way() -> None:
    unit = (DEPLOY / "systemd" / "embedstream@.service").read_text()
    (codes,) = re.findall(r"^RestartPreventExitStatus=(.*)$", unit, re.MULTILINE)
    assert set(map(int, codes.split())) == set(FINAL) - {0}


@pytest.mark.parametrize("others", [[], ["compose.yaml"]], ids=["alone", "over the other"])
def test_compose_takes_the_file(others: list[str], tmp_path: Path) -> None:
    files = [str(DEPLOY / "compose" / name) for name in (*others, "compose.gpu.yaml")]
    command = [tool("docker-compose"), *(word for file in files for word in ("-f", file)), "--profile", "gpu"]
    (tmp_path / "kafka_password").touch()
    done = subprocess.run(
        [*command, "config"],
        capture_output=True,
        text=True,
        check=False,
        env={"PATH": "/usr/bin:/bin", "HOME": str(tmp_path)},
    )
    assert done.returncode == 0, done.stderr
    service = yaml.safe_load(done.stdout)["services"]["consumer-gpu"]
    assert service["deploy"]["resources"]["reservations"]["devices"][0]["capabilities"] == ["gpu"]
    assert service["command"] in (["consume"], "consume")


def test_kubernetes_takes_the_deployment() -> None:
    validate = pytest.importorskip("kubernetes_validate")
    (deployment,) = [each for each in kubernetes() if each["kind"] == "Deployment"]
    validate.validate(deployment, "1.33", strict=True)


def test_what_scales_the_deployment_looks_at_what_it_reads() -> None:
    parts = {each["kind"]: each for each in kubernetes()}
    (container,) = parts["Deployment"]["spec"]["template"]["spec"]["containers"]
    env = {each["name"]: each.get("value") for each in container["env"]}
    scaled = parts["ScaledObject"]["spec"]
    (trigger,) = scaled["triggers"]
    assert scaled["scaleTargetRef"]["name"] == parts["Deployment"]["metadata"]["name"]
    assert scaled["minReplicaCount"] == 0
    assert trigger["metadata"]["bootstrapServers"] == env["EMBEDSTREAM_KAFKA__BOOTSTRAP_SERVERS"]
    assert trigger["metadata"]["topic"] == env["EMBEDSTREAM_KAFKA__DOCUMENTS_TOPIC"]
    assert trigger["metadata"]["consumerGroup"] == env["EMBEDSTREAM_CONSUMER__GROUP"]
    assert trigger["authenticationRef"]["name"] == parts["TriggerAuthentication"]["metadata"]["name"]


def variables_of_files() -> dict[str, set[str]]:
    files = [*DEPLOY.rglob("*.yaml"), *DEPLOY.rglob("*.service"), *DOCKERFILES]
    return {path.name: set(re.findall(r"\bEMBEDSTREAM_[A-Z0-9_]+", path.read_text())) for path in files}


def test_every_variable_in_the_files_is_a_setting(tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("hush-hush-481\n")
    values = {"PORT": "9400", "FILE": str(secret), "ID": "i-0"}
    named = {name for names in variables_of_files().values() for name in names if "__" in name}
    assert len(named) >= 8
    env = {name: values.get(name.rpartition("_")[2], "x") for name in named}
    done = run_cli("config", "show", env=env)
    assert done.returncode == 0, done.stderr
    assert "hush-hush-481" not in done.stdout


@pytest.mark.parametrize("path", DOCKERFILES, ids=lambda path: path.name)
def test_an_image_is_pinned_unprivileged_and_passes_signals_on(path: Path) -> None:
    text = path.read_text()
    bases = re.findall(r"^FROM (\S+)", text, re.MULTILINE)
    stages = set(re.findall(r" AS (\w+)$", text, re.MULTILINE))
    assert all(re.search(r":\d+\.\d+\.\d+", base) for base in bases if base not in stages)
    last = text[text.rindex("\nFROM ") :]
    assert re.search(r"^USER \d+$", last, re.MULTILINE)
    assert re.search(r'^ENTRYPOINT \["tini", "--", "embedstream"\]$', last, re.MULTILINE)
    assert "HEALTHCHECK" in last
    for source in re.findall(r"^COPY (?!--from)(.+) \S+$", text, re.MULTILINE):
        for each in source.split():
            assert (REPOSITORY / each).exists(), each
    (command,) = re.findall(r'^CMD \["(.*)"\]$', last, re.MULTILINE)
    assert run_cli(command, "--help").returncode == 0


def test_the_models_name_is_a_folder_where_the_image_works(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = (DEPLOY / "docker" / "Dockerfile").read_text()
    assert 'model fetch "$MODEL" --to "/models/$MODEL"' in text
    last = text[text.rindex("\nFROM ") :]
    for line in ("WORKDIR /models", "COPY --from=model /models /models", "EMBEDSTREAM_ENCODER__MODEL=$MODEL"):
        assert line in last
    assert len(set(re.findall(r"^ARG (MODEL=.*)$", text, re.MULTILINE))) == 1
    assert "HF_HUB_OFFLINE=1" in last
    # What the image relies on, with another model under the name.
    copy_model(BUNDLED_MODEL, tmp_path / "BAAI" / "bge-large-en-v1.5")
    monkeypatch.chdir(tmp_path)
    assert find_model("BAAI/bge-large-en-v1.5") == Path("BAAI/bge-large-en-v1.5")


@pytest.mark.parametrize("script", ["acls.sh", "users.sh"])
def test_the_scripts_are_scripts(script: str) -> None:
    path = DEPLOY / "kafka" / script
    assert subprocess.run(["sh", "-n", str(path)], check=False).returncode == 0
    done = subprocess.run(["sh", str(path)], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert script in done.stderr


def test_passwords_are_made_once_and_never_on_a_command_line(tmp_path: Path) -> None:
    tool_of_kafka = tmp_path / "kafka-configs.sh"
    tool_of_kafka.write_text(
        f'#!/bin/sh\necho "$@" >>{tmp_path}/said\nfor f; do :; done; cat "$f" >>{tmp_path}/files\n'
    )
    tool_of_kafka.chmod(0o755)
    command = ["sh", str(DEPLOY / "kafka" / "users.sh"), str(tmp_path / "passwords")]
    env = {"PATH": "/usr/bin:/bin", "KAFKA_CONFIGS": str(tool_of_kafka)}
    subprocess.run(command, env=env, check=True)
    first = {path.name: path.read_text().strip() for path in (tmp_path / "passwords").iterdir()}
    assert len(set(first.values())) == 4
    assert all((tmp_path / "passwords" / user).stat().st_mode & 0o077 == 0 for user in first)
    subprocess.run(command, env=env, check=True)
    assert first == {path.name: path.read_text().strip() for path in (tmp_path / "passwords").iterdir()}
    said, files = (tmp_path / "said").read_text(), (tmp_path / "files").read_text()
    assert not any(password in said for password in first.values())
    assert all(f"password={password}" in files for password in first.values())
