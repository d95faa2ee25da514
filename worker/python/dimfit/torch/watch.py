"""Scores for models whose embeddings live elsewhere: watch, plan, rewrite."""

from __future__ import annotations

import math
import time
import warnings
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch import nn

from ..client import Client
from ..errors import Error

#: Seconds without reports after one failed.
_AWAY = 10.0
#: So many samples are never scored: scoring ends when a plan is asked for.
_NEVER = 2**53


class _Watched:
    """One module's sums since the last report."""

    def __init__(self, name: str, module: nn.Module, slot: int) -> None:
        self.name, self.slot = name, slot
        self.rows, self.dim = module.num_embeddings, module.embedding_dim
        self.sums: torch.Tensor | None = None
        self.samples = 0
        self.problem: str | None = None
        self.handle = module.register_forward_hook(self._forward)

    def _forward(self, module: nn.Module, given: Any, out: torch.Tensor) -> None:
        if not out.requires_grad:
            return
        values = out.detach()  # shares memory and version with the output
        version = values._version

        def backward(gradient: torch.Tensor) -> None:
            if values._version != version:
                self.problem = f"{self.name}: its output was changed in place before backward"
            else:
                self._add(values, gradient)

        out.register_hook(backward)

    def _add(self, values: torch.Tensor, gradient: torch.Tensor) -> None:
        # Sums, means and maxima of rows are linear in each dimension's mask: v * dL/dv of what is
        # pooled is the sum over its lookups.
        products = (values * gradient.detach()).reshape(-1, self.dim)
        sums = products.sum(0, dtype=torch.float64)
        self.sums = sums if self.sums is None else self.sums + sums
        self.samples = max(self.samples, len(values))

    def take(self) -> np.ndarray:
        sums, self.sums, self.samples = self.sums, None, 0
        return sums.cpu().numpy()


class Watcher:
    """Hooks on a model's embeddings that report their scores; made by watch().

    Each backward pass adds up v * dL/dv per slot and dimension; the next forward pass of the model,
    or close(), reports that to the cluster as a step. The loss is to be the mean over the batch; a
    constant factor, as of gradient scaling, changes no share. Under torch.distributed, workers go
    in step: what they report of the same step adds up.

    A report that fails is warned of and counted in `lost`: the model trains on.
    """

    def __init__(self, model: nn.Module, client: Client, slots: Mapping[str, int] | None) -> None:
        found = {
            name: module
            for name, module in model.named_modules()
            if isinstance(module, (nn.Embedding, nn.EmbeddingBag))
            and (name != "" if slots is None else name in slots)
        }
        missing = sorted(set(slots or ()) - set(found))
        if missing or not found:
            what = f"no nn.Embedding or nn.EmbeddingBag named {missing}" if missing else "none at all"
            raise Error("INVALID", f"of the model's embeddings there is {what}")
        self.client = client
        self.lost = 0  #: reports that did not arrive
        numbers = _declare(client, found, slots)
        self._watched = [_Watched(name, module, numbers[name]) for name, module in found.items()]
        self._model_hook = model.register_forward_pre_hook(lambda *_: self.report())
        self._steps = 0
        self._away_until = 0.0

    def report(self) -> None:
        """Send what was added up since the last report, if anything was."""
        ready = [w for w in self._watched if w.sums is not None]
        for watched in self._watched:
            if watched.problem is not None:
                problem, watched.problem = watched.problem, None
                self._lose(problem)
                return
        if not ready:
            return
        self._steps += 1
        samples = max(w.samples for w in ready)
        rows = {w.slot: w.rows for w in ready}
        sums = {w.slot: w.take() for w in ready}
        if time.monotonic() < self._away_until:
            self.lost += 1
            return
        in_step = dist.is_available() and dist.is_initialized()
        try:
            step = self._steps if in_step else None
            self.client.score_sums(sums, rows, step=step, samples=samples)
        except Error as error:
            self._away_until = time.monotonic() + _AWAY
            self._lose(str(error))

    def start(self, kappa: float, samples: int | None = None, **options: Any) -> dict[str, Any]:
        """Begin a search: scores start anew, and training, which goes on, is scored until plan() is
        called or, if given, so many samples are. One worker starts it.

        kappa, options: as Client.search(), of basis "axis"; estimator "row" and strategies that
        try layouts or read rows have nothing to go by. Returns its status.
        """
        for name, value in (("basis", "axis"), ("mode", "live"), ("plan_only", True)):
            if options.setdefault(name, value) != value:
                raise Error("INVALID", f"{name} {options[name]!r}: a watch has {value!r} alone")
        if options.get("estimator") == "row":
            raise Error("INVALID", "estimator 'row' takes the rows, which a watch has not")
        options.setdefault("strategy", "sseds")
        return self.client.search(kappa, samples=_NEVER if samples is None else samples, **options)

    def plan(self, timeout: float = 60) -> dict[str, Any]:
        """Which dimensions to keep, from what has been scored: for apply(), and for json.dump().

        Returns {"kappa", "epoch", "samples", "params_before", "params_after", "slots": [{"id",
        "name", "rows", "dim", "keep": [the dimensions that stay]}]}, a slot a module, by its name.
        Nothing changes in the cluster. Raises dimfit.Error: STATE when there is no search, BUDGET.
        """
        self.report()
        self.client.search_plan()
        status = self.client.search_wait(timeout)
        report = self.client.search_plan()
        names = {w.slot: w.name for w in self._watched}
        slots = [
            {
                "id": slot["id"],
                "name": names[slot["id"]],
                "rows": slot["rows"],
                "dim": slot["before"],
                "keep": [k for k, kept in enumerate(slot["keep"]) if kept],
            }
            for slot in report["slots"]
            if slot["id"] in names
        ]
        taken = ("epoch", "samples", "params_before", "params_after")
        kappa = status["request"]["kappa"]
        return {"kappa": kappa, **{name: report[name] for name in taken}, "slots": slots}

    def close(self) -> None:
        """Report the last step and take the hooks away."""
        self.report()
        self._model_hook.remove()
        for watched in self._watched:
            watched.handle.remove()

    def __enter__(self) -> Watcher:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def _lose(self, why: str) -> None:
        self.lost += 1
        for watched in self._watched:
            watched.sums, watched.samples = None, 0
        warnings.warn(f"dimfit.torch.watch: a step was not scored: {why}", stacklevel=3)


