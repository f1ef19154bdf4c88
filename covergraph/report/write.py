"""The folder that holds a report: LaTeX, pictures, tables, and the PDF where TeX is installed."""

from __future__ import annotations

import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

from covergraph.bound.certificate import Certificate
from covergraph.report.document import REPORT_LIMIT, document
from covergraph.report.drawing import draw
from covergraph.report.frames import contributions_frame, measurements_frame
from covergraph.report.plots import plot_certificate, plot_jacobian_norms

PICTURES = ("graph.pdf", "graph.png", "certificate.png", "jacobians.png")
FILES = ("report.tex", *PICTURES, "contributions.csv", "measurements.csv")


@dataclass(frozen=True)
class Report:
    """The files of a report; `pdf` is None if it was not made, and `note` says why."""

    files: tuple[Path, ...]
    pdf: Path | None
    note: str = ""


def write_report(
    certificate: Certificate, folder: str | Path, pdf: bool = True, title: str = "A generalization certificate"
) -> Report:
    """Write report.tex, the pictures and the tables into `folder`, and compile it if TeX is installed."""
    target = Path(folder)
    target.mkdir(parents=True, exist_ok=True)
    drawing = draw(certificate.bound.augmented, limit=REPORT_LIMIT)
    drawing.savefig(target / "graph.pdf", metadata={"CreationDate": None})
    drawing.savefig(target / "graph.png", dpi=150)
    plot_certificate(certificate).savefig(target / "certificate.png", dpi=200)
    plot_jacobian_norms(certificate).savefig(target / "jacobians.png", dpi=120)
    contributions_frame(certificate).to_csv(target / "contributions.csv", index=False)
    measurements_frame(certificate).to_csv(target / "measurements.csv", index=False)
    (target / "report.tex").write_text(document(certificate, title), encoding="utf-8")
    files = tuple(target / name for name in FILES)
    made, note = _compile(target) if pdf else (None, "")
    return Report(files, made, note)


def _compile(folder: Path) -> tuple[Path | None, str]:
    """Run TeX until the widths of tables are settled; say plainly what is missing or fails."""
    program = shutil.which("pdflatex")
    if program is None:
        return None, "TeX is not installed (no pdflatex): report.tex is there, without a PDF"
    command = [program, "-interaction=nonstopmode", "-halt-on-error", "report.tex"]
    for _ in range(4):
        done = subprocess.run(
            command, cwd=folder, capture_output=True, text=True, errors="replace", timeout=120, check=False
        )
        if done.returncode:
            return None, f"pdflatex failed: {_first_error(done.stdout)} (see {folder / 'report.log'})"
        if "Rerun" not in done.stdout:
            break
    (folder / "report.aux").unlink(missing_ok=True)
    return folder / "report.pdf", ""


def _first_error(log: str) -> str:
    return next((line for line in log.splitlines() if line.startswith("!")), "no message")
