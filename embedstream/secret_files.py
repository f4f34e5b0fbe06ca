"""Which settings are secrets, and those that files hold: `EMBEDSTREAM_..._FILE` names the file."""

from __future__ import annotations

import os
from pathlib import Path

from embedstream.errors import ConfigError

__all__ = ["ENV_PREFIX", "is_secret", "secrets_in_files"]

ENV_PREFIX = "EMBEDSTREAM_"
# Parts of a setting's name, or of a librdkafka property's, that make its value a secret.
_WORDS = (
    *("password", "secret", ".token.", "key.pem", "api_key", "oauthbearer.config", "jaas"),
    # With hosted registries it is one half of a key.
    "schema_registry.username",
)


def is_secret(name: str) -> bool:
    """Whether the value of a setting, or of a librdkafka property, is never shown."""
    lower = name.lower()
    return lower.endswith("token") or any(word in lower for word in _WORDS)


def secrets_in_files() -> dict[str, str]:
    """The content of the file that each `EMBEDSTREAM_..._FILE` names, for settings that are secrets.

    Raises:
        ConfigError: A file can't be read, or the setting is given as well.
    """
    found = {}
    for variable, value in os.environ.items():
        name = variable.upper()
        base = name.removesuffix("_FILE")
        as_property = base.lower().replace("_", ".")
        if base == name or not name.startswith(ENV_PREFIX) or not (is_secret(base) or is_secret(as_property)):
            continue
        if base in os.environ:
            raise ConfigError(f"both {base} and {name} are set", "leave one out")
        try:
            # Editors and `echo` end a file with a newline, which belongs to no secret.
            found[name] = Path(value).read_text("utf-8").rstrip("\r\n")
        except (OSError, UnicodeDecodeError) as error:
            reason = getattr(error, "strerror", None) or "not UTF-8"
            raise ConfigError(
                f"{name} names a file that can't be read ({value}: {reason})", "name another"
            ) from None
    return found
