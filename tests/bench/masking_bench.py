"""One search beside what it replaces: masking every unit in turn and evaluating the model again.

    masking_bench.py ENDPOINT CSV

Trains a factorization machine on the cluster, one epoch; then both look at the same samples in the
same batches through the same client. Prints the seconds of each, and the rank correlation between
the scores and how much the loss changes without a unit (lines of JSON as those of bench.h).
"""

import csv
import json
import sys
import time

import numpy as np

import dimfit

WIDTH, BATCH, STEP = 16, 1024, 512
SAMPLES = 32 * STEP  # looked at, after training
LINEAR = 1000  # slot i's first-order weights are slot i + LINEAR


def read(path: str) -> tuple[np.ndarray, np.ndarray]:
    """Labels, and feasigns [sample][slot]."""
    with open(path, newline="") as file:
        rows = csv.reader(file)
        slots = len(next(rows)) - 1
        known: list[dict[str, int]] = [{} for _ in range(slots)]
        table = [
            [int(row[0]), *(ids.setdefault(v, 1 + len(ids)) for ids, v in zip(known, row[1:]))]
            for row in rows
        ]
    whole = np.array(table, np.uint64)
    return whole[:, 0].astype(np.float64), np.ascontiguousarray(whole[:, 1:])


class Model:
    """logit = bias + sum of first-order weights + sum over pairs of slots of <v_i, v_j>."""

    def __init__(self, c: dimfit.Client, slots: int, bias: float) -> None:
        self.c, self.slots, self.bias = c, slots, bias
        c.declare({i + 1: {"dim": WIDTH} for i in range(slots)})
        c.declare({i + 1 + LINEAR: {"dim": 1, "search": False} for i in range(slots)})

    def pull(self, keys: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Rows [slot][sample][WIDTH], weights [slot][sample]."""
        wanted = {i + 1: np.ascontiguousarray(keys[:, i]) for i in range(self.slots)}
        rows = self.c.pull(wanted | {slot + LINEAR: k for slot, k in wanted.items()})
        v = np.stack([rows[i + 1] for i in range(self.slots)])
        w = np.stack([rows[i + 1 + LINEAR][:, 0] for i in range(self.slots)])
        return v, w

    def click_rates(self, v: np.ndarray, w: np.ndarray) -> np.ndarray:
        total = v.sum(0)
        pairs = ((total**2).sum(-1) - np.einsum("snk,snk->n", v, v)) / 2
        return 1 / (1 + np.exp(-(self.bias + w.sum(0) + pairs)))

    def push(self, keys: np.ndarray, labels: np.ndarray, mode: str, step: int | None) -> None:
        v, w = self.pull(keys)
        n = len(labels)
        error = ((self.click_rates(v, w) - labels) / n).astype(np.float32)
        grads = error[:, None] * (v.sum(0) - v)
        updates = {}
        for i in range(self.slots):
            column = np.ascontiguousarray(keys[:, i])
            updates[i + 1] = (column, grads[i])
            if mode != "score":  # first-order weights are outside a search
                updates[i + 1 + LINEAR] = (column, error[:, None])
        self.c.push(updates, mode=mode, step=step, samples=n)

    def loss(self, keys: np.ndarray, labels: np.ndarray, masked: tuple[int, int] | None) -> float:
        """Summed over the samples; masked: (slot number from 0, coordinate) read as 0."""
        v, w = self.pull(keys)
        if masked is not None:
            v[masked[0], :, masked[1]] = 0
        p = np.clip(self.click_rates(v, w), 1e-12, 1 - 1e-12)
        return float(-(labels * np.log(p) + (1 - labels) * np.log1p(-p)).sum())


def search(model: Model, keys: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Up to the plan; the scores [slot * WIDTH]."""
    c = model.c
    c.search(kappa=0.25, basis="axis", mode="freeze", plan_only=True)
    step, first = c.score_next(), 0
    while first < len(labels):
        model.push(keys[first : first + STEP], labels[first : first + STEP], "score", step)
        first += STEP
        step = c.score_next(step, STEP, exhausted=first == len(labels))
    c.search_wait()
    scores = c.scores()
    return np.concatenate([scores[i + 1] for i in range(model.slots)])


def mask(model: Model, keys: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """How much the loss changes without each unit [slot * WIDTH]."""
    starts = range(0, len(labels), STEP)

    def loss(masked: tuple[int, int] | None) -> float:
        parts = (slice(first, first + STEP) for first in starts)
        return sum(model.loss(keys[part], labels[part], masked) for part in parts)

    whole = loss(None)
    return np.array(
        [abs(loss((i, k)) - whole) for i in range(model.slots) for k in range(WIDTH)]
    )


def ranks(values: np.ndarray) -> np.ndarray:
    return np.argsort(np.argsort(values))


def timed(function, *arguments) -> tuple[float, np.ndarray]:
    begun = time.monotonic()
    result = function(*arguments)
    return time.monotonic() - begun, result


def main() -> None:
    labels, keys = read(sys.argv[2])
    trained = len(labels) - SAMPLES
    mean = labels[:trained].mean()
    with dimfit.connect(sys.argv[1]) as c:
        model = Model(c, keys.shape[1], float(np.log(mean / (1 - mean))))
        for first in range(0, trained, BATCH):
            part = slice(first, min(first + BATCH, trained))
            model.push(keys[part], labels[part], "train", None)
        searched, scores = timed(search, model, keys[trained:], labels[trained:])
        masked, changes = timed(mask, model, keys[trained:], labels[trained:])
    correlation = float(np.corrcoef(ranks(scores), ranks(changes))[0, 1])
    for line in (
        {
            "name": "search",
            "unit": "s",
            "values": [searched],
            "against": "masking unit by unit",
            "references": [masked],
        },
        {"name": "search_rank_correlation", "unit": "rho", "values": [correlation]},
    ):
        print(json.dumps(line))


main()