def _declare(
    client: Client, found: Mapping[str, nn.Module], slots: Mapping[str, int] | None
) -> dict[str, int]:
    """A slot each, by the module's name: the cluster's of that name, else a new one. All workers
    come to the same numbers."""
    layout = client.layout()
    known = {slot.name: slot.id for slot in layout.values()}
    free = iter(number for number in range(1, 2**32) if number not in layout)
    numbers = {}
    for name in found:
        number = slots[name] if slots is not None else known.get(name)
        numbers[name] = next(free) if number is None else number
    new = {
        numbers[name]: {"dim": module.embedding_dim, "name": name}
        for name, module in found.items()
        if numbers[name] not in layout
    }
    if new:
        client.declare(new)
    for name, module in found.items():
        width = client.layout()[numbers[name]].width
        if width != module.embedding_dim:
            raise Error(
                "WIDTH",
                f"{name}: the module is {module.embedding_dim} wide, slot {numbers[name]} is {width}",
            )
    return numbers


def watch(model: nn.Module, client: Client, slots: Mapping[str, int] | None = None) -> Watcher:
    """Report the scores of a model's nn.Embedding and nn.EmbeddingBag modules to a cluster that does
    not have their rows. The model and the loop that trains it stay as they are.

    slots: module name (model.named_modules()) -> slot, for some of them; None: all of them, each
    with the slot of its name, which is added where the cluster has none (auto_slots: true).

    What a module's weights do elsewhere, as in tied output layers, is not seen. Returns a Watcher.
    Raises dimfit.Error: UNKNOWN_SLOT where the cluster takes no new slots, WIDTH, INVALID.
    """
    return Watcher(model, client, slots)


class Projected(nn.Module):
    """A narrow embedding behind a transform back to the width that the model wants: v = r W."""

    def __init__(self, table: nn.Module, keep: torch.Tensor, dim: int) -> None:
        super().__init__()
        self.table = table
        weight = table.weight
        selection = torch.zeros(len(keep), dim, dtype=weight.dtype, device=weight.device)
        selection[torch.arange(len(keep)), keep] = 1
        self.transform = nn.Parameter(selection)

    def forward(self, *args: Any, **kwargs: Any) -> torch.Tensor:
        return self.table(*args, **kwargs) @ self.transform


def apply(model: nn.Module, plan: Mapping[str, Any]) -> nn.Module:
    """Rewrite, in place, the modules that a Watcher's plan names: rows keep the dimensions that stay,
    bit for bit, behind a trainable transform W (kept, dim) that starts as the choice of those
    dimensions. What the model computes is what it was with the others set to 0.

    Optimizers hold the old weights: make new ones. Returns the model. Raises dimfit.Error: INVALID
    when model and plan do not belong together, and changes nothing.
    """
    modules = dict(model.named_modules())
    new: dict[int, nn.Module] = {}
    for slot in plan["slots"]:
        old, keep = modules.get(slot["name"]), slot["keep"]
        fits = isinstance(old, (nn.Embedding, nn.EmbeddingBag)) and (
            (old.num_embeddings, old.embedding_dim) == (slot["rows"], slot["dim"])
        )
        if not fits or not all(0 <= k < slot["dim"] for k in keep):
            raise Error("INVALID", f"the model has no embedding {slot['name']} as the plan has it")
        if old.max_norm is not None and not math.isinf(old.max_norm):
            raise Error("INVALID", f"{slot['name']}: max_norm means another norm in a narrow row")
        if len(keep) < slot["dim"]:
            chosen = torch.tensor(keep, dtype=torch.long)
            new[id(old)] = Projected(_narrow(old, keep), chosen, slot["dim"])
    for parent in list(model.modules()):
        for name, child in list(parent._modules.items()):
            if id(child) in new:
                setattr(parent, name, new[id(child)])
    return model


def _narrow(old: nn.Module, keep: list[int]) -> nn.Module:
    own, kind = {}, nn.Embedding
    if isinstance(old, nn.EmbeddingBag):
        own, kind = {"mode": old.mode, "include_last_offset": old.include_last_offset}, nn.EmbeddingBag
    table = kind(
        old.num_embeddings,
        len(keep),
        padding_idx=old.padding_idx,
        scale_grad_by_freq=old.scale_grad_by_freq,
        sparse=old.sparse,
        _weight=old.weight.detach()[:, keep].clone(),
        **own,
    )
    table.weight.requires_grad_(old.weight.requires_grad)
    return table.train(old.training)
