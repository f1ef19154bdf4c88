"""What the command line shows: the table of networks, as wide as a hundred columns allow."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from rich.box import SIMPLE_HEAD
from rich.table import Table

from covergraph.bound.certificate import Certificate
from covergraph.report.frames import failing_samples, paper_value
from covergraph.report.numbers import DASH, confidence, percent, plain, samples


@dataclass(frozen=True)
class Row:
    """A network with its certificate, its errors (None: not known) and the seconds that it took."""

    name: str
    certificate: Certificate
    train_error: float | None
    test_error: float | None
    seconds: float


def comparison_table(rows: Sequence[Row]) -> Table:
    """One column a network, one line a quantity."""
    worst = min((row.certificate for row in rows), key=lambda c: c.confidence)
    starts = ", random starts included" if worst.delta_numeric else ""
    table = Table(
        title=f"Certificates, each with probability at least {confidence(worst.delta, worst.delta_numeric)}{starts}",
        caption="vacuous: an error rate never exceeds 1. Lines with hidden constants 1 claim no validity.",
        title_justify="left",
        caption_justify="left",
        box=SIMPLE_HEAD,
    )
    table.add_column("network", no_wrap=True)
    for row in rows:
        table.add_column(row.name, justify="right")
    for name, cells in _lines(rows):
        table.add_row(name, *cells)
    return table


def _lines(rows: Sequence[Row]) -> list[tuple[str, list[str]]]:
    certificates = [row.certificate for row in rows]
    return [
        ("train error", [_error(row.train_error) for row in rows]),
        ("test error", [_error(row.test_error) for row in rows]),
        ("samples n", [str(c.n) for c in certificates]),
        *_failing(certificates),
        ("mean of z̃ on the sample", [plain(c.training, 3, "up") for c in certificates]),
        ("C/√n (log10)", [f"{plain(c.normalized, 3, 'up')} ({c.log10:.2f})" for c in certificates]),
        ("certificate", [_certificate(c) for c in certificates]),
        ("n at which it reaches 1", [samples(c.samples_needed) for c in certificates]),
        ("Theorem 5.1, hidden constants 1", [_theorem(c) for c in certificates]),
        ("product of Lipschitz const., C/√n", [_power(c, c.product.log10) for c in certificates]),
        ("the same, hidden constants 1", [_power(c, c.product.log10_unit) for c in certificates]),
        ("seconds", [f"{row.seconds:.1f}" for row in rows]),
    ]


def _failing(certificates: Sequence[Certificate]) -> list[tuple[str, list[str]]]:
    """Samples with z̃ = 1 because a condition fails, if some network has conditions."""
    if not any(c.bound.augmented.conditions for c in certificates):
        return []
    cells = [str(failing_samples(c.measurements)) if c.bound.augmented.conditions else DASH for c in certificates]
    return [("samples that fail a condition", cells)]


def _error(value: float | None) -> str:
    return DASH if value is None else percent(value)


def _certificate(c: Certificate) -> str:
    return f"{plain(c.value, 4, 'up')}, {'vacuous' if c.vacuous else 'not vacuous'}"


def _theorem(c: Certificate) -> str:
    theorem = paper_value(c, "Theorem 5.1")
    return f"{DASH} ({theorem.note})" if theorem.value is None else plain(theorem.value, 3)


def _power(c: Certificate, log10: float | None) -> str:
    if log10 is None:
        return f"{DASH} ({c.product.reason})"
    return f"{plain(10.0**log10, 3)} ({log10:.2f})" if log10 < 300 else f"1e{log10:.2f}"
