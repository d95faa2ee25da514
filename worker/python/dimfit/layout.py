"""What the rows of each slot look like, and what the cluster is doing: plain values."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

import numpy as np


@dataclass(frozen=True)
class Slot:
    """One slot of a layout: a stored row r stands for the embedding v = mean + r @ basis.T."""

    id: int
    dim: int  #: width of the model's embeddings, fixed
    width: int  #: width of the stored rows, at most dim
    basis: np.ndarray = field(repr=False)  #: float32 (dim, width), orthonormal columns, read only
    mean: np.ndarray = field(repr=False)  #: float32 (dim,), read only
    name: str
    search: bool  #: False: no search ever changes it
    tier_widths: tuple[int, ...]  #: of rows by popularity, the tail first; one: it has no tiers


class Layout(Mapping):
    """Slots by id, ascending, of one epoch. A copy: it stays what it was when a new one comes."""

    def __init__(self, epoch: int, slots: Mapping[int, Slot]) -> None:
        self.epoch = epoch
        self._slots = dict(slots)

    def __getitem__(self, slot: int) -> Slot:
        return self._slots[slot]

    def __iter__(self) -> Iterator[int]:
        return iter(self._slots)

    def __len__(self) -> int:
        return len(self._slots)

    def __repr__(self) -> str:
        return f"Layout(epoch={self.epoch}, slots={list(self._slots.values())})"


@dataclass(frozen=True)
class State:
    """What the newest reply of the cluster said."""

    #: "idle", "scoring", "planning", "planned", "preparing", "committed", "aborted", "rolled back",
    #: "compared"
    phase: str
    scoring: bool  #: a search wants scores
    frozen: bool  #: training is held while it does
    epoch: int


@dataclass(frozen=True)
class Trial:
    """A layout change to evaluate that nobody makes: see Client.trial_next()."""

    search: int
    number: int
    samples: int  #: to evaluate on, or as many as there are
    slots: tuple[int, ...]  #: whose rows it changes, ascending
