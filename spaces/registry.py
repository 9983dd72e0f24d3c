"""Registries: what karui has of a kind, and what other packages add through entry points."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import cached_property
from importlib.metadata import EntryPoint, entry_points
from typing import TypeVar

from ..errors import KaruiError

T = TypeVar("T")


class Registry(Mapping[str, T]):
    """Things of one kind by their names: karui's own, and those of installed packages.

    Karui's own are written as entry points are, ``package.module:name``, and loaded as those are: when they are first
    asked for. So nothing is imported for being registered, and a registry may stand below what it holds.

    Args:
        group: The group of entry points by which packages add to it, such as ``karui.axes``.
        own: Karui's own, by name: where each is.
    """

    def __init__(self, group: str, own: Mapping[str, str]) -> None:
        self.group = group
        self._own = dict(own)

    @cached_property
    def _places(self) -> dict[str, EntryPoint]:
        """Return where each one is: karui's own in their order, then those of packages, by name.

        Raises:
            KaruiError: Where two have one name.
        """
        places = {name: EntryPoint(name, place, self.group) for name, place in self._own.items()}
        for added in sorted(entry_points(group=self.group), key=lambda point: (point.name, point.value)):
            known = places.get(added.name)
            if known is not None and known.value != added.value:
                raise KaruiError(
                    f"two things are called {added.name!r} in the entry points {self.group!r}",
                    where=_source(added),
                    expected=f"a name that is not taken: {', '.join(places)} are",
                    got=f"{added.name} = {added.value}, beside {known.value}",
                    remedy="remove one of the two packages",
                )
            places[added.name] = added
        return places

    @property
    def names(self) -> tuple[str, ...]:
        """The names of all there are: karui's own first, in their order."""
        return tuple(self._places)

    @property
    def own(self) -> tuple[str, ...]:
        """The names of karui's own."""
        return tuple(self._own)

    @property
    def places(self) -> tuple[str, ...]:
        """Where karui's own are, ``package.module:name``, in their order."""
        return tuple(self._own.values())

    def __getitem__(self, name: str) -> T:
        """Return the one of that name.

        Raises:
            KeyError: Where there is none.
            KaruiError: Where the package that adds it cannot be loaded.
        """
        return self.all[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._places)

    def __len__(self) -> int:
        return len(self._places)

    @cached_property
    def all(self) -> dict[str, T]:
        """All there are, by name.

        Raises:
            KaruiError: Where a package that adds one cannot be loaded.
        """
        return {name: self._load(place) for name, place in self._places.items()}

    def _load(self, place: EntryPoint) -> T:
        try:
            loaded: T = place.load()
        except Exception as error:  # of a package that is not karui's, which may raise anything
            if place.name in self._own:
                raise
            raise KaruiError(
                f"the entry point {place.name!r} of {self.group!r} cannot be loaded",
                where=_source(place),
                expected=f"something to import as {place.value}",
                got=f"{type(error).__name__}: {error}",
                remedy="repair or remove that package",
            ) from error
        return loaded


def _source(place: EntryPoint) -> str:
    return f"package {place.dist.name}" if place.dist is not None else place.value
