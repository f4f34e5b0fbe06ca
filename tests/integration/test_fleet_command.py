"""`embedstream fleet` as a person runs it: processes of their own, against the stand-in for RunPod."""

from __future__ import annotations

import json
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.brokers import BrokerHandle
from tests.cli import run_cli
from tests.consuming import documents, send
from tests.daemons import Daemons
from tests.kafka import make_topics, wait_until
from tests.runpod import KEY, FakeRunPod
from tests.unit.embedstream.fleet.fleets import RTX_3090, RTX_4090

SECRET = "hush-7714"
IMAGE = ("--image", "registry.example.org/embedstream:1")
UP = ("fleet", "up", "--gpu", "RTX 4090", "--gpu", "rtx 3090", *IMAGE)


def fleet(url: str, state: Path, *args: str, **env: str) -> subprocess.CompletedProcess[str]:
    variables = {
        "RUNPOD_API_KEY": KEY,
        "XDG_STATE_HOME": str(state),
        "EMBEDSTREAM_FLEET__API_URL": url,
        "EMBEDSTREAM_KAFKA__BOOTSTRAP_SERVERS": "kafka.example.org:9093",
        "EMBEDSTREAM_KAFKA__CLIENT__SECURITY_PROTOCOL": "SASL_SSL",
        "EMBEDSTREAM_KAFKA__CLIENT__SASL_PASSWORD": SECRET,
        "EMBEDSTREAM_ENCODER__MODEL": "/models/model",
        **env,
    }
    done = run_cli(*args, env=variables)
    print(args, done.returncode, done.stdout, done.stderr)
    assert "Traceback" not in done.stderr
    assert KEY not in done.stdout + done.stderr
    assert SECRET not in done.stdout + done.stderr
    return done


def only_line(done: subprocess.CompletedProcess[str]) -> str:
    (line,) = done.stderr.strip().splitlines()
    return line


def test_a_dry_run_tells_the_plan_and_its_price_and_rents_nothing(tmp_path: Path) -> None:
    api = FakeRunPod(capacity={(RTX_4090, "COMMUNITY"): 0})
    with api.serve() as url:
        done = fleet(
            url, tmp_path, *UP, "--pods", "4", "--budget", "50", "--max-price", "0.60", "--dry-run", "--json"
        )
        assert done.returncode == 0
        plan = json.loads(done.stdout)
        assert [(each["gpu"], each["cloud"]) for each in plan["candidates"]] == [
            (RTX_4090, "COMMUNITY"),
            (RTX_3090, "COMMUNITY"),
            (RTX_3090, "SECURE"),
        ]
        assert plan["candidates"][0]["availability"] == "NONE"
        assert plan["dollars_per_hour"] == pytest.approx(4 * 0.34)
        assert plan["secrets_in_plain"] == ["EMBEDSTREAM_KAFKA__CLIENT__SASL_PASSWORD"]
        done = fleet(url, tmp_path, *UP, "--pods", "4", "--dry-run")
        assert "4 pods of registry.example.org/embedstream:1: $1.36 an hour" in done.stdout
    assert api.pods == {}
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("flags", "env", "code", "told"),
    [
        (["--pods", "0"], {}, 2, "--pods is 0"),
        (["--gpu", "RTX 4909"], {}, 2, "did you mean 'NVIDIA GeForce RTX 4090'"),
        (["--max-price", "0.10"], {}, 2, "the cheapest is NVIDIA GeForce RTX 3090 on COMMUNITY at $0.22/h"),
        ([], {"RUNPOD_API_KEY": "rpa_another"}, 78, "RunPod refuses the API key"),
        ([], {"RUNPOD_API_KEY": ""}, 78, "there is no RunPod API key"),
        (["--bootstrap-servers", "127.0.0.1:9092"], {}, 78, "pods can't reach"),
        (["--name", "a_b"], {}, 78, "fleet.name"),
        (["--secret", "nothing"], {}, 2, "is not SETTING=NAME"),
        (["--budget", "inf"], {}, 78, "fleet.budget = inf (from --budget) is wrong"),
        ([], {"EMBEDSTREAM_FLEET__API_URL": "not a url"}, 78, "fleet.api_url not a url is no URL"),
        ([], {"EMBEDSTREAM_FLEET__API_URL": "https://a:99999/v2"}, 78, "is no URL"),
        ([], {"EMBEDSTREAM_FLEET__API_URL": "http://runpod.example.org"}, 78, "sent in plain"),
    ],
)
def test_what_a_person_gets_wrong_is_one_line_and_rents_nothing(
    flags: list[str], env: dict[str, str], code: int, told: str, tmp_path: Path
) -> None:
    api = FakeRunPod()
    with api.serve() as url:
        done = fleet(url, tmp_path, *UP, *flags, **env)
    assert done.returncode == code
    assert told in only_line(done)
    assert api.pods == {}


