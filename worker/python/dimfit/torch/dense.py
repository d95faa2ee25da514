"""Dense weights that several workers train: averaged by torch.distributed, or on the shards."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import torch
import torch.distributed as dist
from torch import nn

from ..client import Client
from .modules import _Rows
from .shards import Shards


def _several() -> bool:
    return dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1


def average_gradients(model: nn.Module, shards: Shards | None = None) -> None:
    """Replace the gradients of the model's weights by their mean over all workers: one all-reduce.

    For the compact view, which DistributedDataParallel does not serve: workers meet a new layout one
    after the other. With shards, workers first agree on the newest layout any of them has met; one
    that was behind carries its transforms over, and adds nothing to their mean in this batch.
    """
    if not _several():
        return
    if shards is not None:
        _agree(model, shards)
    weights = [p for p in model.parameters() if p.requires_grad]
    flat = _flatten(weights, gradients=True)
    dist.all_reduce(flat)
    flat /= dist.get_world_size()
    for weight, part in zip(weights, _split(flat, weights)):
        weight.grad = part.clone() if weight.grad is None else weight.grad.copy_(part)


def _agree(model: nn.Module, shards: Shards) -> None:
    while True:
        epoch = shards.client.epoch
        most = torch.tensor([epoch, -epoch])
        dist.all_reduce(most, op=dist.ReduceOp.MAX)
        if most[0] == -most[1]:
            break
        if epoch < most[0]:
            shards.client.refresh()
    shards.batch += 1  # the graph is done with: transforms may change
    for module in model.modules():
        if isinstance(module, _Rows):
            module.follow()


def cold(layer: nn.Module, *optimizers: torch.optim.Optimizer) -> None:
    """Start a layer anew, the same on all workers: the first dense layer after a search has narrowed
    what it reads. The optimizers forget what they know of it."""
    for module in layer.modules():
        if hasattr(module, "reset_parameters"):
            module.reset_parameters()
    for parameter in layer.parameters():
        if _several():
            dist.broadcast(parameter.data, 0)
        for optimizer in optimizers:
            optimizer.state.pop(parameter, None)


class DenseOptimizer:
    """Dense weights as a vector on the shards, in place of an optimizer: step() sends the gradient,
    and takes the weights as they are after everybody's.

    params: in the same order on all workers; the worker that comes first gives their values. name:
    of the vector, 1 to 100 bytes. optimizer: "sgd", "adagrad", "adam", "ftrl".

    After a layout change the vector starts anew with the weights as they are, and with no optimizer
    state. Raises dimfit.Error as Client.dense_push() does.
    """

    def __init__(
        self,
        client: Client,
        params: Iterable[nn.Parameter],
        name: str = "dense",
        optimizer: str = "adam",
        lr: float = 0.001,
    ) -> None:
        self.params = list(params)
        self._client, self._name, self._optimizer, self._lr = client, name, optimizer, lr
        self._start()

    def zero_grad(self) -> None:
        for weight in self.params:
            weight.grad = None

    def step(self) -> None:
        gradient = _numpy(_flatten(self.params, gradients=True))
        if self._client.epoch != self._tag:
            self._start()
        self._client.dense_push(self._name, gradient, tag=self._tag)
        self._take()

    def _start(self) -> None:
        self._tag = self._client.epoch
        values = _numpy(_flatten(self.params, gradients=False))
        self._client.dense_reset(
            self._name, values, tag=self._tag, optimizer=self._optimizer, lr=self._lr
        )
        self._take()

    def _take(self) -> None:
        n = sum(weight.numel() for weight in self.params)
        flat = torch.from_numpy(self._client.dense_pull(self._name, n, tag=self._tag))
        with torch.no_grad():
            for weight, part in zip(self.params, _split(flat, self.params)):
                weight.copy_(part)


def _flatten(weights: list[nn.Parameter], gradients: bool) -> torch.Tensor:
    def of(weight: nn.Parameter) -> torch.Tensor:
        if not gradients:
            return weight.detach()
        return torch.zeros_like(weight) if weight.grad is None else weight.grad

    return torch.cat([of(weight).detach().reshape(-1) for weight in weights])


def _split(flat: torch.Tensor, weights: list[nn.Parameter]) -> list[torch.Tensor]:
    parts = flat.split([weight.numel() for weight in weights])
    return [part.view_as(weight) for part, weight in zip(parts, weights)]


def _numpy(flat: torch.Tensor) -> np.ndarray:
    return flat.to("cpu", torch.float32).numpy()
