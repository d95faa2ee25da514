"""What the modules of a model share: the client, a batch's gradients, searches answered."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np
import torch

from ..client import Call, Client
from ..errors import Error
from ..layout import Trial

#: Seconds between two looks for a trial, and after the coordinator did not answer one.
_ASK, _AWAY = 1.0, 10.0
_SILENCE = ("UNREACHABLE", "TIMEOUT", "MAYBE")


class _Lookup(torch.autograd.Function):
    """Pulled rows as a step of the graph: backward keeps their gradient for Shards.step()."""

    @staticmethod
    def forward(ctx: Any, anchor: torch.Tensor, rows: torch.Tensor, keep: Any) -> torch.Tensor:
        ctx.keep = keep
        return rows

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[None, None, None]:
        ctx.keep(gradient)
        return None, None, None


class _Ahead:
    """Rows that were sent for before they are looked up."""

    def __init__(self, client: Client, keys: dict[int, np.ndarray], view: str) -> None:
        self.keys = keys
        self._client, self._view = client, view
        self._call: Call | None = client.pull_async(keys, view=view)
        self._rows: dict[int, np.ndarray] = {}
        self._epoch = -1

    def has(self, slot: int, flat: np.ndarray) -> bool:
        return slot in self.keys and np.array_equal(self.keys[slot], flat)

    def take(self, slot: int) -> np.ndarray:
        """Once a slot."""
        if self._call is not None:
            self._wait()
        keys, rows = self.keys.pop(slot), self._rows.pop(slot)
        if self._view == "compact" and self._epoch != self._client.epoch:
            return self._client.pull({slot: keys}, view=self._view)[slot]
        return rows

    def _wait(self) -> None:
        call, self._call = self._call, None
        try:
            self._rows = dict(call.wait())
        except Error as error:
            if error.code != "STALE_EPOCH":
                raise
            self._rows = self._client.pull(self.keys, view=self._view)
        self._epoch = self._client.epoch


class _Tape:
    """The rows of a validation pass, in the order they were looked up: pulled once, used again."""

    def __init__(self) -> None:
        self.rows: list[np.ndarray] = []
        self.trial: Trial | None = None
        self.epoch = -1
        self.at = 0


class Shards:
    """A client's rows for the modules of one process.

    client: see dimfit.connect(). It is this object's: use another one elsewhere.
    view: "full", embeddings of the model's width whatever the cluster stores; "compact", rows as
    stored, behind a transform of each module's own that follows layout changes.

    A batch is: forward, which pulls; backward, which keeps dL/drow of all lookups; step(), which
    pushes them in one request a shard. Gradients of several backwards add up, as those of dense
    weights do.

    on_score, on_trial: set these to have step() answer searches between two batches.
        on_score(n) computes, of the n-th sample batch (from 1, on all workers the same one), the
        mean loss as a tensor, with gradients: returns (loss, samples), or None where there is none.
        on_trial(samples) evaluates the model on the first so many validation samples (or all there
        are), the same on all workers and each time: returns (mean log loss, AUC or None, samples).
        Both call the bare model: not one wrapped in DistributedDataParallel.
    Without on_score a search that freezes training makes step() wait for it.
    """

    def __init__(self, client: Client, view: str = "full") -> None:
        if view not in ("full", "compact"):
            raise Error("INVALID", f"view {view!r} is none of 'full', 'compact'")
        self.client = client
        self.view = view
        self.batch = 1  #: the one under way
        self.on_score: Callable[[int], tuple[torch.Tensor, int] | None] | None = None
        self.on_trial: Callable[[int], tuple[float, float | None, int]] | None = None
        self._optimizers: list[torch.optim.Optimizer] = []
        # Makes autograd come by: no gradient of it is ever formed.
        self._anchor = torch.zeros(1, requires_grad=True)
        self._kept: list[tuple[int, np.ndarray, np.ndarray, int]] = []
        self._ahead: list[_Ahead] = []
        self._tape: _Tape | None = None
        self._figures: dict[str, float] | None = None
        self._ask_at = 0.0

    # ---- a batch ---------------------------------------------------------------------------------

    def prefetch(self, keys: Mapping[int, Any]) -> None:
        """Send for rows that modules will look up: one request for all slots, answered while this
        process computes. keys: slot -> int64 tensor or array, as the module will get it. Each is used
        once. Sent before step(), the rows lack that step's update, and are a step old at most.
        """
        flat = {slot: _feasigns(given) for slot, given in keys.items()}
        self._ahead.append(_Ahead(self.client, flat, self.view))

    def step(self, samples: int = 1, mode: str = "train", step: int | None = None) -> None:
        """Push the gradients that backward has left, then answer searches (on_score, on_trial).

        samples: that the mean loss was over. mode, step: as Client.push(); workers that share a
        batch give the same step.

        Raises dimfit.Error as Client.push() does.
        """
        frozen = not self._push(samples, mode, step, hold=self.on_score is None)
        self.batch += 1
        if frozen:
            self._score()
            self.client.flush()
        if self.on_trial is not None and time.monotonic() >= self._ask_at:
            self._try()

    def follow(self, optimizer: torch.optim.Optimizer) -> None:
        """Compact view: let go of this optimizer's state of a transform when a layout change replaces
        it: momenta are of the old directions."""
        self._optimizers.append(optimizer)

    # ---- for modules -----------------------------------------------------------------------------

    def lookup(self, slot: int, keys: torch.Tensor) -> torch.Tensor:
        """Rows of keys (n,) int64, float32 (n, width) on their device, as a step of the graph."""
        flat = _feasigns(keys)
        rows = self._taped(slot, flat) if self._tape is not None else self._pull(slot, flat)
        given = torch.from_numpy(rows).to(keys.device)
        if not torch.is_grad_enabled():
            return given
        epoch = self.client.epoch

        def keep(gradient: torch.Tensor) -> None:
            array = gradient.detach().to("cpu", torch.float32).contiguous().numpy()
            self._kept.append((slot, flat, array, epoch))

        return _Lookup.apply(self._anchor, given, keep)

    def replaced(self, parameter: torch.nn.Parameter) -> None:
        """A module has put another transform into this parameter."""
        for optimizer in self._optimizers:
            optimizer.state.pop(parameter, None)

    # ---- rows ------------------------------------------------------------------------------------

    def _pull(self, slot: int, flat: np.ndarray) -> np.ndarray:
        for i, ahead in enumerate(self._ahead):
            if ahead.has(slot, flat):
                rows = ahead.take(slot)
                if not ahead.keys:
                    del self._ahead[i]
                return rows
        return self.client.pull({slot: flat}, view=self.view)[slot]

    def _taped(self, slot: int, flat: np.ndarray) -> np.ndarray:
        tape = self._tape
        if tape.at == len(tape.rows):
            tape.rows.append(self._pull(slot, flat))
        if tape.epoch not in (-1, self.client.epoch):
            raise Error("STALE_EPOCH", "the layout has changed within a trial")
        tape.epoch = self.client.epoch
        rows = tape.rows[tape.at]
        tape.at += 1
        if tape.trial is None or slot not in tape.trial.slots:
            return rows
        return self.client.trial_rows(slot, rows, view=self.view)

    def _push(self, samples: int, mode: str, step: int | None, hold: bool) -> bool:
        """False: shards are frozen and the client keeps what they have not taken."""
        kept, self._kept = self._kept, []
        for epoch in sorted({entry[3] for entry in kept}):
            updates = _by_slot(entry for entry in kept if entry[3] == epoch)
            try:
                self.client.push(
                    updates,
                    mode=mode,
                    step=step,
                    samples=samples,
                    view=self.view,
                    epoch=epoch if self.view == "compact" else None,
                    hold=hold,
                )
            except Error as error:
                if error.code != "FROZEN" or hold:
                    raise
                self._kept = [entry for entry in kept if entry[3] > epoch]
                return False
        return True

    # ---- searches --------------------------------------------------------------------------------

    def _score(self) -> None:
        """Steps of a search that has frozen training, until there are no more."""
        late, self._kept = self._kept, []
        done = samples = 0
        exhausted = False
        while (number := self.client.score_next(done, samples, exhausted)) and not exhausted:
            batch = self.on_score(number)
            exhausted = batch is None
            done = samples = 0
            if not exhausted:
                loss, samples = batch
                torch.autograd.backward(loss, inputs=[self._anchor])
                self._push(samples, "score", number, hold=True)
                done = number
        self._kept = late

    def _try(self) -> None:
        """Report the trial evaluated last and evaluate another one, if there is any."""
        try:
            trial = self.client.trial_next(self._figures)
        except Error as error:
            if error.code not in _SILENCE:
                raise
            self._ask_at = time.monotonic() + _AWAY
            return
        self._figures = None
        self._ask_at = 0.0 if trial else time.monotonic() + _ASK
        if trial:
            self._figures = self._evaluate(trial)

    def _evaluate(self, trial: Trial) -> dict[str, float] | None:
        self._tape = tape = _Tape()
        try:
            with torch.no_grad():
                whole_loss, whole_auc, samples = self.on_trial(trial.samples)
                tape.trial, tape.at = trial, 0
                loss, auc, _ = self.on_trial(trial.samples)
        except Error as error:
            if error.code != "STALE_EPOCH":
                raise
            return None  # the layout has changed: the trial is of no more use
        finally:
            self._tape = None
        none = math.nan
        return {
            "loss": float(loss),
            "auc": none if auc is None else float(auc),
            "whole_loss": float(whole_loss),
            "whole_auc": none if whole_auc is None else float(whole_auc),
            "samples": int(samples),
        }


def _feasigns(keys: Any) -> np.ndarray:
    """uint64 (n,), the bits of int64."""
    if isinstance(keys, torch.Tensor):
        if keys.dtype != torch.int64:
            keys = keys.long()
        keys = keys.detach().reshape(-1).cpu().numpy()
    array = np.asarray(keys).reshape(-1)
    if array.dtype.kind not in "iu":
        raise Error("INVALID", f"feasigns are {array.dtype}, not integers")
    wide = np.int64 if array.dtype.kind == "i" else np.uint64
    return np.ascontiguousarray(array, wide).view(np.uint64)


def _by_slot(
    kept: Iterable[tuple[int, np.ndarray, np.ndarray, int]],
) -> dict[int, tuple[np.ndarray, np.ndarray]]:
    """Lookups of the same slot behind one another: the library sums those of equal keys."""
    lookups: dict[int, list[tuple[np.ndarray, np.ndarray]]] = {}
    for slot, keys, gradients, _ in kept:
        lookups.setdefault(slot, []).append((keys, gradients))
    return {
        slot: pairs[0] if len(pairs) == 1 else tuple(np.concatenate(part) for part in zip(*pairs))
        for slot, pairs in lookups.items()
    }
