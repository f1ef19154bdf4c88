"""Which layer is watched? The first one with parameters on the traced graph, or the one that the user names."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
from torch import nn
from torch.nn.modules.linear import NonDynamicallyQuantizableLinear

from covergraph.errors import TrajectoryError
from covergraph.graph import operations as op
from covergraph.graph.computation_graph import ComputationGraph
from covergraph.graph.node import Node
from covergraph.graph.rearrange import Shape, most_copies
from covergraph.trajectory.trajectory import Kind

Convolutions = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
Module = nn.Linear | nn.Conv1d | nn.Conv2d | nn.Conv3d
_RESHAPES = ("aten.reshape.default", "aten.view.default", "aten._unsafe_view.default")


@dataclass(frozen=True)
class Watched:
    """The layer z = W h + B b before anything has run.

    `node` is h -> W h alone, with the weight called "weight" and its slot "h" (None: W = I, or no layer). `module` is
    the one whose first argument is h up to the order of entries (None: h is not seen). `slot` and `shape` are those of
    h and z for one sample, once they are known. `isometric`: h is the model's input up to the order of entries, and
    nothing else reads it. `place`: the node on the model's graph. `ordered`: that first argument has the order of h.
    """

    name: str
    kind: Kind
    bias: str
    weight: str | None = None
    node: Node | None = None
    module: nn.Module | None = None
    slot: Shape | None = None
    shape: Shape | None = None
    isometric: bool | None = None
    place: str = ""
    ordered: bool = True

    @property
    def channels(self) -> int:
        """Entries of z at one position; each weight of a layer enters z once at each position."""
        shape = self.shape or (1,)
        return {"linear": shape[-1], "convolution": shape[0]}.get(self.kind, math.prod(shape))

    def completed(self, slot: Shape) -> Watched:
        """The layer with the shapes for an input of this shape, where it takes several or they were not known."""
        if self.node is None or (self.shape is not None and not isinstance(self.module, nn.Linear)):
            return self
        shape = (*slot[:-1], *self.node.shape[-1:])
        operation = self.node.operation
        if isinstance(operation, op.Convolution):
            axes = zip(slot[1:], operation.kernel, operation.stride, operation.padding, operation.dilation, strict=True)
            sides = ((n + 2 * p - d * (k - 1) - 1) // s + 1 for n, k, s, p, d in axes)
            shape = (self.node.shape[0], *sides)
        return replace(self, slot=slot, shape=shape, node=replace(self.node, shape=shape))


def first_layer(graph: ComputationGraph, model: nn.Module) -> Watched:
    """The first node with parameters that reads the input; raises `TrajectoryError` unless it has a bias."""
    for node in graph.nodes:
        if node.learned and node.inputs:
            return at_node(graph, node, model)
    raise TrajectoryError(
        f"trajectory: no node of the {type(model).__name__} has parameters and reads its input, expected a first "
        "layer; "
        + _name_one(model)
    )


def named_layer(name: str, model: nn.Module, graph: ComputationGraph | None = None) -> Watched:
    """A module with weight and bias, or a parameter, by its dotted name; a parameter that is no bias is "parameter".

    Raises `TrajectoryError` if there is no such name, or if the module is no linear layer or convolution with a bias.
    """
    modules = dict(model.named_modules())
    if name in modules and name:
        return _of_module(name, modules[name], model, graph)
    require_known(name, model)
    path, _, leaf = name.rpartition(".")
    try:
        if leaf == "bias" and isinstance(modules[path], (nn.Linear, *Convolutions)):
            return _of_module(path, modules[path], model, graph)
        if graph is not None:
            node = next((n for n in graph.nodes if n.inputs and name == _bias_of(graph, n)), None)
            if node is not None:
                return at_node(graph, _before(graph, node), model)
    except TrajectoryError:
        pass  # it is watched as a parameter, of which no theorem speaks
    return Watched(name, "parameter", name)


def require_known(name: str, model: nn.Module) -> None:
    """Raise `TrajectoryError` unless the model has a module or a parameter of this name."""
    if name not in _parameters(model) and name not in (path for path, _ in model.named_modules() if path):
        raise TrajectoryError(f"trajectory: the model has no module and no parameter {name!r}; " + _name_one(model))


def at_node(graph: ComputationGraph, node: Node, model: nn.Module) -> Watched:
    """The layer that a node is, with the shift that follows it if it has no bias of its own."""
    where = f"node {node.name!r} ({node.origin or 'top level'})"
    kind = _kind(node, where, model)
    own = {"bias", "shift"} & set(node.parameter)
    last = node if own else _following_shift(graph, node)
    bias = None if last is None else _bias_of(graph, last)
    role = {"identity": None, "scale": "scale"}.get(kind, "weight")
    weight = None if role is None else _own_name(graph, node, role)
    if last is None or bias not in _parameters(model) or (role is not None and weight not in _parameters(model)):
        raise TrajectoryError(
            f"trajectory: {where}, {node.text()!r}, is the first with parameters and has no bias or weight that is an "
            "entry of the model (what is made of others is none), expected z = W h + b with W and b learned; "
            + _name_one(model)
        )
    assert bias is not None
    slot, isometric = graph[node.inputs[0]].shape, _is_isometric(graph, node)
    module, place = _input_module(model, weight or bias, isometric, where)
    path = place or (weight or bias).rpartition(".")[0] or node.name
    map_ = None if weight is None else _map_node(node)
    ordered = module is not model or _is_ordered(graph, node)
    return Watched(path, kind, bias, weight, map_, module, slot, last.shape, isometric, node.name, ordered)


def _kind(node: Node, where: str, model: nn.Module) -> Kind:
    match node.operation:
        case op.Linear():
            return "linear"
        case op.Convolution():
            return "convolution"
        case op.Affine(scale=False, shift=True):
            return "identity"
        case op.Affine(scale=True, select=False):
            return "scale"
    raise TrajectoryError(
        f"trajectory: {where} is {node.operation.label!r}, the first operation with parameters, expected a linear "
        "layer, "
        "a convolution or an added bias; " + _name_one(model)
    )


def _following_shift(graph: ComputationGraph, node: Node) -> Node | None:
    """The learned shift that alone reads the node."""
    readers = [other for other in graph.nodes if node.name in other.inputs]
    if len(readers) != 1 or graph.output == node.name:
        return None
    shifts = isinstance(readers[0].operation, op.Affine) and not readers[0].operation.scale
    return readers[0] if shifts and readers[0].learned else None


def _before(graph: ComputationGraph, node: Node) -> Node:
    """The node without bias whose following shift this is, or the node itself."""
    tail = graph[node.inputs[0]]
    follows = isinstance(node.operation, op.Affine) and tail.learned and _following_shift(graph, tail) == node
    return tail if follows else node


def _bias_of(graph: ComputationGraph, node: Node) -> str | None:
    """The parameter that the node adds, also if it reads a view of it."""
    added = dict(node.parameters)
    name = added.get("bias", added.get("shift"))
    program = None if name is None else graph.weights.effective.get(name)
    if program is None:
        return name
    viewed = all(step.target in _RESHAPES for step in program.instructions) and len(program.sources) == 1
    return program.sources[0] if viewed else None


def _own_name(graph: ComputationGraph, node: Node, role: str) -> str | None:
    """The parameter of a role, unless it is a formula on others."""
    name = dict(node.parameters).get(role)
    return None if name in graph.weights.effective else name


def _map_node(node: Node) -> Node:
    """h -> W h alone."""
    operation, role = node.operation, "weight"
    if isinstance(operation, op.Affine):
        operation, role = op.Affine(scale=True, shift=False), "scale"
    elif isinstance(operation, (op.Linear, op.Convolution)):
        operation = replace(operation, bias=False)
    return Node(node.name, operation, ("h",), node.shape, ((role, "weight"),))


def _is_isometric(graph: ComputationGraph, node: Node) -> bool:
    """Only maps that reorder the entries lie between the input and the node, and nothing else reads these."""
    name = node.inputs[0]
    while True:
        tail = graph[name]
        if sum(other.inputs.count(name) for other in graph.nodes) != 1 or graph.output == name:
            return False
        if isinstance(tail.operation, op.Input):
            return len(graph.inputs) == 1
        if not _reorders(graph, tail):
            return False
        name = tail.inputs[0]


def _is_ordered(graph: ComputationGraph, node: Node) -> bool:
    """Only changes of shape lie between the input and the node."""
    tail = graph[node.inputs[0]]
    return isinstance(tail.operation, op.Input) or (isinstance(tail.operation, op.Reshape) and _is_ordered(graph, tail))


def _reorders(graph: ComputationGraph, node: Node) -> bool:
    if isinstance(node.operation, op.Rearrange):
        before = graph[node.inputs[0]]
        return before.size == node.size and most_copies(node.operation.steps, before.shape) == 1
    return isinstance(node.operation, op.Reshape)


def _input_module(model: nn.Module, name: str, isometric: bool, where: str) -> tuple[nn.Module, str]:
    """The module whose first argument is the layer's input, and its path."""
    path = name.rpartition(".")[0]
    owner = model.get_submodule(path)
    if isinstance(owner, (nn.Linear, *Convolutions)):
        _require_zeros(path, owner)
        return owner, path
    if isometric:
        return model, ""
    raise TrajectoryError(
        f"trajectory: the input of {where} is not an argument of a module, and other operations come before it or read "
        f"it, too; expected {name!r} in a module of its own, nn.Linear or a convolution; or " + _name_one(model)
    )


