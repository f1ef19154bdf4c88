"""How does one ask: the whole path in one call."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import nn

from covergraph import kinds
from covergraph.bound.certificate import Certificate
from covergraph.bound.choose import choose
from covergraph.bound.derive import Bound, derive
from covergraph.bound.rademacher import check_delta
from covergraph.graph.augmented import Mode
from covergraph.graph.computation_graph import ComputationGraph
from covergraph.graph.home import home
from covergraph.graph.losses import Loss
from covergraph.measure.measure import measure
from covergraph.measure.reading import BatchTo, advice, as_batches, example
from covergraph.passes.augment import augment
from covergraph.tracers import as_module, trace
from covergraph.trajectory.recorder import Recorder
from covergraph.values import Measurements, Parameters


@dataclass(frozen=True)
class Analysis:
    """Everything that one analysis made, in the order in which it was made."""

    graph: ComputationGraph
    bound: Bound
    measurements: Measurements
    parameters: Parameters
    certificate: Certificate

    def explain(self) -> str:
        """Three sentences for a human."""
        return self.certificate.explain()

    def __repr__(self) -> str:
        return f"Analysis of {len(self.graph)} nodes, n = {self.measurements.n}: {self.certificate!r}"

    def _repr_html_(self) -> str:
        return self.certificate._repr_html_()


def analyze(
    model: nn.Module,
    loader: Iterable[Any],
    init_model: nn.Module | None = None,
    delta: float = 0.05,
    *,
    loss: Loss | None = None,
    mode: Mode = "minimal",
    output: Any = None,
    trust_init: bool = False,
    device: torch.device | str | None = None,
    exact: bool = False,
    fill: bool = False,
    width: float = 1.01,
    failure: float = 1e-3,
    memory: int = 2**30,
    checkpoint: Path | str | None = None,
    budget: float | None = None,
    condition_quantile: float | Literal["auto"] = "auto",
    progress: bool | None = None,
    batch_to: BatchTo | None = None,
    duplicates: Literal["refuse", "iid"] = "refuse",
) -> Analysis:
    """Trace, augment, derive, measure, choose and certify: the generalization bound of `model` on its sample.

    `model`: a module, or an `ExportedProgram` with a dynamic batch. `loader` yields (inputs, labels), or mappings with
    labels, of the whole training sample, unaugmented, each sample once; a Dataset or a pair of arrays will do, and
    `batch_to` turns odd batches into (inputs, labels). `init_model`: the weights before
    training, if known; `trust_init`: also if they are the model's own, or hold statistics of a BatchNorm, for you know
    that they do not depend on the sample.

    Norms of Jacobians: small ones are formed, of others the upper end is within `width` of the lower one, from random
    starts that fail with probability `failure` (Lemma 21). `exact` forms all; `fill` bounds all by products along edges
    (Proposition 2), which is cheap, but larger. `memory`: bytes that a block of samples may take; `checkpoint`: a
    folder, from which a run that was stopped goes on; `budget`: seconds, after which what was measured has to do. See
    `measure`; `condition_quantile`: see `choose`.

    With probability at least 1 - delta over the sample, less `failure` over the random starts if there were any, the
    certificate's value bounds the error (Theorem 3). For a step of your own choice call the six functions yourself.
    """
    kinds.require(
        "analyze", kinds.ANALYZING, init_model=init_model, trust_init=trust_init, delta=delta, loss=loss, exact=exact,
        fill=fill, width=width, failure=failure, memory=memory, checkpoint=checkpoint, budget=budget,
        condition_quantile=condition_quantile, progress=progress, batch_to=batch_to,
    )
    check_delta(delta)
    model = as_module(model)
    loader = as_batches(loader, batch_to)
    call = example(loader, model, batch_to, *home(model))
    with advice(call, model):
        graph = trace(model, *call, output=output)
    bound = derive(augment(graph, loss, mode))
    measurements = measure(
        bound, model, loader, init_model=init_model, trust_init=trust_init, device=device, exact=exact, fill=fill,
        width=width, failure=failure, memory=memory, checkpoint=checkpoint, budget=budget, progress=progress,
        batch_to=batch_to, duplicates=duplicates,
    )
    parameters = choose(bound, measurements, condition_quantile=condition_quantile)
    return Analysis(graph, bound, measurements, parameters, bound.evaluate(measurements, parameters, delta))


class TrajectoryRecorder(Recorder):
    """Records the trajectory of a layer's bias around any training loop, which stays as it is.

    ```python
    with covergraph.TrajectoryRecorder(model, optimizer, "run.trajectory") as recorder:
        for x, y in loader:
            optimizer.zero_grad()
            loss(model(x), y).backward()
            optimizer.step()
    recorder.trajectory
    ```

    The layer z = W h + b is the first with parameters on the traced graph; `layer` names another one, or a parameter,
    of which moves and gradients are recorded alone. The model's output is the tensor that ε_t = ‖∂ℓ/∂ŷ‖ is read at;
    `output` picks it where there are several. A backward pass counts if it adds to the gradient of the bias; several
    between two steps count as one larger batch. Of a closure that runs again the first run counts, and the scale of a
    gradient scaler is divided out.

    Args: `path`, the file (None: memory); it is written at every `flush` steps, fewer if the bias is large, and may be
    read at any time, also after a kill. `every`: ∂ℓ/∂h and the spectrum of W are taken at every so many steps (default:
    1, or what keeps it cheap: the layer's weights over 2^13, or its multiplications for the first batch over 2^20).
    `product`: at every so many blocks, the bound of λ by worst-case constants, of the network in eval mode.
    `active_rows`, `subspace` (n_1, k): the least gain of W is taken over the support of ∂ℓ/∂b at each step, or over the
    span of the columns. `graph`: of the model, if it has been traced. `overwrite`: drop what is in the file.

    The singular values of W^t are computed at every step if W is small, else at some, and enclosed between by Weyl's
    inequality. Raises `TrajectoryError` or `ParameterError` for wrong arguments. What refuses later (a layer that
    cannot be watched, or is replaced or converted; steps of another optimizer; at the first pass a file that exists
    while no state was loaded) is warned of once and ends the recording, not the training; `strict` raises it.
    `state_dict` and `load_state_dict` are as in torch: kept with a checkpoint, the run resumes its file.
    """

    @staticmethod
    def _trace(
        model: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any], output: str | int | None
    ) -> ComputationGraph:
        """The graph of a model in train mode, without the advice to call eval()."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return trace(model, args, kwargs, output=output)
