"""Turn torch models into graphs; installed as ``covergraph.tracers``."""

from __future__ import annotations

# Imported as top-level `tracers`, every class would exist twice and isinstance checks would fail far from here.
if not __name__.startswith("covergraph."):
    raise ImportError(f"imported as {__name__!r}, expected 'covergraph.tracers': write `import covergraph.tracers`")

from covergraph.graph.evaluation import as_module
from covergraph.tracers.tracing import TraceReport, trace, trace_report

__all__ = ["TraceReport", "as_module", "trace", "trace_report"]
