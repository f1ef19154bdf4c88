"""The second way: torch.fx symbolic tracing, which runs forward on proxies and sees no shapes."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, fx, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx.passes.fake_tensor_prop import FakeTensorProp
from torch.utils import _pytree as pytree

from covergraph.tracers.arguments import Arguments
from covergraph.tracers.in_place import read_new_values
from covergraph.tracers.traced import Traced

TRANSPARENT: tuple[type[nn.Module], ...] = (
    *(nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.Flatten, nn.Unflatten, nn.Identity),
    *(nn.Tanh, nn.Sigmoid, nn.Softplus, nn.GELU, nn.SiLU, nn.ELU, nn.Mish),
    *(nn.AvgPool1d, nn.AvgPool2d, nn.AvgPool3d),
    *(nn.AdaptiveAvgPool1d, nn.AdaptiveAvgPool2d, nn.AdaptiveAvgPool3d),
    *(nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d, nn.AlphaDropout),
)


class _Tracer(fx.Tracer):
    """Looks into the layers whose forward is one plain call, so that both ways yield the same calls."""

    def __init__(self, transparent: Sequence[type[nn.Module]]) -> None:
        super().__init__()
        self.transparent = tuple(transparent)

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return not isinstance(m, self.transparent) and super().is_leaf_module(m, module_qualified_name)


def trace_by_fx(model: nn.Module, arguments: Arguments) -> Traced:
    """Trace symbolically, then propagate fake tensors for the shapes; the batch size is the example's."""
    tensors = arguments.tensors
    given = dict(zip(arguments.paths, arguments.leaves, strict=True))
    constants = {
        name: given.get(name, parameter.default)
        for name, parameter in arguments.signature.parameters.items()
        if name not in tensors
    }
    if any(isinstance(leaf, Tensor) for leaf in pytree.tree_leaves(constants)) or "." in "".join(tensors):
        raise ValueError("tensors inside containers are not followed by torch.fx")
    graph = _Tracer(TRANSPARENT).trace(model, concrete_args=constants or None)
    read_new_values(graph)
    _drop_constants(graph, tensors)
    mode = FakeTensorMode(allow_non_fake_inputs=True)
    fake = [mode.from_tensor(tensor, static_shapes=True) for tensor in tensors.values()]
    FakeTensorProp(fx.GraphModule(model, graph), mode).propagate_dont_convert_inputs(*fake)
    return _read(graph, model, arguments)


def _drop_constants(graph: fx.Graph, tensors: dict[str, Tensor]) -> None:
    """Remove the placeholders of arguments that are no tensors, and torch's assertions about them."""
    for node in reversed(list(graph.nodes)):
        constant = node.op == "placeholder" and node.target not in tensors
        if not node.users and (constant or node.op not in ("placeholder", "output")):
            graph.erase_node(node)


def _read(graph: fx.Graph, model: nn.Module, arguments: Arguments) -> Traced:
    return Traced(
        way="fx",
        module=model,
        graph=graph,
        inputs={node.name: str(node.target) for node in graph.nodes if node.op == "placeholder"},
        state={node.name: str(node.target) for node in graph.nodes if node.op == "get_attr"},
        batch=arguments.batch,
    )
