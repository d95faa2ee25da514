"""The kfac basis of real clusters against numpy, from single lookups' gradients, float64."""

from __future__ import annotations

import sys

import numpy as np
import pytest

from conftest import PYTHON_DIR
from test_science import DIMS, ENDLESS, ROWS, plan_keep, slots
from test_science import filled, world  # noqa: F401 fixtures

sys.path.insert(0, str(PYTHON_DIR))
import dimfit  # noqa: E402


def curvature(parts_of, i, basis=None):
    """E over lookups of the per-sample gradients' second moments, regularised."""
    grads = np.concatenate([n * g.astype(float) for n, (_, g) in parts_of(i)])
    grads = grads if basis is None else grads @ basis
    H = grads.T @ grads / len(grads)
    return H + 1e-3 * np.linalg.eigvalsh(H)[-1] * np.eye(len(H)), len(grads)


def scored(world):
    return lambda i: [(samples, parts[i]) for samples, parts in world.steps]


def best_projection(H, A, k):
    """P of rank k with least tr(H (I - P)^T A (I - P)): onto right eigenvectors of H A."""
    values, E = np.linalg.eig(H @ A)
    order = np.argsort(-values.real)
    E = E.real[:, order]
    return E[:, :k] @ np.linalg.inv(E)[:k], values.real[order]


def moments(rows, lookups):
    mean = lookups @ rows / lookups.sum()
    return mean, (rows - mean).T @ ((rows - mean) * lookups[:, None]) / lookups.sum()


def check(plan, before, after, world, layout, basis=None):
    samples = sum(n for n, _ in world.steps)
    keep = plan_keep(plan)
    for slot in plan["slots"]:
        i, k = slot["id"], slot["after"]
        M = np.eye(DIMS[i]) if basis is None else basis[i]
        H, lookups = curvature(scored(world), i, M)
        mean, A = moments(before[i].astype(float), world.lookups[i])
        P, values = best_projection(H, M.T @ A @ M, k)
        assert list(keep[i]) == [True] * k + [False] * (slot["before"] - k)
        np.testing.assert_allclose(
            slot["eigenvalues"], values * lookups / samples, rtol=1e-4, atol=1e-4 * values[0]
        )
        np.testing.assert_allclose(layout[i].basis.T @ layout[i].basis, np.eye(k), atol=1e-6)
        if k < slot["before"]:
            want = mean + (before[i] - mean) @ M @ P @ M.T
            np.testing.assert_allclose(after[i], want, atol=2e-5)
    return {i: layout[i].basis.astype(float) for i in DIMS}


@pytest.mark.parametrize("shards", [1, 3])
def test_kfac_keeps_the_projection_of_least_second_order_loss(filled, world, shards):  # noqa: F811
    c = filled(shards)
    before = c.pull(world.keys)
    c.search(kappa=0.6, basis="kfac", plan_only=True, samples=ENDLESS)
    world.score(c)
    plan = c.search_plan()
    c.search_apply()
    c.search_wait()
    after = c.pull(world.keys)
    basis = check(plan, before, after, world, c.layout())
    assert any(slot["after"] < slot["before"] for slot in plan["slots"])
    # Again, from rows that stand in that basis: gradients travel through it.
    c.search(kappa=0.7, basis="kfac", plan_only=True, samples=ENDLESS)
    world.score(c)
    plan = c.search_plan()
    c.search_apply()
    c.search_wait()
    check(plan, after, c.pull(world.keys), world, c.layout(), basis)


def test_kfac_scores_are_what_masking_a_unit_changes(filled, world):  # noqa: F811
    c = filled(2)
    c.search(kappa=0.6, basis="kfac", estimator="single", plan_only=True, samples=ENDLESS)
    world.score(c)
    total = {}
    for slot in c.search_plan()["slots"]:
        i = slot["id"]
        H, _ = curvature(scored(world), i)
        mean, A = moments(world.rows[i].astype(float), world.lookups[i])
        values, E = np.linalg.eig(H @ A)
        order = np.argsort(-values.real)
        E, D = E.real[:, order], np.linalg.inv(E.real[:, order])
        g = np.zeros(DIMS[i])
        for samples, parts in world.steps:
            pick, grads = parts[i]
            x = (world.rows[i].astype(float)[pick] - mean) @ E
            g += samples * (x * (grads.astype(float) @ D.T)).sum(0)
        total[i] = np.abs(g), np.array(slot["s"])
    whole = sum(g.sum() for g, _ in total.values())
    for g, s in total.values():
        np.testing.assert_allclose(s, g / whole, rtol=1e-3, atol=1e-5)


def test_kfac_without_scored_pushes_is_refused(filled):  # noqa: F811
    c = filled()
    c.search(kappa=0.5, basis="kfac", strategy="uniform", plan_only=True, samples=ENDLESS)
    with pytest.raises(dimfit.Error) as info:
        c.search_plan()
    assert info.value.code == "STATE" and "kfac" in info.value.message


def test_kfac_works_for_strategies_that_need_no_scores(filled, world):  # noqa: F811
    c = filled(2)
    before = c.pull(world.keys)
    c.search(kappa=0.5, basis="kfac", strategy="uniform", plan_only=True, samples=ENDLESS)
    world.score(c)
    plan = c.search_plan()
    c.search_apply()
    c.search_wait()
    check(plan, before, c.pull(world.keys), world, c.layout())


def test_live_training_brings_curvature(filled, world):  # noqa: F811
    c = filled(2)
    c.search(kappa=0.5, basis="kfac", plan_only=True, samples=ENDLESS)
    c.pull({1: world.keys[1]})  # hears of the search
    rng = np.random.default_rng(1)
    grads = {i: 1e-9 * rng.normal(size=(ROWS[i], d)).astype(np.float32) for i, d in DIMS.items()}
    c.push({i: (world.keys[i], grads[i]) for i in DIMS}, samples=3)
    for slot in c.search_plan()["slots"]:
        i = slot["id"]
        H = 9 * grads[i].astype(float).T @ grads[i] / ROWS[i]
        H += 1e-3 * np.linalg.eigvalsh(H)[-1] * np.eye(DIMS[i])
        _, A = moments(world.rows[i].astype(float), world.lookups[i] + 1)
        values = np.sort(np.linalg.eigvals(H @ A).real)[::-1]
        np.testing.assert_allclose(slot["eigenvalues"], values * ROWS[i] / 3, rtol=1e-4)


def test_ftrl_refuses_kfac(standalone, connect):
    c = connect(standalone(1, slots=slots(optimizer="ftrl")))
    with pytest.raises(dimfit.Error) as info:
        c.search(kappa=0.5, basis="kfac")
    assert info.value.code == "INVALID" and "ftrl" in info.value.message
