from __future__ import annotations

import os
import re
from pathlib import Path

import pytest

from embedstream.errors import ConfigError, UsageError
from embedstream.settings import load_with_sources
from embedstream.starter import Place, starter, write_starter
from tests.cli import run_cli


@pytest.fixture(autouse=True)
def _no_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [each for each in os.environ if each.startswith("EMBEDSTREAM_")]:
        monkeypatch.delenv(name)


@pytest.mark.parametrize("place", Place)
def test_what_is_written_loads(place: Place, tmp_path: Path) -> None:
    path = tmp_path / "embedstream.toml"
    write_starter(path, place)
    loaded = load_with_sources(path)
    assert loaded.source("kafka.bootstrap_servers") == str(path)
    assert loaded.source("encoder.model") == str(path)
    secure = loaded.settings.kafka.client.get("security.protocol")
    assert secure == ("SASL_SSL" if place is Place.CLOUD else None)


@pytest.mark.parametrize("place", Place)
def test_what_is_commented_out_loads_too(place: Place, tmp_path: Path) -> None:
    """A setting behind `# ` is one that a user takes the mark away from."""
    path = tmp_path / "embedstream.toml"
    lines = starter(place).splitlines()
    wanted = [re.sub(r'^# (?=("[a-z.]+"|[a-z_]+) = )', "", line) for line in lines]
    uncovered = sum(line != before for line, before in zip(wanted, lines, strict=True))
    assert uncovered == {Place.LAPTOP: 0, Place.LOCAL: 4, Place.CLOUD: 5}[place]
    path.write_text("\n".join(wanted))
    loaded = load_with_sources(path)
    assert loaded.settings.cost.budget == (None if place is Place.LAPTOP else 40)


def test_no_password_is_written() -> None:
    for place in Place:
        lines = [line for line in starter(place).splitlines() if not line.startswith("#")]
        assert not any("password" in line for line in lines)


def test_a_file_that_is_there_is_left_as_it_is(tmp_path: Path) -> None:
    path = tmp_path / "embedstream.toml"
    path.write_text("mine")
    with pytest.raises(UsageError, match="is there already: remove it, or name another with --to"):
        write_starter(path, Place.LAPTOP)
    assert path.read_text() == "mine"


def test_a_folder_that_does_not_exist_is_said(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="can't be written"):
        write_starter(tmp_path / "absent" / "embedstream.toml", Place.LAPTOP)


def test_the_command_writes_what_the_next_one_reads(tmp_path: Path) -> None:
    done = run_cli("init", "cloud", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    shown = run_cli("config", "show", cwd=tmp_path)
    assert "kafka.example.org:9093  (embedstream.toml)" in shown.stdout
    again = run_cli("init", "laptop", cwd=tmp_path)
    assert again.returncode == 2
    assert "embedstream.toml is there already" in again.stderr
