"""Operations that no input reaches: constants are computed, what is made of parameters becomes a formula."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from covergraph.graph.precision import NARROW
from covergraph.graph.weights import default_type, operator
from covergraph.tracers.values import Apply, State

REAL = torch.float64


def fold(target: str, arguments: Sequence[Any], keywords: Mapping[str, Any]) -> Any:
    """The result of `target` on constants and state: a tensor (or several) if all are constants, else a `State`.

    Numbers are real numbers here: every floating dtype becomes float64.
    """
    arguments = tuple(widened(a) for a in arguments)
    keywords = {k: widened(v) for k, v in keywords.items() if k not in ("device", "layout", "pin_memory")}
    leaves = pytree.tree_leaves((arguments, keywords))
    if not any(isinstance(leaf, State) for leaf in leaves):
        with torch.no_grad(), default_type(REAL):
            made = operator(target)(*arguments, **keywords)
        # What nobody has written yet could hold NaN; whoever reads it without writing it has no fixed value anyway.
        return torch.zeros_like(made) if "empty" in target.split(".")[1] else made
    source = _unchanged(target, arguments, keywords)
    if source is not None:
        return source
    meta = _meta(target, arguments, keywords)
    known = _known(target, arguments, keywords, meta)
    real = any(leaf.compared or leaf.dtype.is_floating_point for leaf in leaves if isinstance(leaf, State))
    if isinstance(known, Tensor) and known.dtype == torch.bool and not real:
        return known
    term = Apply(target, _frozen(arguments), tuple((k, _frozen(v)) for k, v in keywords.items()))
    if isinstance(meta, Tensor):
        if isinstance(before := _transposed(target, arguments), State) and before.transposed is not None:
            return before.transposed
        return State(term, tuple(meta.shape), meta.dtype, before, known, real and meta.dtype == torch.bool)
    whole = State(term, (), REAL)
    values = [None] * len(meta) if known is None else known
    rows = enumerate(zip(meta, values, strict=True))
    return tuple(State(Apply("getitem", (whole, i)), tuple(m.shape), m.dtype, known=v) for i, (m, v) in rows)


def present(value: Any, compared: bool = True) -> Any:
    """The present value of integers of the state, wherever they stand in an argument.

    With `compared` also of booleans that say how buffers of real numbers compare, such as tril == 0.
    """

    def known(leaf: Any) -> Any:
        if not isinstance(leaf, State) or leaf.known is None or leaf.dtype.is_floating_point:
            return leaf
        return leaf.known if compared or not leaf.compared else leaf

    return pytree.tree_map(known, value)


def real(value: Any) -> Any:
    """Integers of the state as the numbers that they are."""
    if isinstance(value, State) and not (value.dtype.is_floating_point or value.dtype.is_complex):
        return fold("aten._to_copy.default", (value,), {"dtype": REAL})
    return value


def _known(target: str, arguments: Any, keywords: Any, meta: Any) -> Any:
    """The present value of integers made of known integers, of parts of buffers, and of booleans that compare these."""
    inner = [leaf for leaf in pytree.tree_leaves((arguments, keywords)) if isinstance(leaf, State)]
    results = [leaf for leaf in pytree.tree_leaves(meta) if isinstance(leaf, Tensor)]
    if any(leaf.known is None for leaf in inner) or any(r.is_complex() for r in results):
        return None
    from_reals = any(leaf.compared or leaf.dtype.is_floating_point for leaf in inner)
    if from_reals and not (target.split(".")[1] in PARTS or all(r.dtype == torch.bool for r in results)):
        return None
    if any(r.is_floating_point() for r in results) and not all(leaf.dtype.is_floating_point for leaf in inner):
        return None

    def known(leaf: Any) -> Any:
        return leaf.known if isinstance(leaf, State) else leaf

    with torch.no_grad():
        return operator(target)(*pytree.tree_map(known, list(arguments)), **pytree.tree_map(known, dict(keywords)))


PARTS = frozenset((
    *("slice", "select", "view", "reshape", "expand", "unsqueeze", "squeeze", "permute", "transpose", "t", "index"),
    *("narrow", "alias", "clone", "detach", "contiguous", "lift_fresh_copy", "_unsafe_view"),
))
"""Of a buffer whose numbers are only compared."""


UNCHANGED = ("alias", "clone", "detach", "contiguous", "lift_fresh_copy", "_to_copy", "to", "positive")


def _unchanged(target: str, arguments: Sequence[Any], keywords: Mapping[str, Any]) -> State | None:
    """The state that `target` passes on as it is."""
    source = arguments[0] if arguments else None
    if target.split(".")[1] not in UNCHANGED or not isinstance(source, State) or not source.dtype.is_floating_point:
        return None
    dtypes = [leaf for leaf in (*arguments[1:], *keywords.values()) if isinstance(leaf, torch.dtype)]
    return source if all(dtype == REAL for dtype in dtypes) else None


def _meta(target: str, arguments: Sequence[Any], keywords: Mapping[str, Any]) -> Any:
    """The result's shape and dtype, on torch's meta device."""

    def meta(leaf: Any) -> Any:
        if isinstance(leaf, State):
            return torch.empty(leaf.shape, dtype=leaf.dtype, device="meta")
        return leaf.to("meta") if isinstance(leaf, Tensor) and leaf.dim() else leaf

    moved, named = pytree.tree_map(meta, (list(arguments), dict(keywords)))
    with default_type(REAL):
        return operator(target)(*moved, **named)


def _transposed(target: str, arguments: Sequence[Any]) -> State | None:
    """The state that `target` transposes, if it is a transposition of a matrix; twice is not at all."""
    source = arguments[0]
    if not isinstance(source, State) or len(source.shape) != 2:
        return None
    name, rest = target.split(".")[1], [a for a in arguments[1:]]
    swaps = name in ("t", "numpy_T", "mT") or (name == "permute" and [d % 2 for d in rest[0]] == [1, 0])
    swaps = swaps or (name == "transpose" and sorted(int(d) % 2 for d in rest) == [0, 1])
    return source if swaps else None


def widened(value: Any) -> Any:
    """float64 in the place of every narrower floating dtype."""
    if isinstance(value, (list, tuple)):
        return type(value)(widened(item) for item in value)
    if isinstance(value, torch.dtype):
        return REAL if value in NARROW else torch.complex128 if value == torch.complex64 else value
    if isinstance(value, Tensor):
        return value.to(widened(value.dtype))
    return value


def _frozen(value: Any) -> Any:
    """Lists as tuples, so that terms can be compared; constants stay tensors until they get names."""
    return tuple(_frozen(item) for item in value) if isinstance(value, (list, tuple)) else value
