"""What each axis does to each network of the zoo, as a table: ``python -m tests.zoo.table [NAME or TREATMENT ...]``."""

from __future__ import annotations

import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

from .animals import ZOO
from .judge import TREATMENTS, Case, Wrong, judge
from .published import PUBLISHED


def outcomes(names: list[str], treatments: list[str]) -> dict[str, dict[str, tuple[str, str]]]:
    """Return, for each network and treatment, what came of it and the words beside it."""
    found: dict[str, dict[str, tuple[str, str]]] = {}
    for name in names:
        with tempfile.TemporaryDirectory() as folder:
            case, found[name] = Case({**ZOO, **PUBLISHED}[name], Path(folder)), {}
            for treatment in treatments:
                begin = time.process_time()
                found[name][treatment] = outcome(case, treatment)
                kind, words = found[name][treatment]
                print(
                    f"{name} | {treatment} | {kind} | {time.process_time() - begin:.2f} s | {words[:300]}",
                    file=sys.stderr,
                    flush=True,
                )
                if treatment == "export" and kind != "right":
                    break
    return found


def outcome(case: Case, treatment: str) -> tuple[str, str]:
    try:
        verdict = judge(case, treatment)
    except Wrong as wrong:
        return "WRONG", str(wrong)
    except Exception as error:  # what the zoo is there to find
        return "BARE", f"{type(error).__name__}: {error}".replace("\n", " ")
    level = "" if verdict.level_db is None else f"{verdict.level_db:.0f} dB "
    return verdict.kind, level + "; ".join(verdict.words).replace("\n", " ")


def main() -> None:
    names = [name for name in {**ZOO, **PUBLISHED} if name in sys.argv] or list(ZOO)
    treatments = [treatment for treatment in TREATMENTS if treatment in sys.argv] or list(TREATMENTS)
    found = outcomes(names, treatments)
    kinds = ("right", "spared", "refused", "nothing to do", "WRONG", "BARE")
    print("| axis | " + " | ".join(kinds) + " |")
    print("|---|" + "---|" * len(kinds))
    for treatment in treatments:
        counts = Counter(per[treatment][0] for per in found.values() if treatment in per)
        print(f"| {treatment} | " + " | ".join(str(counts[kind]) for kind in kinds) + " |")


if __name__ == "__main__":
    main()
