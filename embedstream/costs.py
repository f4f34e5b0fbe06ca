"""Hours and dollars, from tokens, a GPU and a price. Pure arithmetic over three small dated files.

speed = speed_of("RTX 4090", shape, length=400, speeds=load_speeds())
hours = tokens / speed.likely / 3600
"""

from __future__ import annotations

import difflib
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

from embedstream.errors import ConfigError, UsageError

__all__ = ["MODELLED_SHARE", "ModelShape", "Speed", "explained", "gpu_named", "gpu_peaks", "load", "speed_of"]

MODELLED_SHARE = (0.15, 0.35, 0.60)
"""The share of a GPU's peak that an encoder gets: low, likely, high.

Measured elsewhere: sentence-transformers in FP16 on an L4 11%, Text Embeddings Inference and Infinity there
33 and 31%, all for bge-large at 449 tokens; NVIDIA's TensorRT BERT-large on an A100 62 to 63%.
"""

# Another machine of the same kind, clocks, drivers, a colder or warmer room.
_MEASURED_SPREAD = 0.1
# A speed of another model or length, carried over by its share of the peak.
_SCALED_SPREAD = 0.3


@dataclass(frozen=True, slots=True)
class ModelShape:
    """What decides how long a BERT-like model takes.

    Attributes:
        name: Of the model.
        family: `model_type` of its configuration.
        layers: How many.
        hidden: Width.
        intermediate: Width of the feed-forward part.
        window: Tokens of a passage at most.
        dim: Length of a vector.
    """

    name: str
    family: str
    layers: int
    hidden: int
    intermediate: int
    window: int
    dim: int

    @property
    def architecture(self) -> str:
        """The name of the architecture, as the file of speeds has it."""
        return f"{self.family}-{self.layers}x{self.hidden}x{self.intermediate}"

    def flop_per_token(self, length: float) -> float:
        """Floating-point operations for a token of a passage of `length` tokens.

        Twice the parameters of the layers, and the attention between all tokens of the passage.
        """
        parameters = self.layers * (4 * self.hidden**2 + 2 * self.hidden * self.intermediate)
        return 2 * parameters + 4 * self.layers * length * self.hidden


@dataclass(frozen=True, slots=True)
class Speed:
    """How fast a GPU runs a model.

    Attributes:
        low: Tokens a second, special ones included, if it goes badly.
        likely: If it goes as expected.
        high: If it goes well.
        measured: Whether this GPU was measured with this architecture.
        basis: What it rests on, in a sentence.
    """

    low: float
    likely: float
    high: float
    measured: bool
    basis: str


def load(name: str, path: Path | None = None) -> dict[str, Any]:
    """Read `gpus`, `prices` or `speeds`: the file that is shipped, or another of the same form.

    Raises:
        ConfigError: It can't be read, or is no JSON object.
    """
    where = str(path or f"{name}.json")
    try:
        text = (path or resources.files("embedstream") / f"{name}.json").read_text(encoding="utf-8")
        found = json.loads(text)
    except OSError as error:
        raise ConfigError(f"--{name} {where} can't be read ({error.strerror})", "name a file") from None
    except ValueError as error:
        raise ConfigError(f"--{name} {where} is not JSON ({error})", "correct it") from None
    if not isinstance(found, dict):
        raise ConfigError(f"--{name} {where} is no JSON object", "take the shipped file as a pattern")
    return found


@contextmanager
def explained(name: str) -> Iterator[None]:
    """Say of `prices` or `speeds` that an entry lacks what the block looks for.

    Raises:
        ConfigError: It does.
    """
    try:
        yield
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        told = f"the file of {name} (--{name}) has a wrong entry ({error!r})"
        raise ConfigError(told, f"correct it: embedstream/{name}.json shows the form") from None


def gpu_peaks() -> dict[str, float]:
    """The GPUs that are known, with their dense FP16 tensor peak in TFLOP/s."""
    return {name: float(peak) for name, peak in load("gpus")["gpus"].items()}


def gpu_named(asked: str, known: Mapping[str, float]) -> str:
    """Return a GPU's name as the list has it, in whatever case it is asked for, with or without its maker's.

    Raises:
        UsageError: It is not in the list; the nearest ones are suggested.
    """
    names = {_key(name): name for name in known}
    found = names.get(_key(asked))
    if found is not None:
        return found
    near = difflib.get_close_matches(_key(asked), names, n=3, cutoff=0.4)
    suggested = " or ".join(repr(names[each]) for each in near) or ", ".join(names.values())
    raise UsageError(f"--gpu {asked!r} is unknown", f"did you mean {suggested}?")


def speed_of(gpu: str, shape: ModelShape, length: float, speeds: Mapping[str, Any]) -> Speed:
    """Return how fast a GPU runs a model over passages of a length: measured, carried over, or modelled.

    Args:
        gpu: As `gpu_named` returns it.
        shape: Of the model.
        length: Tokens of the mean passage.
        speeds: The file of measured speeds.

    Raises:
        ConfigError: An entry of the file lacks what it must have.
    """
    with explained("speeds"):
        own = [each for each in speeds.get("speeds", ()) if _key(each["gpu"]) == _key(gpu)]
        same = [each for each in own if each["architecture"] == shape.architecture and each["measured"]]
        if same:
            return _measured(same[-1], shape, length)
        other = [each for each in own if each["measured"]]
        if other:
            return _carried_over(other[-1], shape, length)
    peak = gpu_peaks()[gpu] * 1e12 / shape.flop_per_token(length)
    low, likely, high = MODELLED_SHARE
    basis = (
        f"modelled, not measured: {low:.0%} to {high:.0%}, likely {likely:.0%},"
        f" of {gpu_peaks()[gpu]:g} TFLOP/s at {shape.flop_per_token(length) / 1e9:.3f} GFLOP a token"
    )
    return Speed(low * peak, likely * peak, high * peak, measured=False, basis=basis)


def _measured(entry: Mapping[str, Any], shape: ModelShape, length: float) -> Speed:
    at, speed = _nearest(entry, length)
    likely = speed * shape.flop_per_token(at) / shape.flop_per_token(length)
    basis = f"measured at {at:g} tokens ({entry['source']}, {entry['date']})"
    spread = _MEASURED_SPREAD
    return Speed(likely * (1 - spread), likely, likely * (1 + spread), measured=True, basis=basis)


def _carried_over(entry: Mapping[str, Any], shape: ModelShape, length: float) -> Speed:
    at, speed = _nearest(entry, length)
    family, _, sizes = str(entry["architecture"]).rpartition("-")
    layers, hidden, intermediate = map(int, sizes.split("x"))
    other = ModelShape(entry["architecture"], family, layers, hidden, intermediate, 0, 0)
    likely = speed * other.flop_per_token(at) / shape.flop_per_token(length)
    basis = (
        f"modelled, from {entry['architecture']} measured at {at:g} tokens ({entry['date']}), by FLOP a token"
    )
    spread = _SCALED_SPREAD
    return Speed(likely * (1 - spread), likely, likely * (1 + spread), measured=False, basis=basis)


def _nearest(entry: Mapping[str, Any], length: float) -> tuple[float, float]:
    measured = {float(at): float(speed) for at, speed in entry["tokens_per_second"].items()}
    at = min(measured, key=lambda each: abs(each - length))
    return at, measured[at]


def _key(name: str) -> str:
    """A GPU's name without what people and drivers add to it."""
    words = name.lower().replace("-", " ").split()
    return "".join(word for word in words if word not in {"nvidia", "geforce", "tesla"}).replace(
        "80gbhbm3", ""
    )
