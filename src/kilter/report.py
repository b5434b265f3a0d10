"""`report.html`: one self-contained page made from a run directory's files alone, with no torch and no network."""

from __future__ import annotations

from pathlib import Path

from kilter import runs
from kilter.reporting import files
from kilter.reporting.page import page

NAME = "report.html"


def write(run_folder: Path) -> Path:
    """Make `report.html` in a run directory, whole or not at all; a partial run has a partial report that says so."""
    run_folder = Path(run_folder)
    path = run_folder / NAME
    runs.write_text(path, str(page(files.load(run_folder))))
    return path
