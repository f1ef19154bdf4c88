"""What can go wrong, and what to do about it.

Every message shows the value that was met, what was expected, and a remedy; where a network is concerned it
names the node or the module path.
"""

from __future__ import annotations


class CovergraphError(Exception):
    """Base class of every error that covergraph raises on purpose."""


class UnsupportedOperationError(CovergraphError):
    """An operation has no rule; it is refused by name, never skipped."""


class TracingError(CovergraphError):
    """The model could not be turned into a faithful computational graph."""


class BatchMixingError(TracingError):
    """An operation mixes the samples of a batch, or behaves differently in train mode."""


class GraphError(CovergraphError):
    """A graph violates an invariant of its type."""


class MissingPairError(CovergraphError):
    """A Jacobian norm is read whose pair is not in P: it is unbounded, never 0."""


class NonFiniteError(CovergraphError):
    """A value is NaN or infinite."""


class EmptyLoaderError(CovergraphError):
    """A loader yields no sample."""


class RepetitionError(CovergraphError):
    """Samples come again, more often than chance explains."""


class LoaderChangedError(CovergraphError):
    """A loader yields different samples in two passes."""


class LabelError(CovergraphError):
    """A label does not fit the output of the network."""


class ForeignModelError(CovergraphError):
    """A model is not the one that was traced or measured."""


class MarginError(CovergraphError):
    """No sample has a positive margin, so no margin loss is informative."""


class ParameterError(CovergraphError):
    """A parameter of the bound is missing or out of range."""


class CheckpointError(CovergraphError):
    """A checkpoint is damaged, or belongs to another run."""


class ProcessError(CovergraphError):
    """Processes that measure together do not agree, or one of them ended."""


class TrajectoryError(CovergraphError):
    """A training run cannot be watched, or a recorded one cannot be read, as asked."""
