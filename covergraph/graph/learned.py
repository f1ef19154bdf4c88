"""Which part of an effective parameter does training choose? Found by dependency, not by size (Lemma 11).

Every value of a program is written as F + L: F is made of constants, and L depends on the model's state, if at all.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from covergraph.graph.weights import Program, Weights, operator


@dataclass(frozen=True)
class Split:
    """A value F + L: `fixed` is the same for all states; where `depends` is 0, so is `learned`, always."""

    fixed: Tensor
    learned: Tensor
    depends: Tensor

    @staticmethod
    def of(value: Any) -> Split:
        """A value that depends on the state in every entry; of a constant, one that depends on it nowhere."""
        if isinstance(value, Split):
            return value
        value = value if isinstance(value, Tensor) else torch.tensor(value, dtype=torch.float64)
        nothing = torch.zeros_like(value)
        return Split(value, nothing, nothing)

    @property
    def whole(self) -> Tensor:
        """The value."""
        return self.fixed + self.learned

    @property
    def counted(self) -> Tensor:
        """The value without entries that no state changes, and without the constants of a mask."""
        return torch.where(self.depends == 0, 0.0, torch.where(self.fixed < MASK, self.learned, self.whole))

    def settled(self) -> Split:
        """Nothing finite changes an infinite entry: there nothing is learned."""
        learned, depends = (torch.where(torch.isinf(self.fixed), 0.0, part) for part in (self.learned, self.depends))
        return Split(self.fixed, learned, depends)


MASK = -1e30
"""A constant below is a mask, which hides what is added to it."""


def split(weights: Weights, name: str, state: Mapping[str, Tensor]) -> Split:
    """The parameter `name` as F + L; differences of L, for two states, are those of the parameter.

    `state` is what `ComputationGraph.state` gives.
    """
    program = weights.effective.get(name)
    if program is None or not all(source in state for source in program.sources):
        return _dependent(state[name])
    return _split(program, state, weights)


def _split(program: Program, state: Mapping[str, Tensor], weights: Weights) -> Split:
    given = {s: state[s] if s in weights.constants else _dependent(state[s]) for s in program.sources}
    real = next((v.dtype for v in state.values() if v.is_floating_point()), torch.float64)
    return Split.of(program.run(given, _apply, real))


def _dependent(value: Tensor) -> Split:
    return Split(torch.zeros_like(value), value, torch.ones_like(value))


def _apply(target: str, arguments: list[Any], keywords: dict[str, Any]) -> Any:
    """One operation; without a rule, every entry of its result depends on the state if any argument does."""
    name = target.removeprefix("aten.").split(".")[0]
    rule = RULES.get(name, _opaque)
    if not any(isinstance(leaf, Split) for leaf in _leaves([arguments, *keywords.values()])):
        return operator(target)(*arguments, **keywords)
    return rule(operator(target), arguments, keywords)


PARTS = ("fixed", "learned", "depends")
"""Linear operations act on each of them."""
Rule = Callable[[Callable[..., Any], list[Any], dict[str, Any]], Any]


def _opaque(function: Callable[..., Any], arguments: list[Any], keywords: dict[str, Any]) -> Any:
    return _each(function(*_wholes(arguments), **{k: _wholes(v) for k, v in keywords.items()}), _dependent)


def _moved(function: Callable[..., Any], arguments: list[Any], keywords: dict[str, Any]) -> Any:
    """A linear map of the first argument that moves entries, or makes some 0; the other arguments are constants."""
    first, *rest = arguments
    if not isinstance(first, Split) or any(isinstance(leaf, Split) for leaf in _leaves([rest, *keywords.values()])):
        return _opaque(function, arguments, keywords)
    fixed, learned, depends = (function(getattr(first, part), *rest, **keywords) for part in PARTS)
    if isinstance(fixed, (tuple, list)):
        return [Split(*parts) for parts in zip(fixed, learned, depends, strict=True)]
    if str(function) == "aten.view.dtype" or (_real(first.learned) and not _real(learned)):
        return _opaque(function, arguments, keywords)  # other bits, or cut off
    return Split(fixed, learned, depends)


def _real(value: Tensor) -> bool:
    return value.is_floating_point() or value.is_complex()


def _item(function: Callable[..., Any], arguments: list[Any], keywords: dict[str, Any]) -> Any:
    values, index = arguments
    return values[index] if isinstance(values, (list, tuple)) else _moved(function, arguments, keywords)


def _joined(function: Callable[..., Any], arguments: list[Any], keywords: dict[str, Any]) -> Split:
    """Values side by side."""
    first, *rest = arguments
    parts = [Split.of(value) for value in first]
    return Split(*(function([getattr(p, which) for p in parts], *rest, **keywords) for which in PARTS))


def _added(function: Callable[..., Any], arguments: list[Any], keywords: dict[str, Any]) -> Split:
    """Sums and differences; alpha scales the second argument."""
    first, second, *rest = arguments
    x, y = Split.of(first), Split.of(second)
    if not isinstance(second, (Split, Tensor)):
        return Split(function(x.fixed, second, *rest, **keywords), x.learned, x.depends)
    fixed, learned = (function(getattr(x, part), getattr(y, part), *rest, **keywords) for part in PARTS[:2])
    return Split(fixed, learned, x.depends.abs() + y.depends.abs()).settled()


def _scaled(function: Callable[..., Any], arguments: list[Any], keywords: dict[str, Any]) -> Any:
    """A product with constants, or a quotient by them; where a factor is 0, nothing is learned."""
    x, y = arguments[:2]
    if isinstance(x, Split) and isinstance(y, Split):
        return _opaque(function, arguments, keywords)
    factor = y if isinstance(x, Split) else x
    if len(arguments) > 2 or not bool(torch.isfinite(torch.as_tensor(factor)).all()):
        return _opaque(function, arguments, keywords)
    if isinstance(y, Split) and "div" in str(function):
        return _opaque(function, arguments, keywords)
    parts = (function(*(getattr(v, p) if isinstance(v, Split) else v for v in (x, y)), **keywords) for p in PARTS)
    return Split(*parts).settled()


def _selected(function: Callable[..., Any], arguments: list[Any], keywords: dict[str, Any]) -> Any:
    """torch.where by a constant mask."""
    mask, *values = arguments
    if isinstance(mask, Split) or len(values) != 2:
        return _opaque(function, arguments, keywords)
    x, y = (Split.of(value) for value in values)
    return Split(*(torch.where(mask, getattr(x, part), getattr(y, part)) for part in PARTS))


def _filled(function: Callable[..., Any], arguments: list[Any], keywords: dict[str, Any]) -> Any:
    """masked_fill by a constant mask."""
    if len(arguments) != 3 or keywords:
        return _opaque(function, arguments, keywords)
    value, mask, fill = arguments
    return _selected(function, [mask, fill, value], keywords)


MOVES = (
    *("view", "reshape", "_unsafe_view", "permute", "transpose", "t", "numpy_T", "mT", "expand", "slice", "select"),
    *("unsqueeze", "squeeze", "flip", "repeat", "roll", "tile", "clone", "alias", "contiguous", "detach", "_to_copy"),
    *("index", "index_select", "gather", "narrow", "unbind", "split", "split_with_sizes", "chunk", "diagonal"),
    *("tril", "triu", "neg", "movedim", "flatten", "unflatten", "lift_fresh_copy"),
)
RULES: Mapping[str, Rule] = {
    **dict.fromkeys(MOVES, _moved),
    **dict.fromkeys(("cat", "stack"), _joined),
    **dict.fromkeys(("add", "sub"), _added),
    **dict.fromkeys(("mul", "div"), _scaled),
    **{"getitem": _item, "where": _selected, "masked_fill": _filled},
}


def _leaves(value: Any) -> list[Any]:
    return [leaf for item in value for leaf in _leaves(item)] if isinstance(value, (list, tuple)) else [value]


def _each(value: Any, function: Callable[[Tensor], Split]) -> Any:
    return [_each(item, function) for item in value] if isinstance(value, (list, tuple)) else function(value)


def _wholes(value: Any) -> Any:
    """The plain values."""
    if isinstance(value, (list, tuple)):
        return [_wholes(item) for item in value]
    return value.whole if isinstance(value, Split) else value
