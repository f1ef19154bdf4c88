"""What the names of a graph's parameters stand for: entries of the model's state, formulas on them, constants.

An *effective* parameter is computed from the state by a straight-line program of torch operations: the scale
gamma / sqrt(var + eps) of a BatchNorm in eval mode, the weight g v / ||v|| of a weight-normed layer, W transposed.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import torch
from torch import Tensor


@dataclass(frozen=True)
class Source:
    """An entry of the model's state, or a constant of the graph, by name."""

    name: str


@dataclass(frozen=True)
class Result:
    """The value of an earlier instruction, by position."""

    position: int


Apply: TypeAlias = Callable[[str, list[Any], dict[str, Any]], Any]
"""The result of an operation, by its full name, from arguments and keywords."""


@dataclass(frozen=True)
class Instruction:
    """One torch operation by its full name (aten.mul.Tensor), with `Source` and `Result` among its arguments."""

    target: str
    arguments: tuple[Any, ...]
    keywords: tuple[tuple[str, Any], ...] = ()


@dataclass(frozen=True)
class Program:
    """Instructions in order; the last one's value is the program's."""

    instructions: tuple[Instruction, ...]

    @property
    def sources(self) -> tuple[str, ...]:
        """Names that the program reads, in order of first use."""
        read = (leaf for i in self.instructions for leaf in _leaves((i.arguments, i.keywords)))
        return tuple(dict.fromkeys(leaf.name for leaf in read if isinstance(leaf, Source)))

    def text(self) -> str:
        """The program as one expression: mul(rsqrt(add(bn1.running_var, 1e-05)), bn1.weight)."""
        texts: list[str] = []

        def written(value: Any) -> str:
            if isinstance(value, Source):
                return value.name
            if isinstance(value, Result):
                return texts[value.position]
            return f"[{', '.join(map(written, value))}]" if isinstance(value, tuple) else str(value)

        for step in self.instructions:
            named = [f"{name}={written(value)}" for name, value in step.keywords]
            name = step.target.removeprefix("aten.").split(".")[0]
            texts.append(f"{name}({', '.join([*map(written, step.arguments), *named])})")
        return texts[-1]

    def run(self, state: Mapping[str, Any], apply: Apply | None = None, real: torch.dtype | None = None) -> Any:
        """The value, computed from the tensors of `state`; float64 in a program means the type of the state.

        `apply` answers for torch's operations, by full name, if the entries of `state` are no plain tensors; `real`
        is then the type of the state.
        """
        results: list[Any] = []
        apply = apply or _torch
        real = real or next((v.dtype for v in state.values() if v.is_floating_point()), torch.float64)

        def value(leaf: Any) -> Any:
            if isinstance(leaf, Source):
                return state[leaf.name]
            if isinstance(leaf, Result):
                return results[leaf.position]
            return fitting(leaf, real)

        with default_type(real):  # of what is made of numbers alone
            for step in self.instructions:
                arguments = substitute(step.arguments, value)
                results.append(apply(step.target, arguments, {k: substitute(v, value) for k, v in step.keywords}))
        return results[-1]


@dataclass(frozen=True, eq=False)
class Weights:
    """Beside the model's state: effective parameters, constants, and which entries share storage.

    `ties` maps a dotted name to the name that stands for its storage, where that is another one. `shapes` holds the
    shape of every parameter that nodes name, as far as known. `held` names the tensors that the model holds and the
    graph has as constants, whatever it does with them; `factors`, those of them, and of others that forward makes, that
    its arithmetic reads; `numbers`, the plain numbers of modules that it reads.
    """

    effective: Mapping[str, Program] = field(default_factory=dict)
    constants: Mapping[str, Tensor] = field(default_factory=dict)
    ties: Mapping[str, str] = field(default_factory=dict)
    shapes: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    held: tuple[str, ...] = ()
    factors: tuple[str, ...] = ()
    numbers: tuple[str, ...] = ()

    def complete(self, state: Mapping[str, Tensor], names: Iterable[str]) -> dict[str, Tensor]:
        """`state` with the constants, in its dtype and on its device, and with the effective parameters of `names`.

        What a program needs and the state lacks stays out; who asks for it gets the error of `Context.parameter`.
        """
        like = next((value for value in state.values() if value.is_floating_point()), None)
        full = dict(state) | {name: _cast(value, like) for name, value in self.constants.items()}
        for name in names:
            program = self.effective.get(name)
            if program is not None and name not in full and all(source in full for source in program.sources):
                full[name] = program.run(full)
        return full

    def read(self, name: str) -> tuple[str, ...]:
        """The entries of the model's state that `name` is made of."""
        program = self.effective.get(name)
        return (name,) if program is None else tuple(s for s in program.sources if s not in self.constants)

    def sources(self, name: str) -> tuple[str, ...]:
        """`read`, with one name for entries that share storage."""
        return tuple(dict.fromkeys(self.ties.get(source, source) for source in self.read(name)))

    def digest(self) -> bytes:
        """A digest of programs, constants and ties."""
        digest = hashlib.sha256(repr(sorted((k, repr(v)) for k, v in self.effective.items())).encode())
        digest.update(repr(sorted(self.ties.items())).encode())
        for name, value in sorted(self.constants.items()):
            digest.update(f"{name}{value.dtype}{tuple(value.shape)}".encode())
            plain = value.detach().cpu().resolve_conj().resolve_neg().contiguous()
            digest.update(plain.reshape(-1).view(torch.uint8).numpy().tobytes())
        return digest.digest()

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Weights):
            return NotImplemented
        return self is other or self.digest() == other.digest()

    def __hash__(self) -> int:
        return hash(self.digest())

    def __bool__(self) -> bool:
        return bool(self.effective or self.constants or self.ties)


def _cast(value: Tensor, like: Tensor | None) -> Tensor:
    if like is None:
        return value
    if value.is_complex():
        return value.to(like.device, like.dtype.to_complex())
    return value.to(like.device, like.dtype if value.is_floating_point() else value.dtype)


VIEWS = {"aten.view.default": "aten.reshape.default", "aten._unsafe_view.default": "aten.reshape.default"}
"""A trace knows the strides that a tensor had in the model; here it may have others."""


def operator(target: str) -> Any:
    """The torch operation of a full name: aten.mul.Tensor, or getitem."""
    if target == "getitem":
        return lambda values, index: values[index]
    found: Any = torch.ops
    target = VIEWS.get(target, target)
    for part in target.split("."):
        found = getattr(found, part)
    return found


def _torch(target: str, arguments: list[Any], keywords: dict[str, Any]) -> Any:
    return operator(target)(*arguments, **keywords)


@contextmanager
def default_type(real: torch.dtype) -> Iterator[None]:
    """Inside, tensors that are made of Python numbers have this type."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(real)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


def fitting(leaf: Any, real: torch.dtype) -> Any:
    """What a trace in float64 says, in the type `real`: the type itself, and its own largest number."""
    if leaf is torch.float64:
        return real
    if isinstance(leaf, float) and math.isfinite(leaf):
        largest = torch.finfo(real).max
        return min(max(leaf, -largest), largest)
    return leaf


def substitute(value: Any, replace: Callable[[Any], Any]) -> Any:
    """`value` with every leaf of its tuples replaced; tuples become lists, as torch's operations take them."""
    if isinstance(value, tuple):
        return [substitute(item, replace) for item in value]
    return replace(value)


def _leaves(value: Any) -> Iterable[Any]:
    if isinstance(value, tuple):
        for item in value:
            yield from _leaves(item)
    else:
        yield value
