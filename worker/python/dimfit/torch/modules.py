"""Modules whose rows live on the shards."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from ..errors import Error
from ..layout import Slot
from .shards import Shards


class _Rows(nn.Module):
    """A slot's rows and, in the compact view, the transform v = mean + r W of this module's own.

    It starts as the layout's, W = M^T. A layout with basis M', mean m' after one with M, m has rows
    r' = (v - m') M' of what the old ones stood for, so that W' = M'^T A and mean' = mean + (m' - m) A
    with A = M W + (I - M M^T) keep the function for all that the new basis holds; a direction that
    the old one lacks is passed on as it is.

    The parameter `transform` is (dim, dim), of which W is the first rows, as many as rows are wide,
    and the others are 0 and of no effect: a width that changes is no new parameter, so that
    optimizers and whoever else holds it go on with it.
    """

    def __init__(self, shards: Shards, slot: int, dim: int | None = None, **settings: Any) -> None:
        """slot: its id. dim and settings (optimizer, lr, init, ...: Client.declare()) are for slots
        that the cluster does not have yet.

        Raises dimfit.Error: UNKNOWN_SLOT where the cluster takes no new slots, WIDTH for another dim.
        """
        super().__init__()
        self.shards = shards
        self.slot = int(slot)
        if self.slot not in shards.client.layout() or dim is not None:
            shards.client.declare({self.slot: {"dim": dim, **settings}})
        layout = shards.client.layout()
        spec = layout[self.slot]
        self.embedding_dim = spec.dim
        self._epoch = layout.epoch
        self._batch = 0  # the last one that uses the transform in its graph
        if shards.view == "compact":
            basis = _padded(spec.basis)
            self.transform = nn.Parameter(basis.T.contiguous())
            self.register_buffer("mean", torch.from_numpy(spec.mean.copy()))
            self.register_buffer("basis", basis)
            self.register_buffer("origin", torch.from_numpy(spec.mean.copy()))
            self.register_buffer("width", torch.tensor(spec.width))

    def extra_repr(self) -> str:
        return f"slot={self.slot}, dim={self.embedding_dim}, view={self.shards.view!r}"

    def follow(self) -> bool:
        """Carry the transform over to the client's layout, if that is another. True if it was.

        Raises dimfit.Error: STALE_EPOCH where a batch under way has used the old one.
        """
        if self.shards.view != "compact" or self._epoch == self.shards.client.epoch:
            return False
        if self._batch == self.shards.batch:
            raise Error(
                "STALE_EPOCH",
                f"slot {self.slot}: the layout has changed within a batch that looks it up more than "
                "once; drop its gradients (zero_grad) and compute it again, or prefetch() it",
            )
        layout = self.shards.client.layout()
        self._carry(layout[self.slot])
        self._epoch = layout.epoch
        return True

    def _carry(self, to: Slot) -> None:
        def double(tensor: torch.Tensor) -> np.ndarray:
            return tensor.detach().cpu().numpy().astype(np.float64)

        M, W, mean, origin = map(double, (self.basis, self.transform, self.mean, self.origin))
        basis = _padded(to.basis)
        if np.array_equal(M, basis.numpy()) and np.array_equal(origin, to.mean):
            return
        A = M @ W + np.eye(to.dim) - M @ M.T
        with torch.no_grad():
            self.transform.copy_(torch.from_numpy(basis.numpy().T @ A))
            self.mean.copy_(torch.from_numpy(mean + (to.mean - origin) @ A))
            self.basis.copy_(basis)
            self.origin.copy_(torch.from_numpy(to.mean.copy()))
            self.width.fill_(to.width)
        self.transform.grad = None
        self.shards.replaced(self.transform)

    def _load_from_state_dict(self, *state: Any) -> None:
        """Of whatever layout it was saved in: the next lookup carries it over."""
        super()._load_from_state_dict(*state)
        self._epoch = -1

    def _rows(self, keys: torch.Tensor) -> torch.Tensor:
        """(n, width): embeddings or, compact, stored rows that _embed() makes some."""
        rows = self.shards.lookup(self.slot, keys)
        self.follow()
        if torch.is_grad_enabled():
            self._batch = self.shards.batch
        return rows

    def _embed(self, rows: torch.Tensor, weight: torch.Tensor | None = None) -> torch.Tensor:
        """weight (n, 1): how many rows, each with the mean, were summed up; None: one."""
        if self.shards.view == "full":
            return rows
        mean = self.mean if weight is None else weight * self.mean
        return rows @ self.transform[: rows.shape[1]] + mean


class Embedding(_Rows):
    """A slot's embeddings, as nn.Embedding: feasigns (...), int64, to float32 (..., dim)."""

    def forward(self, keys: torch.Tensor) -> torch.Tensor:
        rows = self._embed(self._rows(keys))
        return rows.reshape(*keys.shape, self.embedding_dim)


class EmbeddingBag(_Rows):
    """Sums, means or maxima of a slot's embeddings, as nn.EmbeddingBag: feasigns (bags, n), or (n,)
    with the bags' offsets (bags,), to float32 (bags, dim). An empty bag gives 0."""

    def __init__(
        self, shards: Shards, slot: int, mode: str = "mean", dim: int | None = None, **settings: Any
    ) -> None:
        if mode not in ("sum", "mean", "max"):
            raise Error("INVALID", f"mode {mode!r} is none of 'sum', 'mean', 'max'")
        super().__init__(shards, slot, dim, **settings)
        self.mode = mode

    def forward(
        self,
        keys: torch.Tensor,
        offsets: torch.Tensor | None = None,
        per_sample_weights: torch.Tensor | None = None,
    ) -> torch.Tensor:
        if keys.dim() == 2 and offsets is None:
            bags, n = keys.shape
            offsets = torch.arange(0, bags * n, max(n, 1), device=keys.device)[:bags]
            if n == 0:
                offsets = torch.zeros(bags, dtype=torch.int64, device=keys.device)
        elif keys.dim() != 1 or offsets is None:
            raise Error("INVALID", "feasigns are (bags, n), or (n,) with offsets")
        if per_sample_weights is not None:
            per_sample_weights = per_sample_weights.reshape(-1)
        at = torch.arange(keys.numel(), device=keys.device)

        def pool(rows: torch.Tensor) -> torch.Tensor:
            return F.embedding_bag(
                at, rows, offsets, mode=self.mode, per_sample_weights=per_sample_weights
            )

        rows = self._rows(keys)
        if self.shards.view == "full":
            return pool(rows)
        if self.mode == "max":  # does not commute with the transform
            return pool(self._embed(rows))
        return self._embed(pool(rows), pool(rows.new_ones(len(rows), 1)))


def _padded(basis: np.ndarray) -> torch.Tensor:
    """(dim, width) with columns of 0 up to (dim, dim)."""
    dim, width = basis.shape
    out = torch.zeros(dim, dim)
    out[:, :width] = torch.from_numpy(basis.copy())
    return out
