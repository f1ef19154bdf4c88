"""One run under way: its steps, the blocks that are written of them, and states to go on from."""

from __future__ import annotations

import math
from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import asdict, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from covergraph.errors import TrajectoryError
from covergraph.graph.computation_graph import ComputationGraph
from covergraph.trajectory import facts, file
from covergraph.trajectory.arguments import Options
from covergraph.trajectory.buffers import Buffers, RunningMoments
from covergraph.trajectory.guard import Guard
from covergraph.trajectory.hooks import BackwardWatch
from covergraph.trajectory.layer import Watched
from covergraph.trajectory.layer_map import Map
from covergraph.trajectory.passes import Passes
from covergraph.trajectory.path_product import log_product, required_graph
from covergraph.trajectory.sight import Sight, StandIn
from covergraph.trajectory.spectrum import Spectrum
from covergraph.trajectory.trajectory import COLUMNS, Layer, Setting
from covergraph.values import Floats

ENDS = ("top_lower", "top_upper", "bottom_lower", "bottom_upper")


class Run:
    """A run from its first forward pass on. Of its `step` steps those that are not written yet are in the buffers."""

    def __init__(
        self, model: nn.Module, optimizer: torch.optim.Optimizer, watched: Watched, graph: ComputationGraph | None,
        options: Options, store: file.Store, watch: BackwardWatch, guard: Guard,
    ) -> None:
        self.model, self.optimizer, self.graph, self.options, self.store = model, optimizer, graph, options, store
        parameters = dict(model.named_parameters(remove_duplicate=False))
        self.bias = parameters[watched.bias]
        self.weight = None if watched.weight is None else parameters[watched.weight]
        self.group = facts.group_of(optimizer, self.bias, watched.bias)
        self.buffers = Buffers(self.bias, options.flush)
        self.passes = Passes(watched, self.bias, self.weight, self.buffers, watch, options.every, options.output, guard)
        self.passes.owner = model.get_submodule(watched.bias.rpartition(".")[0])
        self.passes.stand_in = self._stand_in()
        self.strayed: Tensor | bool = False
        self.step, self.blocks = 0, 0
        self.alphas, self.samples = [math.nan] * self.buffers.length, [0] * self.buffers.length
        self.spectrum: Spectrum | None = None
        self.layer: Layer | None = None
        self.loaded: Mapping[str, Any] | None = None
        self.setting = facts.first_setting(model, optimizer, self.group, graph, watched, self.bias)
        self.faithful = True

    @property
    def watched(self) -> Watched:
        """The layer; its shapes are known after its first pass."""
        return self.passes.watched

    @property
    def row(self) -> int:
        """The row of the step in progress."""
        return self.step - self.store.written.rows

    def distrust_graph(self) -> None:
        """The model in train mode computes something else than its graph: what the graph says of f is not known."""
        self.faithful = False
        mixing, piecewise = self.setting.mixing or None, False if self.setting.piecewise is False else None
        self.setting = replace(self.setting, mixing=mixing, piecewise=piecewise)

    def before_step(self) -> None:
        """W^t is what it was when the gradients were made: it is measured, and compared with them."""
        self.require_same()
        self.passes.forget_emptied()
        self.passes.require_seen()
        if self.row == self.buffers.length:
            self.flush()  # the last one failed
        self.sight = self.passes.sights.look()
        if self.layer is None or self.passes.met:
            self._begin()
        if self.row == 0:
            self.setting = facts.learned(self.setting, "", facts.mixes(self.model), None)
        device = self.bias.device.type
        with torch.autocast(device, enabled=False) if torch.is_autocast_enabled(device) else nullcontext():
            self._measure()

    @torch.no_grad()
    def _measure(self) -> None:
        assert self.spectrum is not None
        row, rate = self.row, self.optimizer.param_groups[self.group]["lr"]
        slots = self.buffers.slots[row]
        if isinstance(rate, Tensor):
            slots["alpha"].copy_(rate)
        self.alphas[row] = math.nan if isinstance(rate, Tensor) else float(rate)
        if self.passes.measures:
            self.spectrum.measure(self.step, row, slots["drift"], slots["frobenius"])
            self._compare(row)
        if self.options.product and row == 0 and self.blocks % self.options.product == 0:
            graph = required_graph(self.graph, self.watched, self.faithful)
            slots["log_product"].fill_(log_product(graph, self.model, self.watched.place))

    def require_same(self) -> None:
        """Raise `TrajectoryError` unless the model has the same W and b, of the same type and place."""
        facts.require_same(self.model, self.bias, self.watched.bias)
        if self.weight is not None and self.watched.weight is not None:
            facts.require_same(self.model, self.weight, self.watched.weight)
        self.passes.sights.require_form()

    def is_at_last(self) -> bool:
        """Whether the bias is what it was after the last row."""
        last = self.buffers.bias_rows[self.row - 1] if self.row else self.buffers.previous
        return torch.equal(last, self.bias.detach())

    def require_unmoved(self, sight: Sight) -> None:
        """Raise `TrajectoryError` unless W and b are as they were seen.

        Values on an accelerator are not waited for: `once` will be False.
        """
        now = self.passes.sights.look()
        moved = sight.differs(now)
        self.strayed = self.strayed | moved
        if sight.versions != now.versions or (self.bias.device.type == "cpu" and bool(moved)):
            raise TrajectoryError(
                f"trajectory: {type(self.optimizer).__name__} has changed the weights before it ran its closure, as "
                "sharpness-aware optimizers do, so that no gradient is one at b^t; expected a closure that is run first"
            )

    def after_step(self, again: bool = False) -> None:
        """The row of this step is complete; `again`: its closure has run several times."""
        if again:
            self.setting = replace(self.setting, closures=True)
        row = self.row
        self.buffers.bias_rows[row].copy_(self.bias.detach())
        measured, seen = self.passes.measures, self.passes.finish()
        self.samples[row] = seen.samples
        self.strayed = self.strayed | seen.strays(self.sight)
        if measured and (seen.inner != seen.samples or seen.versions - {self.sight.versions}):  # of another W or b
            self.setting = replace(self.setting, once=False)
        self.step += 1
        self._aim()
        if self.row == self.buffers.length:
            self.flush()

    def _settle(self) -> None:
        """Whether passes saw another W or b than their steps is read from the device."""
        if bool(self.strayed):
            self.setting = replace(self.setting, once=False)
        self.strayed = False

    def _stand_in(self) -> StandIn | None:
        """For W of a linear layer that alone reads it; a convolution keeps W in any case."""
        watched, name = self.watched, self.watched.weight or ""
        path, _, leaf = name.rpartition(".")
        own = watched.kind in ("linear", "scale") and self.graph is not None and facts.readers(self.graph, name) == 1
        if self.weight is None or not (isinstance(watched.module, nn.Linear) or own):
            return None
        return StandIn(self.model.get_submodule(path), leaf, self.weight)

    def stop(self, reason: str) -> None:
        """Write the rows that are complete, and why there are no more."""
        self.setting = replace(self.setting, stopped=reason)
        try:
            self.flush(border=True)
        except Exception:
            if self.layer is not None and self.store.written.rows:
                self.store.append(file.rows(np.empty((len(COLUMNS), 0)), self.layer, self.setting), 0)
            raise

    @torch.no_grad()
    def flush(self, border: bool = False) -> None:
        """Write the rows that are complete; with `border`, end the stretch of the moments."""
        content, rows, moments = b"", self.row, self.buffers.moments
        if self.layer is None:
            return
        self._settle()
        columns = self._columns(rows) if rows else None
        if columns is not None:
            content += file.rows(np.stack([columns[name] for name in COLUMNS]), self.layer, self.setting)
            moments = moments.taking(self.buffers.flat(self.buffers.biases, rows))
        elif self.setting.stopped and self.store.written.rows:
            content += file.rows(np.empty((len(COLUMNS), 0)), self.layer, self.setting)
        shortest = max(self.options.flush, -(-self.bias.numel() // len(COLUMNS)))  # means take no more than columns
        if moments.count and (border or moments.count >= shortest):
            content += file.border(self.step, moments.mean.cpu().numpy(), float(moments.scatter))
            moments = RunningMoments.none(self.bias)
        if not content:
            return
        if not self.store.written.size:
            content = file.header(self.layer, self.setting) + content
        self.store.append(content, rows)
        self.buffers.moments = moments
        if columns is not None:
            self._begin_block(rows, columns["drift"])

    def _begin_block(self, rows: int, drift: Floats) -> None:
        assert self.spectrum is not None
        moved = drift[~np.isnan(drift)]
        self.spectrum.finish_block(self.step, float(moved[-1]) if len(moved) else 0.0)
        self.buffers.begin_block(rows)
        self.blocks += 1
        self._aim()

    def _aim(self) -> None:
        """The passes write to the row of this step."""
        self.passes.tally.row = self.row
        self.passes.measures = self.watched.module is not None and self.step % (self.passes.every or 1) == 0

    @torch.no_grad()
    def _begin(self) -> None:
        """The layer's shapes are known; those of a linear layer at every position may grow."""
        if self.watched.module is not None and self.passes.slot is None:
            raise TrajectoryError(
                f"trajectory: the optimizer stepped before the layer {self.watched.name!r} ran with gradients; train "
                "by output = model(x), loss.backward(), optimizer.step(); if torch.compile has compiled the model "
                "already, call torch.compiler.reset() first"
            )
        self.passes.met = False
        watched = self.watched
        if self.setting.isometric:
            self.setting = replace(self.setting, isometric=watched.isometric)
        if self.layer is not None and math.prod(watched.slot or ()) <= self.layer.inputs:
            return
        shape = watched.shape or tuple(self.bias.shape)
        shared = 1 if watched.kind == "parameter" else math.prod(shape) // self.bias.numel()
        basis, active = self.options.subspace, self.options.active_rows
        if watched.kind == "parameter" and (active or basis is not None):
            raise TrajectoryError(
                f"trajectory: active_rows and subspace are of a layer's W, and {watched.bias!r} is watched as a "
                "parameter; leave them out, or name a layer"
            )
        if self.spectrum is None:
            basis, rows = None if basis is None else basis.to(self.bias.device), self.buffers.length
            self.spectrum = Spectrum(Map(watched.node, watched.slot or shape), self.weight, shared, active, basis, rows)
        inputs, outputs = math.prod(watched.slot or shape), math.prod(shape)
        self.layer = Layer(
            watched.name, watched.kind, watched.weight, watched.bias, inputs, outputs, shared, self.spectrum.gain
        )
        self._finish_loading()

    def _compare(self, row: int) -> None:
        """‖Wᵀ ∂ℓ/∂b - Σ ∂ℓ/∂h_i‖ of the step, if the bias is not shared."""
        assert self.layer is not None and self.spectrum is not None
        pulled = None if self.passes.tally.lacks_pulls else self.passes.now.pulled
        if self.layer.shared == 1 and self.watched.ordered and pulled is not None and self.passes.now.gradients:
            difference = self.spectrum.transposed(self.buffers.gradient_rows[row]).sub(pulled)
            torch.linalg.vector_norm(difference, dtype=torch.float64, out=self.buffers.slots[row]["apart"])

    def _columns(self, rows: int) -> dict[str, Floats]:
        assert self.spectrum is not None
        columns = self.buffers.reduced(rows, self.alphas[:rows])
        columns |= self.spectrum.moved(rows, columns["drift"], columns["frobenius"])
        columns["step"] = np.arange(self.step - rows, self.step, dtype=np.float64)
        columns["pull"] = np.where(np.isnan(columns["pull"]), columns["pulls"], columns["pull"])
        columns["samples"] = np.array(self.samples[:rows], dtype=np.float64)
        none = (columns["samples"] == 0) & np.isnan(columns["epsilon"]) & (columns["gradient"] == 0)
        for name in ("epsilon", "pull", "pulls"):  # sums over no samples
            columns[name] = np.where(none, 0.0, columns[name])
        if self.watched.kind == "parameter":
            ends = dict.fromkeys(ENDS, np.full(rows, np.nan))
        else:
            gradients = self.buffers.flat(self.buffers.gradients, rows)
            ends = self.spectrum.ends(columns["drift"], columns["frobenius"], gradients)
        if self.watched.kind == "identity":
            columns["frobenius"] = np.full(rows, math.sqrt(math.prod(self.watched.slot or ())))
        reason = facts.not_plain(self.optimizer, self.optimizer.param_groups[self.group])
        identity = self._identity(columns, ends["top_upper"])
        learned = facts.learned(self.setting, reason, facts.mixes(self.model), identity)
        self.setting = replace(learned, outputs=self.passes.outputs, scaled=learned.scaled or self.passes.scaled)
        return columns | ends

    def _identity(self, columns: Mapping[str, Floats], top: Floats) -> float | None:
        """The largest of what was compared in this block, relative to ‖W‖ ‖∂ℓ/∂b‖, or Σ ‖∂ℓ/∂h_i‖ if that is larger.

        At least by how much autocast rounds W.
        """
        coarse = self.passes.coarse if self.passes.coarse > torch.finfo(self.bias.dtype).eps else None
        known = np.isfinite(columns["apart"])
        if not known.any():
            return coarse
        scale = np.fmax(top * columns["gradient"], columns["pulls"])[known]
        lost = 1e6 * torch.finfo(self.bias.dtype).tiny  # below it gradients underflow
        return max(coarse or 0.0, float(np.max(columns["apart"][known] / np.fmax(scale, lost))))

    def state(self) -> dict[str, Any]:
        """What `load` needs to go on with the same bits; tensors, numbers and names."""
        self.store.sync()
        self._settle()
        row = self.row
        return {
            "step": self.step, "row": row, "every": self.passes.every, "blocks": self.blocks,
            "alphas": self.alphas[:row], "samples": self.samples[:row],
            "setting": asdict(self.setting), "layer": None if self.layer is None else asdict(self.layer),
            "written": asdict(self.store.written), "buffers": self.buffers.state(row),
            "memory": torch.frombuffer(bytearray(self.store.memory) or bytearray(1), dtype=torch.uint8).clone(),
            "spectrum": {} if self.spectrum is None else self.spectrum.state(row),
        }

    def load(self, state: Mapping[str, Any]) -> None:
        """Go on from a state, before the first pass; raises `TrajectoryError` unless it fits the model and the file."""
        row = state["row"]
        known = state["layer"]["bias"] if state["layer"] else self.watched.bias
        shape = state["buffers"]["start"].shape
        if known != self.watched.bias or shape != self.bias.shape or row >= self.buffers.length:
            raise TrajectoryError(
                f"trajectory: the state is of {known!r} with {row} rows that are not written, expected one of "
                f"{self.watched.bias!r} with less than flush = {self.buffers.length}; load it for the model that it "
                "was saved with, and with the same flush, or a larger one"
            )
        self.buffers.load(state["buffers"], row)
        last = self.buffers.biases[row - 1] if row else self.buffers.previous
        if not torch.equal(last, self.bias.detach()):
            raise TrajectoryError(
                f"trajectory: the model's {known!r} is not the one of step {state['step']}, at which the state was "
                "saved; load the model's and the optimizer's state of the same checkpoint before the first forward pass"
            )
        self.store.go_back(file.Written(**state["written"]), bytes(state["memory"].cpu().numpy()))
        self.setting = Setting(**state["setting"])
        self.step, self.blocks, self.passes.every = state["step"], state["blocks"], self.options.every or state["every"]
        self.alphas[:row], self.samples[:row] = state["alphas"], state["samples"]
        self.loaded = state
        self._aim()

    def _finish_loading(self) -> None:
        """The rest of a state, once the layer has its shapes."""
        if self.loaded is not None and self.loaded["layer"] is not None and self.spectrum is not None:
            self.spectrum.load(self.loaded["spectrum"])
            known, own = Layer(**self.loaded["layer"]), self.layer
            if own is None or (known.name, known.kind, known.gain) != (own.name, own.kind, own.gain):
                raise TrajectoryError(
                    f"trajectory: the state is of the layer {known}, expected {own}; load it for the model and with "
                    "the options that it was saved with"
                )
            self.layer = known if known.inputs >= own.inputs else own
        self.loaded = None