def _require_zeros(path: str, module: nn.Module) -> None:
    if isinstance(module, Convolutions) and (module.padding_mode != "zeros" or _padding(module) is None):
        raise TrajectoryError(
            f"trajectory: the convolution {path!r} pads by {module.padding_mode!r}, {module.padding!r}, so that W is "
            "more than the convolution; expected zeros, as many before as after: name another layer with layer='...'"
        )


def _padding(module: nn.Conv1d | nn.Conv2d | nn.Conv3d) -> tuple[int, ...] | None:
    """Zeros on each side, by axis; None if they differ between the sides."""
    if module.padding == "valid":
        return (0,) * len(module.kernel_size)
    if not isinstance(module.padding, str):
        return tuple(module.padding)
    widths = [d * (k - 1) for d, k in zip(module.dilation, module.kernel_size, strict=True)]
    return None if any(w % 2 for w in widths) else tuple(w // 2 for w in widths)


def _of_module(path: str, module: nn.Module, model: nn.Module, graph: ComputationGraph | None) -> Watched:
    """A linear layer or a convolution with a bias, from its own settings; another module by its bias on the graph."""
    own = dict(module.named_parameters(recurse=False))
    if not isinstance(module, (nn.Linear, *Convolutions)):
        names = {f"{path}.{key}" for key in own}
        for node in () if graph is None else graph.nodes:
            if graph is not None and node.inputs and _bias_of(graph, node) in names:
                return at_node(graph, _before(graph, node), model)
        instead = f", or a parameter, {', '.join(f'{path}.{key}' for key in own)}, of which no theorem speaks"
        raise TrajectoryError(
            f"trajectory: the module {path!r} is {type(module).__name__}, expected a linear layer or a convolution "
            "with a bias; " + _name_one(model) + instead * bool(own)
        )
    if not {"weight", "bias"} <= set(own):
        raise TrajectoryError(
            f"trajectory: the module {path!r} ({type(module).__name__}) has the parameters {sorted(own)}, expected "
            "weight and bias; " + _name_one(model)
        )
    _require_zeros(path, module)
    kind: Kind = "linear" if isinstance(module, nn.Linear) else "convolution"
    watched = Watched(path, kind, f"{path}.bias", f"{path}.weight", _module_node(path, module), module)
    for node in () if graph is None else graph.nodes:
        if graph is not None and dict(node.parameters).get("weight") == watched.weight:
            return replace(watched, isometric=_is_isometric(graph, node), place=node.name)
    return watched


def _module_node(path: str, module: Module) -> Node:
    """h -> W h; the shape has only its entries that do not depend on the input."""
    if isinstance(module, nn.Linear):
        return Node(path, op.Linear(False), ("h",), (module.out_features,), (("weight", "weight"),))
    padding = _padding(module)
    assert padding is not None
    operation = op.Convolution(
        tuple(module.stride), padding, tuple(module.dilation), module.groups, tuple(module.kernel_size), False
    )
    return Node(path, operation, ("h",), (module.out_channels,), (("weight", "weight"),))


def _parameters(model: nn.Module) -> dict[str, torch.nn.Parameter]:
    return dict(model.named_parameters(remove_duplicate=False))


def _name_one(model: nn.Module) -> str:
    known = [(path, m) for path, m in model.named_modules() if isinstance(m, (nn.Linear, *Convolutions)) and path]
    known = [(path, m) for path, m in known if not isinstance(m, NonDynamicallyQuantizableLinear)]  # never called
    layers = [path for path, m in known if {"weight", "bias"} <= dict(m.named_parameters(recurse=False)).keys()]
    names = ", ".join(repr(name) for name in layers[:6]) + (", ..." if len(layers) > 6 else "")
    return f"name a layer with layer='...': {names or 'a linear layer or a convolution with a bias, or a parameter'}"
