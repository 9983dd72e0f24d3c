"""From a study to its report: the call behind ``karui report``."""

from __future__ import annotations

from pathlib import Path

from ...errors import OutputError, without_secrets
from ..results.read import find_results
from ..storage.folder import check_name, explain_os_errors, followed, write_atomically
from .content import page_content
from .material import read_material, report_folder
from .page import render_page
from .pictures import save_pictures


def write_report(
    study: str | Path,
    *,
    out: str | Path | None = None,
    storage: str | None = None,
    to: str | Path | None = None,
) -> list[Path]:
    """Write the report of a study, and return the paths of what was written: the page, then its plots as pictures.

    It may be written while the search runs, and where no candidate keeps the bounds; it says so then.

    Args:
        study: Path of a study file, name of a bundled study, or a results folder.
        out: The results folder, where it was given to the search.
        storage: URL of Optuna's storage, where it was given to the search.
        to: The page; ``report.html`` in the results folder where left out. Pictures go to a folder of the same name
            beside it.

    Raises:
        OutputError: Where there are no results yet, or the report cannot be written.
    """
    results = find_results(study, out, storage)
    material = read_material(results)
    if not material.baseline:
        raise OutputError(
            "the baseline was not measured yet, so there is nothing to report",
            where=str(results.folder.path),
            remedy="run the search for a little longer",
        )
    page = Path(to) if to is not None else results.folder.path / "report.html"
    check_name(page, "page", "another --to")
    if page.is_dir() or not page.suffix:  # the pictures go to a folder of the page's name without its suffix
        raise OutputError(
            "the page cannot be written there",
            where=str(page),
            expected="the name of a file that ends in .html",
            got="a folder" if page.is_dir() else "a name without an ending",
            remedy="give another --to, such as report.html",
        )
    content = page_content(material, pick_command(study, out, storage))
    with explain_os_errors(page, "report", "another --to"):
        write_atomically(followed(page), render_page(content).encode())
    return [page, *save_pictures(report_folder(page), material, content)]


def pick_command(study: str | Path, out: str | Path | None, storage: str | None) -> list[str]:
    """Return how ``karui pick`` is called for the same results; passwords are left out of what others may read."""
    command = ["karui", "pick", str(study)]
    if out is not None:
        command += ["--out", str(out)]
    if storage is not None:
        command += ["--storage", without_secrets(storage)]
    return command
