"""The baseline of a study on several machines: the first one's weights and measurements are everybody's."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import optuna

from ... import __version__
from ...errors import KaruiError, OutputError
from ...evaluators.measurement import Measurement
from ...search.turns import Turns
from ...spaces.artifact import BASELINE_FILE, EXPORTED_ANEW, Artifact, file_digest
from .shared_files import SharedFiles
from .study_notes import digest_begun, note_baseline, read_baseline, version_begun

_ATTRIBUTE = "baseline_weights"


def noted_weights(study: optuna.Study) -> str | None:
    """Return the SHA-256 of the weights file that the study's searches share; None where they share none."""
    digest: str | None = study.user_attrs.get(_ATTRIBUTE)
    return digest


@dataclass(frozen=True)
class SharedBaseline:
    """The trained weights of a baseline, which every machine takes from the one that trained them first.

    Args:
        study: The study, which knows them by their digest.
        files: Where they are kept.
        path: Where they are in this machine's results folder.
        turns: How searches that share the study take turns.
    """

    study: optuna.Study
    files: SharedFiles
    path: Path
    turns: Turns

    def prepare(self, make: Callable[[], Artifact]) -> Artifact:
        """Return the baseline's file, made of the study's weights, or of this machine's where it has none yet.

        Args:
            make: Makes that file of the weights at ``path``, which it trains where there are none.

        Raises:
            OutputError: Where the study's weights cannot be had, or this machine's cannot be kept.
        """
        self._fetch()
        artifact = make()
        with self.turns():
            known = read_baseline(self.study)
            if known is not None and known[0] != artifact.digest:
                return artifact  # not this study's baseline: that is for others to tell
            if self._share():
                return artifact
        # Another machine has trained at the same time, and was first.
        self._fetch()
        return make()

    def _fetch(self) -> None:
        digest = noted_weights(self.study)
        if digest is None or (self.path.exists() and file_digest(self.path) == digest):
            return
        if not self.files.fetch(digest, self.path):
            raise OutputError(
                "the trained baseline of this study is not in the artifacts location",
                where=self.files.location,
                expected=f"a file of sha256 {digest}",
                got="no such file",
                remedy="give the --artifacts that the study began with, or go on where it was trained",
            )

    def _share(self) -> bool:
        """Give these weights to the study unless it has others; say whether they are the study's."""
        digest, noted = file_digest(self.path), noted_weights(self.study)
        if noted not in (None, digest):
            return False
        self.files.keep(self.path, digest)
        if noted is None:
            self.study.set_user_attr(_ATTRIBUTE, digest)
        return True


def check_same_baseline(study: optuna.Study, artifact: Artifact, folder: Path) -> None:
    """Refuse a baseline that is not the file that the study began with, where it has begun.

    Where that file is in the results folder it stays the baseline for as long as the model computes the same; where it
    is not, a version of karui that exports the same model otherwise cannot be told from another model.

    Args:
        study: The study.
        artifact: What :func:`~karui.spaces.building.baseline.prepare_baseline` returned.
        folder: The results folder.

    Raises:
        KaruiError: Where it is another one.
    """
    known = digest_begun(study)
    if known in ("", artifact.digest):
        return
    was_compared = artifact.path.name == EXPORTED_ANEW
    if was_compared:
        artifact.path.unlink(missing_ok=True)
    begun = version_begun(study)
    otherwise = f", or karui {__version__} exports it otherwise than {begun} did"
    shared = "give the --artifacts that the study began with, " if noted_weights(study) is not None else ""
    kept = "" if was_compared else f" or the {BASELINE_FILE} of then, go on with {begun}"
    raise KaruiError(
        f"the task's model is not the one that this study began with{'' if was_compared else otherwise}",
        where=str(folder),
        expected=f"a baseline file of sha256 {known[:16]}…",
        got=f"sha256 {artifact.digest[:16]}…{', which answers otherwise' if was_compared else ''}",
        remedy=f"{shared}restore the model{kept}, or start anew with another --out",
    )


def agreed_baseline(
    study: optuna.Study, digest: str, measure: Callable[[], Mapping[str, Measurement]], turns: Turns
) -> tuple[str, dict[str, Measurement]]:
    """Return digest and measurements of the baseline that the study began with, in whatever search.

    Args:
        study: The study.
        digest: SHA-256 of this machine's baseline file.
        measure: Measures it; called where no search has measured the baseline yet.
        turns: How searches that share the study take turns.
    """
    known = read_baseline(study)
    if known is None:
        measured = measure()
        with turns():
            known = read_baseline(study)  # two may have measured at the same time
            if known is None:
                note_baseline(study, digest, measured)
                known = digest, dict(measured)
    return known
