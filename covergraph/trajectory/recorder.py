"""Record the trajectory of a layer's bias around any training loop, which stays as it is."""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from covergraph.errors import CovergraphError, TrajectoryError
from covergraph.graph.computation_graph import ComputationGraph
from covergraph.kinds import SAVED, require
from covergraph.trajectory.arguments import FLAGS, Options, is_state, require_kinds, the_optimizer
from covergraph.trajectory.facts import computes
from covergraph.trajectory.file import Store
from covergraph.trajectory.guard import Guard
from covergraph.trajectory.hooks import BackwardWatch, Hook, silenced, transformed
from covergraph.trajectory.layer import Watched, first_layer, named_layer
from covergraph.trajectory.passes import chosen
from covergraph.trajectory.run import Run
from covergraph.trajectory.sight import put_back
from covergraph.trajectory.steps import Steps
from covergraph.trajectory.trajectory import Trajectory


class Recorder(ABC):
    """`TrajectoryRecorder` (`covergraph.api`), which brings `trace` along; that way this room imports no tracers."""

    def __init__(
        self,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        path: Path | str | None = None,
        *,
        layer: str | None = None,
        every: int | None = None,
        flush: int = 100,
        product: int | None = None,
        active_rows: bool = False,
        subspace: Tensor | None = None,
        output: str | int | None = None,
        graph: ComputationGraph | None = None,
        overwrite: bool = False,
        strict: bool = False,
    ) -> None:
        require_kinds(model, optimizer, path, layer)
        require("trajectory", FLAGS, active_rows=active_rows, overwrite=overwrite, strict=strict, graph=graph)
        self._options = Options(every, flush, product, active_rows, subspace, output)
        self.model, self.optimizer = model, the_optimizer(optimizer)
        self.layer, self.overwrite = layer, overwrite
        self._store = Store(None if path is None else Path(path))
        self._store.require_writable()
        self._graph, self._watch = graph, BackwardWatch()
        self._guard = Guard(strict)
        self._guard.on_stop = self._stop
        self._run: Run | None = None
        self._watched: Watched | None = None
        self._state: Mapping[str, Any] | None = None
        self._handles: list[Any] | None = None
        self._steps = Steps(self.optimizer, self._watch, self._guard)

    @staticmethod
    @abstractmethod
    def _trace(
        model: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any], output: str | int | None
    ) -> ComputationGraph:
        """The graph of a model, from the arguments of its first call and the output that is meant."""

    def __enter__(self) -> Self:
        if self._handles is not None:
            raise TrajectoryError("trajectory: this recorder has been used, expected a new one; make one for each run")
        start = Hook(self._guard(self._on_start))
        self._first = self.model.register_forward_pre_hook(start, with_kwargs=True)
        self._handles = [
            self._first,
            *self._steps.hooks(),
        ]
        self._watch.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        handles, self._handles = self._handles or [], []
        for handle in handles:
            handle.remove()
        self._watch.stop()
        if not handles:
            return
        try:
            self._guard(self._finish)(error is not None)
        except Exception as reason:
            if error is None:
                raise
            error.add_note(f"trajectory: the last rows could not be written: {reason}")

    def _finish(self, failed: bool) -> None:
        if self._run is not None:
            self._run.flush(border=True)
            if not failed:
                self._steps.require_seen()
        elif self._watched is not None and not failed:
            raise TrajectoryError(_frozen(self._watched))

    def _stop(self, reason: str) -> None:
        if self._run is not None:
            self._run.passes.release()
            self._run.stop(reason)

    @property
    def trajectory(self) -> Trajectory:
        """What has been written so far: all rows after the `with`, and up to the last flush before.

        Raises `TrajectoryError` if there is nothing.
        """
        if not self._store.written.size and self._guard.reason:
            raise TrajectoryError(
                "trajectory: nothing is recorded, for recording has stopped before the end of the first step; "
                f"{self._guard.reason}"
            )
        if not self._store.written.size:
            raise TrajectoryError(
                "trajectory: nothing is recorded yet, expected optimizer steps inside of the `with`; before its end "
                "call flush()"
            )
        return self._store.trajectory()

    def flush(self) -> None:
        """Write all rows that are complete, and set a border of the trajectory's moments, as at the end of an epoch."""
        if self._run is not None:
            self._guard(self._run.flush)(border=True)

    def state_dict(self) -> dict[str, Any]:
        """What `load_state_dict` needs, to be saved with the checkpoint of model and optimizer, between two steps."""
        kept = {"step": 0} if self._state is None else self._state
        state = dict(copy.deepcopy(kept)) if self._run is None else self._guard(self._run.state)()
        if self._guard.reason:
            return {"step": kept["step"] if self._run is None else self._run.step, "stopped": self._guard.reason}
        assert state is not None
        return state

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a state, before the first step: later rows of the file are dropped, and the run makes them again.

        Load model and optimizer from the same checkpoint before the first forward pass. Raises `TrajectoryError` if
        steps were recorded already.
        """
        if self._run is not None:
            raise TrajectoryError(
                f"trajectory: load_state_dict after {self._run.step} steps of another run, expected it before the "
                "first forward pass; make a new recorder"
            )
        require("load_state_dict", {"state": SAVED}, state=state)
        if not is_state(state):
            raise TrajectoryError(
                f"trajectory: the state has the keys {sorted(map(str, state))[:9]}, expected those of state_dict(); "
                "load what the recorder's own state_dict() returned"
            )
        self._state = copy.deepcopy(dict(state))

    def _on_start(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """The first forward pass with gradients in which the bias is trained sets the other hooks."""
        put_back()
        if not torch.is_grad_enabled() or transformed():
            return None
        if any(not isinstance(p, nn.Parameter) for p in self.model.parameters()):  # torch.func.functional_call
            return None
        if self._watched is None:
            self._require_file()
            self._watched = self._find(args, kwargs)
            self._steps.waits = True
        watched = self._watched
        if not dict(self.model.named_parameters(remove_duplicate=False))[watched.bias].requires_grad:
            return None  # frozen, as a discriminator is while its generator learns: it is waited out
        run = Run(
            self.model, self.optimizer, watched, self._graph, self._options, self._store, self._watch, self._guard
        )
        given = [value.detach().clone() for value in tree_leaves((args, kwargs)) if isinstance(value, Tensor)]
        if watched.isometric and watched.module is not module and len(given) == 1:
            run.passes.given = given[0]
        if self._state is not None and self._state["step"] > 0:
            run.load(self._state)
        else:
            self._store.clear()
        assert self._handles is not None
        self._handles += run.passes.hooks()
        self._first.remove()
        on_input = self._guard(run.passes.on_input)
        if watched.module is not None:
            apart = partial(on_input, compiled=True)
            self._handles.append(watched.module.register_forward_pre_hook(Hook(on_input, apart), with_kwargs=True))
        self._handles += self._hooks_on_weights(run)
        self._handles.append(self.model.register_forward_hook(Hook(self._guard(run.passes.on_output))))
        first = self._guard(partial(self._on_first_output, given))
        self._compared = self.model.register_forward_hook(Hook(first))
        self._handles.append(self._compared)
        self._run = self._steps.run = run
        return on_input(module, args, kwargs) if watched.module is self.model else None

    def _hooks_on_weights(self, run: Run) -> list[Any]:
        """The handles of what looks at W and b, or puts W back, around passes."""
        stand_in, module, handles = run.passes.stand_in, run.watched.module, list[Any]()
        if module is None:
            form = Hook(_without_arguments(self._guard(run.passes.sights.require_form)))
            handles.append(self.model.register_forward_pre_hook(form))
        if stand_in is not None and module is not None:
            after = module.register_forward_hook(Hook(stand_in.remove), prepend=True, always_call=True)
            handles += [stand_in, after]
        return handles

    def _require_file(self) -> None:
        """Raise `TrajectoryError` if there is a file that this run is not to change."""
        state = self._state or {"step": 0}
        if state.get("stopped"):
            raise TrajectoryError(
                f"trajectory: the run whose state was loaded had stopped recording after {state['step']} steps "
                f"({state['stopped']}), expected one that was recorded so far; its file stays as it is"
            )
        if not state["step"] and not self.overwrite:
            self._store.require_new()

    def _on_first_output(self, given: list[Tensor], module: nn.Module, args: tuple[Any, ...], result: Any) -> None:
        """The graph is of eval mode: has the model, as it is trained, computed the same?"""
        self._compared.remove()
        if self._run is not None and self._graph is not None:
            output = chosen(result, self._options.output)
            if not computes(self._graph, self.model, given, output.detach()):
                self._run.distrust_graph()

    def _find(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Watched:
        reason: CovergraphError | None = None
        if self._graph is None:
            try:
                with silenced(self.model):
                    self._graph = self._trace(self.model, args, kwargs, self._options.output)
            except CovergraphError as error:
                reason = error
        if self.layer is not None:
            return named_layer(self.layer, self.model, self._graph)
        if self._graph is None:
            names = [path for path, m in self.model.named_modules() if getattr(m, "bias", None) is not None and path]
            raise TrajectoryError(
                f"trajectory: the first layer is not known, as the model cannot be traced ({reason}); name it with "
                f"layer='...', such as {', '.join(map(repr, names[:6])) or 'a parameter'}"
            ) from reason
        return first_layer(self._graph, self.model)


def _without_arguments(function: Callable[[], Any]) -> Callable[..., None]:
    """The function as a hook that changes nothing."""
    def hook(*args: Any) -> None:
        function()

    return hook


def _frozen(watched: Watched) -> str:
    return (
        f"trajectory: {watched.bias!r} is frozen (requires_grad = False), and was so in each forward pass, expected a "
        "bias that is trained; set requires_grad_(True) before the optimizer is made, or name another layer with "
        "layer='...'"
    )
