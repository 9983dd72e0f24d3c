"""Which groups of tied layers can lose channels so that the network stays right."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from .channel_graph import NOT_RUN, ONE_CHANNEL, OUTPUT, ChannelGraph, Renaming, TiedChannels, trace_channels
from .heads import HEADS, Heads
from .narrowing import Removal, followed
from .tracing import Split
from .verification import Verification

_RENAMINGS: tuple[Renaming, ...] = ("holders", "below")
_SPLITS: tuple[Split, ...] = ("wholes", "places", "counts")


@dataclass(frozen=True)
class Removable:
    """What of a network can be narrowed.

    Args:
        tied: The groups of layers that can lose channels.
        layers: Names of all convolutions and linear layers, in the network's order.
        reasons: Why the others keep all of theirs, by name.
        verification: By which removals are checked.
    """

    tied: tuple[TiedChannels, ...]
    layers: tuple[str, ...]
    reasons: dict[str, str]
    verification: Verification

    def spared(self) -> dict[str, str]:
        """Return the layers that keep channels for another reason than that there are none to lose, and the reason."""
        return {name: why for name, why in self.reasons.items() if why not in (OUTPUT, ONE_CHANNEL, NOT_RUN)}

    def tried(self) -> Removable:
        """Return what is left where every group has lost half of its units in a trial."""
        removals, failures = without_failing(self.verification, [(tied, _half(tied)) for tied in self.tied])
        tied = tuple(tied for tied, removed in removals if removed)
        reasons = self.reasons | failures
        return replace(self, tied=tied, reasons={name: reasons[name] for name in self.layers if name in reasons})


def find_removable(network: nn.Module, example: Tensor) -> Removable:
    """Return what of a network can be narrowed, as its operators tell.

    Where channels are split into parts, how the code means them is tried: whether whole parts can go, as heads of an
    attention do, or the same places of all parts, as in a channel shuffle.

    Args:
        network: Put into evaluation mode.
        example: A batch of inputs, shape (n, *input_shape).
    """
    verification = Verification(network, example)
    graph = trace_channels(network, example, _SPLITS[0])
    if not graph.has_splits:
        return Removable(graph.tied, graph.layers, graph.fixed, verification)
    graphs = [graph, *(trace_channels(network, example, split) for split in _SPLITS[1:])]
    tied: list[TiedChannels] = []
    reasons: dict[str, str] = {}
    for each in graphs:
        _add(tied, reasons, each, verification, graphs[-1].heads)
    tied = [group for group in tied if not group.is_split] + [group for group in tied if group.is_split]
    reached = {name for group in tied for name in group.layers}
    left = {name: reasons[name] for name in graph.layers if name not in reached}
    return Removable(tuple(tied), graph.layers, left, verification)


def _add(
    tied: list[TiedChannels], reasons: dict[str, str], graph: ChannelGraph, verification: Verification, heads: Heads
) -> None:
    """Add the groups of one reading of the splits that are right, where their layers have none yet."""
    for name, reason in graph.fixed.items():
        reasons.setdefault(name, reason)
    taken = {name for group in tied for name in group.layers}
    fresh = [group for group in graph.tied if taken.isdisjoint(group.layers)]
    for group in [group for group in fresh if any(heads.are_split_by(unit) for unit in group.units)]:
        fresh.remove(group)
        reasons |= dict.fromkeys(group.layers, HEADS)
    tied += [group for group in fresh if not group.is_split]
    guessed = [(group, _half(group)) for group in fresh if group.is_split]
    right, failures = without_failing(verification, guessed)
    tied += [group for group, removed in right if removed]
    reasons |= failures


def without_failing(verification: Verification, removals: Sequence[Removal]) -> tuple[list[Removal], dict[str, str]]:
    """Return the removals, none of those groups with which the network is not right, and why, by layer.

    Args:
        verification: By which they are checked.
        removals: Groups and the units that go of each. Numbers among attributes follow where one fails otherwise.
    """
    alone: dict[int, TiedChannels] = {}
    failures: dict[int, str] = {}
    right = _right(verification, list(removals), range(len(removals)), alone, failures)
    outcome: list[Removal] = []
    for number, (tied, removed) in enumerate(removals):
        outcome.append((alone.get(number, tied), removed if number in right else []))
    told = {name: reason for number, reason in failures.items() for name in removals[number][0].layers}
    return outcome, told


def _right(
    verification: Verification,
    removals: list[Removal],
    numbers: Sequence[int],
    alone: dict[int, TiedChannels],
    failures: dict[int, str],
) -> list[int]:
    """Return which of these groups can go together; halves are searched where they cannot."""

    def failure(of: Sequence[int]) -> str | None:
        chosen = [(alone.get(number, removals[number][0]), removals[number][1]) for number in of]
        chosen = [(tied, removed) for tied, removed in chosen if removed]
        return verification.failure(chosen) if chosen else None

    reason = failure(numbers)
    if reason is None:
        return list(numbers)
    for renamed in _renamings(verification.network, removals, numbers):
        before = {number: alone.get(number) for number in numbers}
        alone |= {number: removals[number][0].with_renaming(renamed) for number in numbers}
        if failure(numbers) is None:
            return list(numbers)
        for number, group in before.items():
            alone.pop(number) if group is None else alone.update({number: group})
    if len(numbers) == 1:
        failures[numbers[0]] = reason
        return []
    middle = len(numbers) // 2
    first = _right(verification, removals, numbers[:middle], alone, failures)
    second = _right(verification, removals, numbers[middle:], alone, failures)
    if not first or not second or failure([*first, *second]) is None:
        return [*first, *second]
    # each half is right but not both: one after the other, as long as it goes well
    kept = list(first)
    for number in second:
        why = failure([*kept, number])
        if why is None:
            kept.append(number)
        else:
            failures[number] = why
    return kept


def _renamings(network: nn.Module, removals: list[Removal], numbers: Sequence[int]) -> Sequence[Renaming]:
    """Return how far numbers are worth following: of all groups at once, or of one, where that changes any of them."""
    if len(numbers) > 1:
        return _RENAMINGS[:1] if len(numbers) == len(removals) else ()
    tied, removed = removals[numbers[0]]
    counts = {each: len(followed(network, tied.with_renaming(each), removed)) for each in _RENAMINGS}
    return [each for each, count in counts.items() if count > (counts["holders"] if each == "below" else 0)]


def _half(tied: TiedChannels) -> list[int]:
    """Return half of the units, chosen without order: what counts on an order may not pass by chance."""
    generator = torch.Generator().manual_seed(len(tied.units))
    order = torch.randperm(len(tied.units), generator=generator).tolist()
    return sorted(order[: max(1, len(order) // 2)])
