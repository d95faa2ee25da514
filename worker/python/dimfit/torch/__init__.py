"""dimfit for PyTorch: embeddings whose rows live on the shards, and a watch over those that don't.

    import dimfit, dimfit.torch, torch

    shards = dimfit.torch.Shards(dimfit.connect("tcp://127.0.0.1:7700"))
    user = dimfit.torch.Embedding(shards, 1)          # as nn.Embedding; slot 1 of the cluster
    tags = dimfit.torch.EmbeddingBag(shards, 2, mode="mean")

    for ids, offsets, labels in batches:
        loss = criterion(head(user(ids[0]), tags(ids[1], offsets)), labels)   # a mean
        loss.backward()                               # gradients of rows wait here
        optimizer.step()                              # dense weights, as ever
        shards.step(samples=len(labels))              # and now go to the shards

A model whose embeddings live elsewhere is scored and narrowed without them:

    watcher = dimfit.torch.watch(model, client)       # hooks; the training loop stays as it is
    watcher.start(kappa=0.25)
    ...                                               # some epochs, or hours
    model = dimfit.torch.apply(model, watcher.plan())

Feasigns are 64-bit patterns: of an int64 tensor, -1 is feasign 2**64 - 1. Needs torch >= 1.13.
"""

from .dense import DenseOptimizer, average_gradients, cold
from .modules import Embedding, EmbeddingBag
from .shards import Shards
from .watch import Projected, Watcher, apply, watch

__all__ = [
    "DenseOptimizer",
    "Embedding",
    "EmbeddingBag",
    "Projected",
    "Shards",
    "Watcher",
    "apply",
    "average_gradients",
    "cold",
    "watch",
]
