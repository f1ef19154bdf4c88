"""The example's arguments: which tensors they hold, under which names, and at which batch size."""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from covergraph.errors import TracingError
from covergraph.graph.binding import dotted


@dataclass(frozen=True)
class Arguments:
    """Arguments of forward as a flat list of leaves with dotted paths; tensors have the batch in dim 0."""

    signature: inspect.Signature
    spec: pytree.TreeSpec
    paths: tuple[str, ...]
    leaves: tuple[Any, ...]

    @staticmethod
    def of(model: nn.Module, example_inputs: Any, kwargs: Mapping[str, Any] | None = None) -> Arguments:
        """Bind a tensor or a tuple, and keyword arguments, to forward's names, in forward's order.

        Raises `TracingError` if they do not fit, or if the tensors do not share one non-empty batch.
        """
        args = tuple(example_inputs) if isinstance(example_inputs, (tuple, list)) else (example_inputs,)
        signature = inspect.signature(model.forward)
        try:
            bound = signature.bind(*args, **(kwargs or {}))
        except TypeError as error:
            raise TracingError(
                f"{type(model).__name__}: the example does not fit forward{signature}: {error}; pass a "
                "tensor, or a tuple of the positional arguments, and kwargs={...} for the others"
            ) from None
        found, spec = pytree.tree_flatten_with_path(dict(bound.arguments))
        arguments = Arguments(
            signature, spec, tuple(dotted(path) for path, _ in found), tuple(leaf for _, leaf in found)
        )
        arguments.verify()
        return arguments

    @property
    def tensors(self) -> dict[str, Tensor]:
        """The tensors by path, in order."""
        return {p: leaf for p, leaf in zip(self.paths, self.leaves, strict=True) if isinstance(leaf, Tensor)}

    @property
    def batch(self) -> int:
        """The batch size of the example."""
        return next(iter(self.tensors.values())).shape[0]

    def verify(self) -> None:
        """Raise `TracingError` unless all tensors have one non-empty batch in dim 0."""
        sizes = {path: tuple(tensor.shape) for path, tensor in self.tensors.items()}
        batches = {shape[0] if shape else None for shape in sizes.values()}
        if len(batches) != 1 or batches <= {None, 0}:
            raise TracingError(
                f"the example's tensors have shapes {sizes}, expected at least one tensor and dim 0 of all "
                "of them the same batch; add or repeat the batch dimension"
            )

    def with_tensors(self, tensors: Iterable[Tensor]) -> Arguments:
        """The same arguments with other tensors, in order."""
        rest = iter(tensors)
        leaves = tuple(next(rest) if isinstance(leaf, Tensor) else leaf for leaf in self.leaves)
        return Arguments(self.signature, self.spec, self.paths, leaves)

    def only_tensors(self) -> Arguments:
        """The tensors alone, as positional arguments of nothing in particular."""
        spec = pytree.tree_structure(list(self.tensors.values()))
        return Arguments(self.signature, spec, tuple(self.tensors), tuple(self.tensors.values()))

    def at(self, batch: int) -> Arguments:
        """The example with its samples repeated, or cut, to `batch`; always new memory."""
        rows = torch.arange(batch) % self.batch
        return self.with_tensors(t.detach()[rows.to(t.device)] for t in self.tensors.values())

    def call(self) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Positional and keyword arguments."""
        bound = inspect.BoundArguments(self.signature, pytree.tree_unflatten(list(self.leaves), self.spec))
        return bound.args, bound.kwargs

