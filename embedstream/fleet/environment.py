"""The environment of a fleet's pods: this machine's settings, as variables.

A pod has no file of this machine: certificates go into the variables, and so do secrets, unless they are
taken from those that RunPod keeps (`fleet.secrets`). Whoever may list the account's pods can read a variable.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from embedstream.errors import ConfigError, UsageError
from embedstream.fleet.plan import DEADLINE_VARIABLE, JOB_VARIABLE, METRICS_PORT
from embedstream.kafka_security import broker_addresses
from embedstream.secret_files import ENV_PREFIX, is_secret
from embedstream.service_settings import without_secrets
from embedstream.settings import Loaded, as_variables

__all__ = ["flags_of", "plain_secrets", "pod_environment", "slot_environment"]

# What only the machine that commands the fleet needs.
_OWN = tuple(f"{ENV_PREFIX}{section}__" for section in ("FLEET", "POD", "PRODUCER", "EXPORT"))
_CLIENT = f"{ENV_PREFIX}KAFKA__CLIENT__"
_FILES = ("SSL_CA", "SSL_CERTIFICATE", "SSL_KEY")


def flags_of(loaded: Loaded) -> dict[str, Any]:
    """The settings that were given as flags, by dotted name, but for the fleet's name: none is a secret."""
    values = loaded.settings.model_dump(mode="json")
    names = [name for name, source in loaded.sources.items() if source.startswith("--")]
    parts = {name: name.partition(".") for name in names if name != "fleet.name"}
    return {name: values[section][rest] for name, (section, _, rest) in parts.items()}


def pod_environment(loaded: Loaded) -> dict[str, str]:
    """What all pods of a fleet have in common.

    Raises:
        ConfigError: The brokers are this machine's own, or a certificate can't be read.
        UsageError: An entry of fleet.secrets is not SETTING=NAME.
    """
    settings = loaded.settings
    _check_brokers(settings.kafka.bootstrap_servers)
    variables = {name: value for name, value in as_variables(loaded).items() if not name.startswith(_OWN)}
    for each in _FILES:
        _inline(variables, f"{_CLIENT}{each}_LOCATION", f"{_CLIENT}{each}_PEM")
    for name in variables:
        if name.startswith(_CLIENT) and name.endswith("_LOCATION"):
            raise ConfigError(
                f"{name} names a file of this machine, which pods don't have",
                "use certificates in PEM: ssl.ca.location, ssl.certificate.location and ssl.key.location",
            )
    variables[f"{ENV_PREFIX}KAFKA__BOOTSTRAP_SERVERS"] = settings.kafka.bootstrap_servers
    variables[f"{ENV_PREFIX}CONSUMER__UNTIL_DRAINED"] = "true"
    variables[f"{ENV_PREFIX}POD__KAFKA_SECONDS"] = f"{settings.pod.kafka_seconds:g}"
    # Where RunPod's proxy, service discovery and the image's health check look.
    variables[f"{ENV_PREFIX}METRICS__PORT"] = str(METRICS_PORT)
    if settings.metrics.token is not None:
        variables[f"{ENV_PREFIX}METRICS__HOST"] = "0.0.0.0"  # noqa: S104 - RunPod's proxy, with a token
    for entry in settings.fleet.secrets:
        name, equals, secret = entry.partition("=")
        if not (name and equals and secret.replace("_", "").isalnum()):
            raise UsageError(
                f"--secret {entry!r} is not SETTING=NAME", "as in kafka.client.sasl.password=kafka_password"
            )
        section, _, rest = name.partition(".")
        path = (section, rest) if not rest.startswith("client.") else (section, "client", rest[7:])
        variables[ENV_PREFIX + "__".join(path).upper().replace(".", "_")] = (
            f"{{{{ RUNPOD_SECRET_{secret} }}}}"
        )
    return variables


def slot_environment(
    common: Mapping[str, str], pod_name: str, marker: str, price: float, deadline: str | None
) -> dict[str, str]:
    """What one pod has: its slot's name, the same for whichever pod takes its place, so that it fences it."""
    variables = {
        **common,
        f"{ENV_PREFIX}CONSUMER__INSTANCE_ID": pod_name,
        f"{ENV_PREFIX}COST__PRICE_PER_HOUR": f"{price:g}",
        JOB_VARIABLE: marker,
    }
    if deadline is not None:
        variables[DEADLINE_VARIABLE] = deadline
    return variables


def plain_secrets(variables: Mapping[str, str]) -> list[str]:
    """The variables whose values are secrets that RunPod's API would show."""
    return sorted(
        name
        for name, value in variables.items()
        if (is_secret(name) or is_secret(name.replace("_", ".")) or without_secrets(value) != value)
        and not value.startswith("{{ RUNPOD_SECRET_")
    )


def _check_brokers(servers: str) -> None:
    for server, host, _ in broker_addresses(servers):
        try:
            is_own = ipaddress.ip_address(host).is_loopback
        except ValueError:
            is_own = host == "localhost"
        if is_own:
            raise ConfigError(
                f"kafka.bootstrap_servers {server} is this machine, which pods can't reach",
                "name brokers that are on the internet (--bootstrap-servers)",
            )


def _inline(variables: dict[str, str], location: str, content: str) -> None:
    path = variables.pop(location, None)
    if path is None:
        return
    try:
        variables[content] = Path(path).read_text("ascii")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(
            f"[kafka.client] {path} can't be read ({type(error).__name__})", "name a file in PEM"
        ) from None
