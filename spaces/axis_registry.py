"""The axes that there are: the one place that names karui's own."""

from __future__ import annotations

from typing import Any

from .registry import Registry

AXES: Registry[Any] = Registry(
    "karui.axes",
    {
        "students": "karui.spaces.axes.students.axis:StudentsAxis",
        "cells": "karui.spaces.axes.cells.axis:CellsAxis",
        "stages": "karui.spaces.axes.stages.axis:StagesAxis",
        "sparsity": "karui.spaces.axes.sparsity.axis:SparsityAxis",
        "bits": "karui.spaces.axes.bits.axis:BitsAxis",
        "exits": "karui.spaces.axes.exits.axis:ExitsAxis",
    },
)
"""Every axis by the name of its section in a study file, in the order in which they choose and act: networks first,
then what is done to a network, then what is done to its file. :func:`karui.spaces.axes.axis.all_axes` tells their
type."""
