"""Record the trajectory of a layer's bias around any training loop, which stays as it is."""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from covergraph.errors import CovergraphError, TrajectoryError
from covergraph.graph.computation_graph import ComputationGraph
from covergraph.trajectory.facts import computes
from covergraph.trajectory.file import Store
from covergraph.trajectory.hooks import BackwardWatch, Hook, silenced
from covergraph.trajectory.layer import Watched, first_layer, named_layer
from covergraph.trajectory.passes import chosen
from covergraph.trajectory.run import Options, Run
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
    ) -> None:
        for name, value in (("every", every), ("flush", flush), ("product", product)):
            if value is not None and (not isinstance(value, int) or value < 1):
                raise TrajectoryError(f"trajectory: {name} = {value!r}, expected a whole number, at least 1")
        if active_rows and subspace is not None:
            raise TrajectoryError("trajectory: active_rows and subspace are both given, expected at most one of them")
        self.model, self.optimizer, self.layer, self.overwrite = model, optimizer, layer, overwrite
        self._options = Options(every, flush, product, active_rows, subspace, output)
        self._store = Store(None if path is None else Path(path))
        self._graph, self._watch = graph, BackwardWatch()
        self._run: Run | None = None
        self._state: Mapping[str, Any] | None = None
        self._handles: list[Any] | None = None
        self._steps, self._begun = 0, 0

    @staticmethod
    @abstractmethod
    def _trace(
        model: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any], output: str | int | None
    ) -> ComputationGraph:
        """The graph of a model, from the arguments of its first call and the output that is meant."""

    def __enter__(self) -> Self:
        if self._handles is not None:
            raise TrajectoryError("trajectory: this recorder has been used, expected a new one; make one for each run")
        start = Hook(self._on_start)
        self._first = self.model.register_forward_pre_hook(start, with_kwargs=True)
        self._handles = [
            self._first,
            self.optimizer.register_step_pre_hook(self._before_step),
            self.optimizer.register_step_post_hook(self._after_step),
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
        if self._run is None or not handles:
            return
        try:
            self._run.flush(border=True)
        except Exception as reason:
            if error is None:
                raise
            error.add_note(f"trajectory: the last rows could not be written: {reason}")

    @property
    def trajectory(self) -> Trajectory:
        """What has been written so far: all rows after the `with`, and up to the last flush before.

        Raises `TrajectoryError` if there is nothing.
        """
        if not self._store.written.size:
            raise TrajectoryError(
                "trajectory: nothing is recorded yet, expected optimizer steps inside of the `with`; before its end "
                "call flush()"
            )
        return self._store.trajectory()

    def flush(self) -> None:
        """Write all rows that are complete, and set a border of the trajectory's moments, as at the end of an epoch."""
        if self._run is not None:
            self._run.flush(border=True)

    def state_dict(self) -> dict[str, Any]:
        """What `load_state_dict` needs, to be saved with the checkpoint of model and optimizer, between two steps."""
        if self._run is None:
            return dict(copy.deepcopy(self._state)) if self._state else {"step": 0}
        return self._run.state()

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
        if "step" not in state:
            raise TrajectoryError(f"trajectory: the state has the keys {sorted(state)}, expected those of state_dict()")
        self._state = copy.deepcopy(dict(state))

    def _on_start(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """The first forward pass with gradients finds the layer and sets the other hooks."""
        if not torch.is_grad_enabled():
            return None
        going_on = self._state is not None and self._state["step"] > 0
        if not going_on and not self.overwrite:
            self._store.require_new()
        watched = self._find(args, kwargs)
        run = Run(self.model, self.optimizer, watched, self._graph, self._options, self._store, self._watch)
        given = [value.detach().clone() for value in tree_leaves((args, kwargs)) if isinstance(value, Tensor)]
        if watched.isometric and watched.module is not module and len(given) == 1:
            run.passes.given = given[0]
        if self._state is not None and going_on:
            run.load(self._state)
        else:
            self._store.clear()
        assert self._handles is not None
        self._handles += run.passes.hooks()
        self._first.remove()
        if watched.module is not None:
            self._handles.append(watched.module.register_forward_pre_hook(Hook(run.passes.on_input), with_kwargs=True))
        self._handles.append(self.model.register_forward_hook(Hook(run.passes.on_output)))
        self._compared = self.model.register_forward_hook(Hook(partial(self._on_first_output, given)))
        self._handles.append(self._compared)
        self._run = run
        return run.passes.on_input(module, args, kwargs) if watched.module is self.model else None

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

    def _before_step(self, optimizer: torch.optim.Optimizer, args: Any, kwargs: Any) -> Any:
        """W^t is measured before the update; of a step with a closure, after the closure has run for the first time.

        A step that another step() calls, as `super().step()` does, is a part of that one; not so after one that failed.
        """
        if self._steps > 0 and self._begun == self._watch.begun:
            self._steps += 1
            return None
        closure = kwargs.get("closure", args[1] if len(args) > 1 else None)
        if closure is None:
            self._measure()
        self._steps, self._begun = 1, self._watch.begun
        if closure is None:
            return None
        runs = 0

        def watched() -> Any:
            nonlocal runs
            loss, runs = closure(), runs + 1
            if runs == 1:
                self._measure()
            return loss

        return (args[0], watched), {name: value for name, value in kwargs.items() if name != "closure"}

    def _measure(self) -> None:
        if self._run is None:
            raise TrajectoryError(
                "trajectory: the optimizer steps, and the model has not been called with gradients; call model(x), not "
                "model.forward(x), and give the recorder the module that is called; if torch.compile has compiled it "
                "already, call torch.compiler.reset() first"
            )
        self._run.before_step()

    def _after_step(self, optimizer: torch.optim.Optimizer, args: Any, kwargs: Any) -> None:
        assert self._run is not None
        self._steps -= 1
        if self._steps == 0:
            self._run.after_step()
