"""Which servers may be spoken to in plain, and what it means when a broker refuses a client."""

from __future__ import annotations

import ipaddress
import socket
import ssl
import threading
import time
from collections.abc import Iterator, Mapping

from confluent_kafka import KafkaError

from embedstream.errors import ConfigError

__all__ = ["Refusals", "broker_addresses", "is_public", "refuse_plaintext"]

# A refusal that is older says nothing about the call that failed now.
RECENT_SECONDS = 30.0
_LOOK_SECONDS = 5.0
_REFUSALS = (KafkaError._AUTHENTICATION, KafkaError.SASL_AUTHENTICATION_FAILED, KafkaError._SSL)


def refuse_plaintext(servers: str, client: Mapping[str, str], what: str = "kafka.bootstrap_servers") -> None:
    """Sees that what is sent to brokers on the internet is encrypted.

    A name that can't be resolved is let through: nothing is sent to it.

    Args:
        servers: HOST:PORT,...
        client: Properties of the client.
        what: Where they are named.

    Raises:
        ConfigError: A broker has a public address, and the client would speak in plain.
    """
    protocol = client.get("security.protocol", "plaintext").lower()
    if protocol in ("ssl", "sasl_ssl"):
        return
    for server, host, _ in broker_addresses(servers):
        if is_public(host):
            raise ConfigError(
                f"{what} {server} is public, and security.protocol is {protocol}",
                'set "security.protocol" = "SASL_SSL" in [kafka.client], or --allow-plaintext if something'
                " else encrypts the way there",
            )


def broker_addresses(servers: str) -> Iterator[tuple[str, str, int]]:
    """Yields each of `HOST:PORT,...` as it is written, its host without brackets, and its port."""
    for server in map(str.strip, servers.split(",")):
        rest = server.rpartition("://")[2]
        # Without a port it is Kafka's own; an address of IPv6 stands in brackets then.
        host, port = rest, ""
        if ":" in rest.rpartition("]")[2]:
            host, _, port = rest.rpartition(":")
        yield server, host.strip("[]"), int(port) if port.isdigit() else 9092


def is_public(host: str) -> bool:
    """Whether a name or address has an address on the internet; one that can't be resolved has none."""
    return any(address.is_global for address in _addresses(host))


class Refusals:
    """The last time that a broker refused one of this process's clients."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._last: tuple[float, KafkaError] | None = None

    def note(self, error: KafkaError) -> None:
        """Takes an error of a client; keeps it if it is a refusal."""
        if error.code() in _REFUSALS:
            with self._lock:
                self._last = (time.monotonic(), error)

    def explained(self, servers: str, client: Mapping[str, str]) -> ConfigError | None:
        """What a recent refusal means, and the mend; None where there was none.

        Args:
            servers: HOST:PORT,... of the client that failed.
            client: Its properties.
        """
        with self._lock:
            last = self._last
        if last is None or time.monotonic() - last[0] > RECENT_SECONDS:
            return None
        error = last[1]
        if error.code() == KafkaError._SSL:
            return _explain_tls(error, servers, client)
        user = client.get("sasl.username", "")
        return ConfigError(
            f"the broker refuses the user {user!r} with this password (sasl.mechanism"
            f" {client.get('sasl.mechanism', 'none')})",
            "correct sasl.username, sasl.password and sasl.mechanism in [kafka.client]",
        )


def _explain_tls(error: KafkaError, servers: str, client: Mapping[str, str]) -> ConfigError:
    """The client says only that it could not verify; so the certificate is looked at once more."""
    for server, host, port in broker_addresses(servers):
        why = _verify(host, port, client)
        if why is not None:
            mend = "renew the broker's certificate" if "expired" in why else ""
            if "mismatch" in why or "match" in why:
                mend = "use a name or address that the certificate holds (--bootstrap-servers)"
            return ConfigError(
                f"the certificate of {server} is refused ({why})",
                mend or "name the authority that signed it: ssl.ca.location in [kafka.client]",
            )
    return ConfigError(
        f"there is no TLS with the broker ({error.str()})",
        "see that this port speaks TLS, and security.protocol and ssl.* in [kafka.client]",
    )


def _verify(host: str, port: int, client: Mapping[str, str]) -> str | None:
    """Why the certificate there is not to be trusted; None where it is, or nothing can be told."""
    try:
        context = ssl.create_default_context(
            cafile=client.get("ssl.ca.location"), cadata=client.get("ssl.ca.pem")
        )
        with (
            socket.create_connection((host, port), _LOOK_SECONDS) as plain,
            context.wrap_socket(plain, server_hostname=host),
        ):
            return None
    except ssl.SSLCertVerificationError as error:
        return error.verify_message
    except (OSError, ValueError):
        return None


def _addresses(host: str) -> list[ipaddress.IPv4Address | ipaddress.IPv6Address]:
    try:
        found = socket.getaddrinfo(host or "127.0.0.1", None, proto=socket.IPPROTO_TCP)
    except (OSError, UnicodeError):
        return []
    return [ipaddress.ip_address(str(each[4][0]).partition("%")[0]) for each in found]
