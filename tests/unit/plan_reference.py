"""What a plan must say, worked out anew from the rows and gradients behind its statistics.

usage: plan_reference.py FILE      FILE: scene and plan as test_plan.c writes them; exit 0 when equal
"""

import json
import sys

import numpy as np

TOLERANCE = 1e-8
SECOND_ORDER = ("curvature", "taylor", "guarded")  # loss changes: signed


def close(name, got, want):
    got, want = np.asarray(got, float), np.asarray(want, float)
    if got.shape != want.shape:
        sys.exit(f"{name}: shape {got.shape}, expected {want.shape}")
    if got.size and np.abs(got - want).max() > TOLERANCE * max(1.0, np.abs(want).max()):
        sys.exit(f"{name}: {got}\nexpected {want}")


def fit(slot, basis):
    """Mean, eigenvalues and directions of a slot's rows, by lookups."""
    rows, width = np.array(slot["r"]).reshape(-1, slot["width"]), slot["width"]
    counts = np.array(slot["counts"], float)
    if basis == "axis":
        return np.zeros(width), None, np.eye(width)
    if counts.sum() == 0:
        counts = np.ones(len(rows))
    if len(rows) == 0:
        return np.zeros(width), np.zeros(width), np.eye(width)
    mean = np.average(rows, axis=0, weights=counts)
    if len(rows) == 1:
        return mean, np.zeros(width), np.eye(width)
    covariance = np.cov(rows.T, aweights=counts, bias=True).reshape(width, width)
    values, vectors = np.linalg.eigh(covariance)
    values, vectors = values[::-1], vectors[:, ::-1]
    for k in range(width):
        if vectors[np.abs(vectors[:, k]).argmax(), k] < 0:
            vectors[:, k] = -vectors[:, k]
    return mean, values, vectors


def fit_kfac(scene, index):
    """Mean, eigenvalues, E and D of the kfac basis: E are the right eigenvectors of H A."""
    slot = scene["slots"][index]
    width = slot["width"]
    mean, variances, vectors = fit(slot, "rotated")
    lookups = [p for step in scene["steps"] for p in step if p["slot"] == index]
    covariance = vectors * variances @ vectors.T
    if not lookups or not variances.any():
        return mean, np.zeros(width), vectors, vectors.T
    grads = np.array([np.array(p["grad"]) * p["samples"] for p in lookups])
    H = grads.T @ grads / len(lookups)
    H += 1e-3 * np.linalg.eigvalsh(H)[-1] * np.eye(width)
    values, E = np.linalg.eig(H @ covariance)
    order = np.argsort(-values.real)
    values, E = values.real[order], E.real[:, order]
    return mean, values * len(lookups) / scene["samples"], E, np.linalg.inv(E)


def estimate(scene, index, mean, encode, decode):
    """The estimator's value of each unit, out of rows and gradients in the units' coordinates."""
    slot, estimator = scene["slots"][index], scene["estimator"]
    rows = np.array(slot["r"]).reshape(-1, slot["width"])
    steps = []
    by_row = np.zeros(slot["width"])
    for step in scene["steps"]:
        total = np.zeros(slot["width"])
        for part in step:
            if part["slot"] != index:
                continue
            terms = ((rows[part["row"]] - mean) @ encode) * (decode @ np.array(part["grad"]))
            total += part["samples"] * terms
            by_row += part["samples"] * np.abs(terms)
        steps.append(total)
    steps = np.array(steps)
    ages = np.arange(len(steps))[::-1]
    weights = 0.5 ** (ages / scene["half_life"]) if scene["half_life"] else np.ones(len(steps))
    weights[ages >= (scene["window"] or len(steps))] = 0
    if estimator == "single":
        return weights @ steps
    if estimator == "step":
        return weights @ np.abs(steps)
    if estimator == "fisher":
        return np.sqrt(weights @ steps**2)
    if estimator in SECOND_ORDER:
        n = weights.sum() ** 2 / (weights**2).sum()
        slope, centre = weights @ steps, np.average(steps, axis=0, weights=weights)
        fisher = weights @ (steps - centre) ** 2 * n / (n - 1)
        if estimator == "curvature":
            slope = 0
        if estimator == "guarded":
            slope = np.sign(slope) * np.maximum(np.abs(slope) - np.sqrt(fisher), 0)
        return fisher / 2 - slope
    return by_row


