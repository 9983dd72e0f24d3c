"""What each axis does to each network of the zoo: ``python -m tests.zoo.table [NAME or TREATMENT ...]``.

Prints the tables of ``benchmarks/results/zoo.md``; what comes of each goes to standard error as it is found.
"""

from __future__ import annotations

import sys
import tempfile
import time
import warnings
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from .animals import ZOO
from .case import Case, Wrong
from .judge import TREATMENTS, judge
from .published import PUBLISHED

KINDS = ("right", "spared", "refused", "nothing to do", "wrong", "bare exception")
LONGEST_REASON = 160

Outcomes = dict[str, dict[str, tuple[str, str]]]
"""For each network and treatment, what came of it and the words beside it."""


def outcomes(names: list[str], treatments: list[str]) -> Outcomes:
    """Judge these treatments of these networks; of what cannot be exported, nothing else is tried."""
    found: Outcomes = {}
    for name in names:
        with tempfile.TemporaryDirectory() as folder:
            case, found[name] = Case({**ZOO, **PUBLISHED}[name], Path(folder)), {}
            for treatment in treatments:
                begin = time.process_time()
                kind, words = found[name][treatment] = outcome(case, treatment)
                seconds = time.process_time() - begin
                print(f"{name} | {treatment} | {kind} | {seconds:.2f} s | {words[:400]}", file=sys.stderr, flush=True)
                if treatment == "export" and kind != "right":
                    break
    return found


def outcome(case: Case, treatment: str) -> tuple[str, str]:
    try:
        verdict = judge(case, treatment)
    except Wrong as wrong:
        return "wrong", str(wrong)
    except Exception as error:  # what the zoo is there to find
        return "bare exception", " ".join(f"{type(error).__name__}: {error}".split())
    level = "" if verdict.level_db is None else f"{verdict.level_db:.0f} dB "
    return verdict.kind, level + " ".join("; ".join(verdict.words).split())


def markdown(found: Outcomes, treatments: list[str]) -> Iterator[str]:
    """Yield the lines of two tables: how many networks each axis treats how, and why it refuses or spares."""
    yield f"| axis | {' | '.join(KINDS)} |"
    yield f"|---|{'---:|' * len(KINDS)}"
    for treatment in treatments:
        counts = Counter(per[treatment][0] for per in found.values() if treatment in per)
        yield f"| {treatment} | {' | '.join(str(counts[kind] or '') for kind in KINDS)} |"
    yield ""
    yield "| network | axis | what | why |"
    yield "|---|---|---|---|"
    for name, per in found.items():
        for treatment, (kind, words) in per.items():
            if kind not in ("right", "nothing to do"):
                reason = words if len(words) <= LONGEST_REASON else f"{words[:LONGEST_REASON]} ..."
                yield f"| {name} | {treatment} | {kind} | {reason.replace('|', '/')} |"


def main() -> None:
    warnings.simplefilter("ignore")
    names = [name for name in {**ZOO, **PUBLISHED} if name in sys.argv] or list(ZOO)
    treatments = [treatment for treatment in TREATMENTS if treatment in sys.argv] or list(TREATMENTS)
    found = outcomes(names, treatments)
    print(f"{len(found)} networks, random weights. `python -m tests.zoo.table` makes these tables; "
          "`tests/zoo/judge.py` says what is called right.\n")  # fmt: skip
    print("\n".join(markdown(found, treatments)))


if __name__ == "__main__":
    main()
