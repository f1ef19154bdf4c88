"""What kinds of arguments the public functions take: a wrong one is refused with what it is and what was expected."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from numbers import Integral, Real
from typing import Any

from covergraph.errors import ParameterError


@dataclass(frozen=True)
class Kind:
    """Values that pass `test`, in words, and what to do instead."""

    words: str
    test: Callable[[Any], bool]
    remedy: str = ""

    def or_none(self) -> Kind:
        """The same, or None."""
        return Kind(f"{self.words}, or None", lambda value: value is None or self.test(value), self.remedy)


def require(module: str, kinds: Mapping[str, Kind], **values: Any) -> None:
    """Raise `ParameterError` for the first value that is not of its kind."""
    for name, value in values.items():
        kind = kinds[name]
        if not kind.test(value):
            remedy = f"; {kind.remedy}" if kind.remedy else ""
            raise ParameterError(f"{module}: {name} is {shown(value)}, expected {kind.words}{remedy}")


def shown(value: Any) -> str:
    """A short value itself, of others the type."""
    if isinstance(value, type):
        return f"the class {value.__name__}"
    text = repr(value) if isinstance(value, str | int | float | bytes | None) else ""
    return text if 0 < len(text) <= 60 else f"of type {type(value).__name__}"


def made_by(name: str, remedy: str) -> Kind:
    """Instances of a class of covergraph, known by its name, so that nothing has to be imported."""
    return Kind(f"a {name}", lambda value: _is_a(value, name, "covergraph"), remedy)


def _is_a(value: Any, name: str, package: str) -> bool:
    return any(c.__name__ == name and c.__module__.split(".")[0] == package for c in type(value).__mro__)


def _is_real(value: Any) -> bool:
    return isinstance(value, Real) and not isinstance(value, bool)


def _is_state(value: Any) -> bool:
    if isinstance(value, Mapping):
        return all(isinstance(k, str) and _is_a(v, "Tensor", "torch") for k, v in value.items())
    return _is_a(value, "Module", "torch") or _is_a(value, "ExportedProgram", "torch")


NUMBER = Kind("a number", _is_real)
WHOLE = Kind("a whole number", lambda value: isinstance(value, Integral) and not isinstance(value, bool))
FLAG = Kind("True or False", lambda value: isinstance(value, bool))
PATH = Kind("a path", lambda value: isinstance(value, str | os.PathLike))
FUNCTION = Kind("a function", callable)
NAMES = Kind(
    "names of modules", lambda v: isinstance(v, str) or (hasattr(v, "__iter__") and all(isinstance(n, str) for n in v))
)
QUANTILE = Kind(
    "a share of the samples, or 'auto'", lambda value: value == "auto" if isinstance(value, str) else _is_real(value)
)
STATE = Kind(
    "a module, an ExportedProgram, or a state dict (names to tensors)", _is_state,
    "a file has to be loaded first: model.load_state_dict(torch.load(path))",
)
LOSS = Kind(
    "a loss of covergraph", lambda value: _is_a(value, "Loss", "covergraph"),
    "None is the margin loss, whose bound is on the error; covergraph.LipschitzLoss(function, lipschitz) is a loss of "
    "your own with values in [0, 1] (cross entropy has none)",
)
GRAPH = made_by("ComputationGraph", "make it with covergraph.trace(model, example)")
AUGMENTED = made_by("AugmentedGraph", "make it with covergraph.augment(graph)")
BOUND = made_by("Bound", "make it with covergraph.derive(covergraph.augment(graph)), or take analysis.bound")
MEASUREMENTS = made_by("Measurements", "make them with covergraph.measure(bound, model, loader)")
TRAJECTORY = made_by("Trajectory", "record one with covergraph.TrajectoryRecorder, or read one with Trajectory.load")
PARAMETERS = made_by("Parameters", "make them with covergraph.choose(bound, measurements)")

MEASURING: Mapping[str, Kind] = {
    "bound": BOUND,
    "model": STATE,
    "init_model": STATE.or_none(),
    "trust_init": FLAG,
    "fill": FLAG,
    "exact": FLAG,
    "width": NUMBER,
    "failure": NUMBER,
    "seed": WHOLE,
    "memory": WHOLE,
    "budget": NUMBER.or_none(),
    "checkpoint": PATH.or_none(),
    "progress": FLAG.or_none(),
    "batch_to": FUNCTION.or_none(),
}
"""The arguments of `measure`, many of which are those of `analyze`, too."""
ANALYZING: Mapping[str, Kind] = {
    **MEASURING,
    "delta": NUMBER,
    "loss": LOSS.or_none(),
    "condition_quantile": QUANTILE,
}
