"""A user's own element-wise functions: which calls they stand for."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import fx, nn

from covergraph.errors import TracingError
from covergraph.graph.functions import ScalarFunction
from covergraph.tracers.forms import canonical_name
from covergraph.tracers.traced import Traced, holds_tensor, module_stack


@dataclass(frozen=True)
class UserFunctions:
    """Rows by canonical name of a torch operation, by function, and by module class."""

    by_name: Mapping[str, ScalarFunction] = field(default_factory=dict)
    by_target: Mapping[Any, ScalarFunction] = field(default_factory=dict)

    @staticmethod
    def of(functions: Mapping[Any, ScalarFunction] | None) -> UserFunctions:
        """Read `trace`'s argument `functions`; raises `TracingError` on a key or value of another type."""
        by_name, by_target = {}, {}
        for target, row in (functions or {}).items():
            if not isinstance(row, ScalarFunction):
                raise TracingError(f"functions[{target!r}] is {row!r}, expected a covergraph ScalarFunction")
            if not callable(target):
                raise TracingError(
                    f"functions has the key {target!r}, expected an operation such "
                    "as torch.ops.aten.mish.default, a function such as F.mish, or a module class such as "
                    "nn.Mish"
                )
            row.check()
            by_target[target] = row
            if not isinstance(target, type):
                by_name[canonical_name(target)] = row
        return UserFunctions(by_name, by_target)

    def find(self, target: Any, name: str) -> ScalarFunction | None:
        """The row of a call's target or canonical name, if the user gave one."""
        if isinstance(target, str):
            return self.by_name.get(name)
        return self.by_target.get(target) or self.by_name.get(name)

    @property
    def classes(self) -> dict[str, type[nn.Module]]:
        """Module classes by qualified name."""
        return {_qualified(t): t for t in self.by_target if isinstance(t, type) and issubclass(t, nn.Module)}


def _qualified(cls: Any) -> str:
    return cls if isinstance(cls, str) else f"{cls.__module__}.{cls.__qualname__}"


@dataclass(frozen=True)
class Use:
    """One use of a module of the user's class: its path and all nodes in it."""

    path: str
    cls: type[nn.Module]
    nodes: list[fx.Node] = field(default_factory=list)


def collapse(traced: Traced, functions: UserFunctions) -> None:
    """Replace all that a module of a user's class does by one call, whose target is the class.

    Raises `TracingError` where that is not one function of one tensor, or where the way of tracing hides modules.
    """
    classes = functions.classes
    uses: dict[str, Use] = {}
    for node in traced.graph.nodes:
        for key, (path, cls) in module_stack(node).items():
            if _qualified(cls) in classes:
                uses.setdefault(key, Use(path, classes[_qualified(cls)])).nodes.append(node)
                break
    _refuse_hidden(traced, set(classes.values()) - {use.cls for use in uses.values()})
    for use in uses.values():
        _replace(traced.graph, use)


def _refuse_hidden(traced: Traced, unseen: set[type[nn.Module]]) -> None:
    """Raise `TracingError` if the model has modules of classes that were not seen, unless torch.export looked."""
    hidden = sorted({type(m).__name__ for m in traced.module.modules() if type(m) in unseen})
    if hidden and traced.way != "export":
        raise TracingError(
            f"functions names the classes {hidden}, but tracing by {traced.way} does not show which operations are "
            "theirs; give rows for their operations instead, or make the model fit for torch.export"
        )


def _replace(graph: fx.Graph, use: Use) -> None:
    inside = set(use.nodes)
    sources = [n for n in use.nodes if n.op == "get_attr"]
    arguments = [a for n in use.nodes for a in n.all_input_nodes if a not in inside and holds_tensor(a)]
    entering = list(dict.fromkeys([*arguments, *sources]))
    leaving = [n for n in use.nodes if holds_tensor(n) and any(user not in inside for user in n.users)]
    if len(entering) != 1 or len(leaving) != 1:
        raise TracingError(
            f"module {use.path!r} ({use.cls.__name__}): a ScalarFunction is given for it, but it reads "
            f"{len(entering)} tensors ({', '.join(a.name for a in entering)}) and yields {len(leaving)}; "
            "expected one and one, and no parameters"
        )
    (last,) = leaving
    with graph.inserting_after(last):
        call = graph.call_function(use.cls, (entering[0],))
    call.meta = dict(last.meta)
    last.replace_all_uses_with(call, delete_user_cb=lambda user: user not in inside and user is not call)