@pytest.mark.slow
def test_up_status_scale_and_down(tmp_path: Path) -> None:
    api = FakeRunPod(capacity={(RTX_4090, "COMMUNITY"): 1, (RTX_4090, "SECURE"): 0})
    with api.serve(speed=60.0) as url:
        up = [*UP, "--pods", "2", "--budget", "20", "--secret", "kafka.client.sasl.password=kafka_password"]
        up += ["--model", "a-model", "--documents-topic", "texts"]
        done = fleet(url, tmp_path, *up, "--json")
        assert done.returncode == 0
        told = json.loads(done.stdout)
        assert [each["gpu"] for each in told["pods"]] == [RTX_4090, RTX_3090]
        assert told["dollars_per_hour"] == pytest.approx(0.34 + 0.22)
        env = api.running[0].body["env"]
        assert env["EMBEDSTREAM_KAFKA__CLIENT__SASL_PASSWORD"] == "{{ RUNPOD_SECRET_kafka_password }}"
        assert env["EMBEDSTREAM_CONSUMER__INSTANCE_ID"] == "job-0".replace("job", "embedstream")
        assert env["EMBEDSTREAM_KAFKA__BOOTSTRAP_SERVERS"] == "kafka.example.org:9093"
        assert "EMBEDSTREAM_POD__DEADLINE" in env
        # A pod's environment is settings that a pod takes.
        assert run_cli("config", "show", env=env).returncode == 0

        for dry in ([], ["--dry-run"]):
            taken = fleet(url, tmp_path, *up, "--group", "another", *dry)
            assert taken.returncode == 78
            assert "the name 'embedstream' is taken" in only_line(taken)
        less = fleet(url, tmp_path, *up, "--budget", "2")
        assert less.returncode == 78
        assert "were made without --budget 2" in only_line(less)

        other = fleet(url, tmp_path, *up, "--image", "registry.example.org/embedstream:2")
        assert other.returncode == 0
        assert "embedstream-0 goes on with registry.example.org/embedstream:1" in other.stderr

        targets = json.loads(fleet(url, tmp_path, "fleet", "sd", "--once").stdout)
        assert targets[0]["targets"] == [f"{api.running[0].id}-9400.proxy.runpod.net:443"]

        done = fleet(url, tmp_path, "fleet", "scale", "0")
        assert done.returncode == 0
        assert "nothing is left running" in done.stdout
        assert api.running == []
        api.capacity.clear()
        done = fleet(url, tmp_path, "fleet", "scale", "1", "--json")
        assert done.returncode == 0
        (pod,) = api.running
        # Nothing of what `up` was given has to be given again, and the secret still comes from RunPod.
        same = {name: value for name, value in env.items() if "DEADLINE" not in name}
        assert same.items() <= pod.body["env"].items()
        assert json.loads(done.stdout)["dollars"] > 0
        done = fleet(url, tmp_path, "fleet", "down", "--json")
        assert json.loads(done.stdout)["running"] == 0
        assert api.running == []
        status = json.loads(fleet(url, tmp_path, "fleet", "status", "--json").stdout)
        assert status["pods"] == []
        # The service's clock, by which it charges, is up to 60 times as fast as the one that bills are
        # reckoned by; and these begin a little early, with the service. A pod without a bill would make them
        # too small.
        print(f"${status['dollars']} of ${api.dollars}")
        assert api.dollars / 60 <= status["dollars"] < api.dollars / 15


@pytest.mark.slow
def test_an_image_that_does_not_exist_is_one_line_and_leaves_nothing(tmp_path: Path) -> None:
    api = FakeRunPod(fates=["fails at once"] * 100)
    with api.serve(speed=60.0) as url:
        done = fleet(url, tmp_path, *UP, "--pods", "2")
    assert done.returncode == 78
    line = [each for each in done.stderr.splitlines() if not each.startswith("{")][-1]
    assert "see that the image registry.example.org/embedstream:1 exists" in line
    assert api.running == []


@pytest.mark.slow
def test_a_watch_asks_kafka_before_it_rents_and_ends_with_the_job(
    embedded_broker: BrokerHandle, daemons: Daemons, tmp_path: Path
) -> None:
    topics = make_topics(embedded_broker.bootstrap)
    send(topics, documents(20))
    # This machine by another name: pods could not reach it by its own.
    _, _, port = topics.bootstrap.rpartition(":")
    flags = ["--bootstrap-servers", f"0.0.0.0:{port}", "--group", topics.documents]
    plain = {"EMBEDSTREAM_KAFKA__CLIENT__SECURITY_PROTOCOL": "PLAINTEXT"}
    api = FakeRunPod()
    with api.serve(speed=60.0) as url:
        watch = [*UP, "--pods", "2", "--watch", *flags, "--documents-topic"]
        done = fleet(url, tmp_path, *watch, "absent", **plain)
        assert done.returncode == 78
        assert "'absent' does not exist" in done.stderr
        assert api.pods == {}
        with ThreadPoolExecutor(1) as pool:
            running = pool.submit(fleet, url, tmp_path, *watch, topics.documents, **plain)
            wait_until(lambda: len(api.running) == 2 or running.done(), 30.0, "no pods were made")
            assert daemons.start(topics, "--until-drained").wait() == 0
            done = running.result()
        assert done.returncode == 0
        assert "drained after $" in done.stderr
        assert api.running == []