def select(scene, scores):
    """The budgeted choice of the design, one unit after the other."""
    costs = [len(s["counts"]) if scene["count"] == "params" else 1 for s in scene["slots"]]
    floors = [min(scene["min_dim"], s["width"]) for s in scene["slots"]]
    whole = sum(c * s["width"] for c, s in zip(costs, scene["slots"]))
    left = scene["kappa"] * whole - sum(c * f for c, f in zip(costs, floors))
    units = []
    for i, score in enumerate(scores):
        for k, value in enumerate(score):
            if scene["rank"] == "density":
                value = value / costs[i] if costs[i] else float("inf")
            units.append((-value, i, k))
    keep = [np.zeros(len(score), int) for score in scores]
    for _, i, k in sorted(units):
        if floors[i] > 0:
            floors[i] -= 1
        elif costs[i] > left:
            continue
        else:
            left -= costs[i]
        keep[i][k] = 1
    return keep, whole


def check(scene):
    plan = scene["plan"]
    kfac = scene["basis"] == "kfac"
    if kfac:
        fits = [fit_kfac(scene, i) for i in range(len(scene["slots"]))]
    else:
        fits = [fit(slot, scene["basis"]) for slot in scene["slots"]]
        fits = [(mean, values, vectors, vectors.T) for mean, values, vectors in fits]
    g = [estimate(scene, i, mean, E, D) for i, (mean, _, E, D) in enumerate(fits)]
    signed = scene["estimator"] in SECOND_ORDER
    keep, whole = select(scene, [values if signed else np.abs(values) for values in g])
    shares = [np.maximum(values, 0) if signed else np.abs(values) for values in g]
    total = sum(values.sum() for values in shares)
    scores = [values / total for values in shares]
    if kfac:
        keep = [np.sort(k)[::-1] for k in keep]
    kept_score = kept_cost = 0
    for i, (slot, made) in enumerate(zip(scene["slots"], plan["slots"])):
        mean, values, E, D = fits[i]
        kept = keep[i].astype(bool)
        close(f"slot {i} g", made["g"], g[i])
        close(f"slot {i} s", made["s"], scores[i])
        if list(made["keep"]) != list(keep[i]):
            sys.exit(f"slot {i} keep: {made['keep']}, expected {list(keep[i])}")
        if values is not None:
            close(f"slot {i} eigenvalues", made["eigenvalues"], values)
        rows = np.array(slot["r"]).reshape(-1, slot["width"])
        restored = mean if kept.sum() < slot["width"] else np.zeros(slot["width"])
        moved = np.reshape(made["moved"], (len(rows), kept.sum()))
        if kfac:
            N, R = np.linalg.qr(D[kept].T)
            T = E[:, kept] @ R.T
            close(f"slot {i} rows", np.abs(moved), np.abs((rows - restored) @ T))
        else:
            close(f"slot {i} rows", moved, (rows - restored) @ E[:, kept])
        close(f"slot {i} embeddings", np.reshape(made["decoded"], rows.shape),
              restored + (rows - restored) @ E[:, kept] @ D[kept])
        kept_score += scores[i][kept].sum()
        kept_cost += kept.sum() * (len(rows) if scene["count"] == "params" else 1)
    close("kept score", plan["kept_score"], kept_score)
    close("cost before", plan["cost_before"], whole)
    close("cost after", plan["cost_after"], kept_cost)
    if kept_cost > scene["kappa"] * whole:
        sys.exit("the plan costs more than its budget")


if __name__ == "__main__":
    with open(sys.argv[1], encoding="utf-8") as file:
        for line in file:
            check(json.loads(line))
