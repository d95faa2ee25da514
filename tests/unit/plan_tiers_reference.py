"""What a plan of slots with tiers must say, worked out anew from the rows and gradients.

usage: plan_tiers_reference.py FILE     FILE: scene and plan as test_plan_tiers.c writes them
"""

import json
import sys

import numpy as np

from plan_reference import SECOND_ORDER, close, estimate, fit, fit_kfac


def of_tier(scene, index, tier):
    """The scene with the lookups of one tier's rows alone."""
    tiers = scene["slots"][index]["tiers"]
    steps = [[p for p in step if p["slot"] == index and tiers[p["row"]] == tier]
             for step in scene["steps"]]
    return {**scene, "steps": steps}


def pooled(values):
    """The antitonic regression of the values, by its min-max formula."""
    n = len(values)
    return [min(max(np.mean(values[a:b + 1]) for b in range(k, n)) for a in range(k + 1))
            for k in range(n)]


def select(scene, groups):
    """One unit after the other: prefixes of each tier, none wider than the tier above."""
    floors = [min(scene["min_dim"], g["before"]) for g in groups]
    left = scene["kappa"] * sum(g["cost"] * g["before"] for g in groups)
    left -= sum(g["cost"] * f for g, f in zip(groups, floors))
    units = []
    for i in reversed(range(len(groups))):
        group = groups[i]
        ranks = np.array(group["priority"], float)
        if scene["rank"] == "density":
            ranks = ranks / group["cost"]
        if group["n_tiers"] > 1:
            ranks = np.array(pooled(ranks))
        if group["tier"] + 1 < group["n_tiers"]:
            ranks = np.minimum(ranks, groups[i + 1]["ranks"])
        group["ranks"] = ranks
        units += [(-rank, group["slot"], k, -group["tier"], i) for k, rank in enumerate(ranks)]
    # Means of the same values that another order of additions tells apart are one rank.
    units = sorted((float(f"{u[0]:.9e}"), *u[1:]) for u in units)
    keep = [np.zeros(len(g["priority"]), int) for g in groups]
    for _, _, k, _, i in units:
        capped = groups[i]["tier"] + 1 < groups[i]["n_tiers"]
        if floors[i] > 0:
            floors[i] -= 1
        elif groups[i]["cost"] > left or (capped and not keep[i + 1][k]):
            continue
        else:
            left -= groups[i]["cost"]
        keep[i][k] = 1
    return keep


def list_groups(scene, fits, orders):
    signed = scene["estimator"] in SECOND_ORDER
    groups = []
    for index, slot in enumerate(scene["slots"]):
        mean, _, E, D = fits[index]
        n_tiers = len(slot["tier_widths"])
        tiers = np.array(slot["tiers"])
        for tier in range(n_tiers):
            g = estimate(of_tier(scene, index, tier), index, mean, E, D)
            rows = int((tiers == tier).sum())
            groups.append({
                "slot": index, "tier": tier, "n_tiers": n_tiers, "g": g, "rows": rows,
                "priority": g if signed else np.abs(g),
                "cost": rows if scene["count"] == "params" else 1,
                "before": int(slot["tier_widths"][tier])})
        own = groups[-n_tiers:]
        if scene["basis"] == "axis" and n_tiers > 1:
            total = sum(g["priority"] for g in own)
            orders[index] = sorted(range(slot["width"]), key=lambda k: (-total[k], k))
            for g in own:
                g["g"], g["priority"] = g["g"][orders[index]], g["priority"][orders[index]]
    return groups


def widths(scene, groups, keep, orders):
    """Of each tier: on the axes without the zeros it would end in, above its floor."""
    kept = [int(k.sum()) for k in keep]
    for i, group in enumerate(groups):
        least = min(scene["min_dim"], group["before"])
        order = orders.get(group["slot"])
        while order and kept[i] > least and order[kept[i] - 1] >= group["before"]:
            kept[i] -= 1
    return kept


def embeddings(scene, index, fitted, kept, keep):
    """What the rows stand for with so many units kept by each tier."""
    slot = scene["slots"][index]
    mean, _, E, D = fitted
    rows = np.array(slot["r"]).reshape(-1, slot["width"])
    tiers = np.array(slot["tiers"], int)
    chosen = np.flatnonzero(keep)
    if scene["basis"] == "kfac":
        N, R = np.linalg.qr(D[chosen].T)
        T = E[:, chosen] @ R.T
    else:
        T = N = E[:, chosen]
    whole = all(k == slot["width"] for k in kept)
    shift = np.zeros_like(mean) if whole or scene["basis"] == "axis" else mean
    out = np.zeros_like(rows)
    for f, row in enumerate(rows):
        n = kept[tiers[f]]
        out[f] = shift + (row - shift) @ T[:, :n] @ N[:, :n].T
    return out


def check(scene):
    plan = scene["plan"]
    if scene["basis"] == "kfac":
        fits = [fit_kfac(scene, i) for i in range(len(scene["slots"]))]
    else:
        fits = [fit(slot, scene["basis"]) for slot in scene["slots"]]
        fits = [(mean, values, vectors, vectors.T) for mean, values, vectors in fits]
    orders = {}
    groups = list_groups(scene, fits, orders)
    keep = select(scene, groups)
    if scene["basis"] == "kfac":
        keep = [np.sort(k)[::-1] for k in keep]
    kept = widths(scene, groups, keep, orders)
    shares = [np.maximum(g["priority"], 0) for g in groups]
    total = sum(s.sum() for s in shares)
    kept_score = 0
    for i, (group, made) in enumerate(zip(groups, plan["tiers"])):
        name = f"slot {group['slot']} tier {group['tier']}"
        close(f"{name} g", made["g"], group["g"])
        close(f"{name} s", made["s"], shares[i] / total)
        if made["after"] != kept[i]:
            sys.exit(f"{name}: width {made['after']}, expected {kept[i]}")
        chosen = np.arange(len(keep[i])) < kept[i] if group["n_tiers"] > 1 else keep[i] > 0
        kept_score += shares[i][chosen].sum() / total
    for index in range(len(scene["slots"])):
        own = [i for i, g in enumerate(groups) if g["slot"] == index]
        mean, values, E, D = fits[index]
        if index in orders:
            E, D = E[:, orders[index]], D[orders[index]]
        got = plan["tiers"][own[0]]["embeddings"]
        want = embeddings(scene, index, (mean, values, E, D), [kept[i] for i in own],
                          keep[own[-1]])
        want = np.pad(want, ((0, 0), (0, len(got) // len(want) - want.shape[1])))
        close(f"slot {index} embeddings", np.reshape(got, want.shape), want)
        if values is not None:
            close(f"slot {index} eigenvalues",
                  np.sum([plan["tiers"][i]["eigenvalues"] for i in own], axis=0), values)
    close("kept score", plan["kept_score"], kept_score)
    close("cost before", plan["cost_before"], sum(g["cost"] * g["before"] for g in groups))
    close("cost after", plan["cost_after"], sum(g["cost"] * k for g, k in zip(groups, kept)))


if __name__ == "__main__":
    with open(sys.argv[1], encoding="utf-8") as file:
        for line in file:
            check(json.loads(line))
