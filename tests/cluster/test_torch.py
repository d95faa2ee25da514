"""dimfit.torch: gradients and scores against nn.Embedding and autograd, layout changes under a model
that trains, searches answered, and the watch over models whose embeddings live elsewhere."""

from __future__ import annotations

import os
import warnings

import numpy as np
import pytest

import dimfit

if "libtsan" in os.environ.get("LD_PRELOAD", ""):
    pytest.skip("PyTorch's own threads are not instrumented", allow_module_level=True)
torch = pytest.importorskip("torch", reason="PyTorch is not installed (Debian: python3-torch)")

import dimfit.torch  # noqa: E402
from torch import nn  # noqa: E402

torch.set_num_threads(1)

DIM = 8
SLOTS = [
    {"id": 1, "name": "user", "dim": DIM, "optimizer": "sgd", "lr": 0.5, "init_scale": 0.3},
    {"id": 2, "name": "tags", "dim": DIM, "optimizer": "sgd", "lr": 0.5, "init_scale": 0.3},
]


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(1)


def cluster(standalone, shards=2, **settings):
    return standalone(shards, slots=SLOTS, **settings)


def pulled(client, slot, keys):
    return torch.from_numpy(client.pull({slot: keys.numpy().astype(np.uint64)})[slot])


def beside(client, slot, n):
    """nn.Embedding with the rows of feasigns 0 .. n - 1."""
    return nn.Embedding(n, DIM, _weight=pulled(client, slot, torch.arange(n)).clone())


class Head(nn.Module):
    def __init__(self, fields=2):
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(fields * DIM, 8), nn.Tanh(), nn.Linear(8, 1))

    def forward(self, *parts):
        return self.layers(torch.cat(parts, 1)).squeeze(1)


def log_loss(logits, labels):
    return nn.functional.binary_cross_entropy_with_logits(logits, labels)


def batch(n=64, keys=20):
    """Feasigns, some of them several times, bags of uneven length and labels."""
    offsets = torch.cat([torch.zeros(1, dtype=torch.long), torch.randint(0, 4, (n - 1,)).cumsum(0)])
    tags = torch.randint(0, keys, (int(offsets[-1]) + 3,))
    return torch.randint(0, keys, (n,)), tags, offsets, torch.randint(0, 2, (n,)).float()


# ---- gradients -----------------------------------------------------------------------------------


@pytest.mark.parametrize("view", ["full", "compact"])
@pytest.mark.parametrize("mode", ["sum", "mean", "max"])
def test_gradients_are_those_of_nn_embedding(standalone, connect, view, mode):
    client = connect(cluster(standalone))
    shards = dimfit.torch.Shards(client, view=view)
    user = dimfit.torch.Embedding(shards, 1)
    tags = dimfit.torch.EmbeddingBag(shards, 2, mode=mode)
    users, bags = beside(client, 1, 20), beside(client, 2, 20)
    bag = nn.EmbeddingBag(20, DIM, mode=mode, _weight=bags.weight.detach().clone())
    head = Head()
    ids, members, offsets, labels = batch()

    mine = log_loss(head(user(ids), tags(members, offsets)), labels)
    dense = torch.autograd.grad(mine, list(head.parameters()), retain_graph=True)
    mine.backward()
    shards.step(samples=len(labels))
    theirs = log_loss(head(users(ids), bag(members, offsets)), labels)
    theirs.backward()

    assert abs(mine.item() - theirs.item()) < 1e-6
    for one, parameter in zip(dense, head.parameters()):
        torch.testing.assert_close(one, parameter.grad / 2, rtol=1e-6, atol=1e-6)
    for slot, weight in ((1, users.weight), (2, bag.weight)):
        # sgd of rate 0.5: what the push has moved a row by is half of its gradient
        moved = (weight.detach() - pulled(client, slot, torch.arange(20))) / 0.5
        torch.testing.assert_close(moved, weight.grad, rtol=0, atol=1e-6)


def test_bags_may_be_rectangular_weighted_and_empty(standalone, connect):
    client = connect(cluster(standalone))
    full, compact = dimfit.torch.Shards(client), dimfit.torch.Shards(client, view="compact")
    keys = torch.randint(0, 20, (5, 3))
    theirs = nn.EmbeddingBag(20, DIM, mode="sum", _weight=beside(client, 2, 20).weight.detach())
    weights = torch.rand(5, 3)
    offsets = torch.tensor([0, 4, 4, 15, 15])
    for shards in (full, compact):
        mine = dimfit.torch.EmbeddingBag(shards, 2, mode="sum")
        torch.testing.assert_close(mine(keys), theirs(keys))
        flat = keys.reshape(-1)
        torch.testing.assert_close(mine(flat, offsets), theirs(flat, offsets))
        torch.testing.assert_close(
            mine(keys, per_sample_weights=weights), theirs(keys, per_sample_weights=weights)
        )
        assert mine(torch.zeros(2, 0, dtype=torch.long)).abs().sum() == 0
        with pytest.raises(dimfit.Error):
            mine(flat)


def test_gradients_of_several_lookups_and_backwards_add_up(standalone, connect):
    client = connect(cluster(standalone))
    shards = dimfit.torch.Shards(client)
    user = dimfit.torch.Embedding(shards, 1)
    theirs = beside(client, 1, 20)
    for module in (user, theirs):
        for ids in (torch.tensor([[1, 2], [2, 3]]), torch.tensor([[3, 3], [7, 1]])):
            rows = module(ids)
            (rows.pow(2).sum() + module(ids[0]).pow(3).sum()).backward()
    shards.step()
    moved = (theirs.weight.detach() - pulled(client, 1, torch.arange(20))) / 0.5
    torch.testing.assert_close(moved, theirs.weight.grad, rtol=0, atol=1e-5)
    before = pulled(client, 1, torch.arange(20))
    shards.step()  # nothing is left
    torch.testing.assert_close(pulled(client, 1, torch.arange(20)), before, rtol=0, atol=0)


def test_negative_ids_are_the_upper_half_of_feasigns(standalone, connect):
    client = connect(cluster(standalone))
    user = dimfit.torch.Embedding(dimfit.torch.Shards(client), 1)
    rows = client.pull({1: np.array([2**64 - 1, 2**63], np.uint64)})[1]
    np.testing.assert_array_equal(user(torch.tensor([-1, -(2**63)])).detach().numpy(), rows)


def test_rows_sent_for_ahead_are_used_once_and_lack_the_step_between(standalone, connect):
    client = connect(cluster(standalone))
    shards = dimfit.torch.Shards(client)
    user = dimfit.torch.Embedding(shards, 1)
    ids = torch.arange(10)
    old = pulled(client, 1, ids)
    shards.prefetch({1: ids, 2: ids})
    user(ids).sum().backward()  # uses them
    shards.prefetch({1: ids})
    shards.step()
    with torch.no_grad():
        torch.testing.assert_close(user(ids), old, rtol=0, atol=0)
        torch.testing.assert_close(user(ids), old - 0.5, rtol=0, atol=1e-6)


# ---- scores --------------------------------------------------------------------------------------


def on_alpha(model, inputs, labels):
    """dL/dalpha at alpha = 1, by autograd: samples times that of the mean loss."""
    alpha = torch.ones(len(inputs), DIM, dtype=torch.float64, requires_grad=True)
    parts = [value.double() * a for value, a in zip(inputs, alpha)]
    loss = log_loss(model.double()(*parts), labels.double())
    (g,) = torch.autograd.grad(loss, alpha)
    model.float()
    return len(labels) * g.numpy()


def test_scores_are_autograds_on_alpha(standalone, connect):
    client = connect(cluster(standalone, 3))
    shards = dimfit.torch.Shards(client)
    user, tags = dimfit.torch.Embedding(shards, 1), dimfit.torch.EmbeddingBag(shards, 2)
    head = Head()
    expected = np.zeros((2, DIM))
    for step in range(1, 5):
        ids, members, offsets, labels = batch(keys=200)
        parts = user(ids), tags(members, offsets)
        expected += np.abs(on_alpha(head, [part.detach() for part in parts], labels))
        log_loss(head(*parts), labels).backward()
        shards.step(samples=len(labels), mode="train+score", step=step)
    scores = client.scores("step")
    np.testing.assert_allclose(
        np.stack([scores[1], scores[2]]), expected / expected.sum(), rtol=1e-5
    )


def test_search_that_freezes_training_is_answered_between_batches(standalone, connect):
    daemon = cluster(standalone)
    client, admin = connect(daemon), connect(daemon)
    shards = dimfit.torch.Shards(client)
    user, tags, head = dimfit.torch.Embedding(shards, 1), dimfit.torch.EmbeddingBag(shards, 2), Head()
    held = [batch() for _ in range(3)]

    def loss_of(ids, members, offsets, labels):
        return log_loss(head(user(ids), tags(members, offsets)), labels)

    def on_score(n):
        return (loss_of(*held[n - 1]), len(held[n - 1][3])) if n <= len(held) else None

    shards.on_score = on_score
    train = batch()
    loss_of(*train).backward()
    gradients = [p.grad.clone() for p in head.parameters()]
    before = pulled(client, 1, torch.arange(20))
    admin.search(kappa=0.5, basis="axis", strategy="sseds", mode="freeze", samples=192, plan_only=True)
    shards.step(samples=64)  # turned away, answers the search, and then gets through
    assert admin.search_wait()["samples"] == 192
    for old, parameter in zip(gradients, head.parameters()):
        torch.testing.assert_close(parameter.grad, old, rtol=0, atol=0)
    assert (pulled(client, 1, torch.arange(20)) != before).any()
    assert abs(sum(s.sum() for s in admin.scores("step").values()) - 1) < 1e-9


@pytest.mark.parametrize("view", ["full", "compact"])
def test_trials_are_evaluated_between_batches(standalone, connect, view):
    daemon = cluster(standalone)
    client, admin = connect(daemon), connect(daemon)
    shards = dimfit.torch.Shards(client, view=view)
    user, tags, head = dimfit.torch.Embedding(shards, 1), dimfit.torch.EmbeddingBag(shards, 2), Head()
    for _ in range(3):
        ids, members, offsets, labels = batch()
        log_loss(head(user(ids), tags(members, offsets)), labels).backward()
        shards.step(samples=64)
    ids, members, offsets, labels = batch()
    whole = [user(ids).detach(), tags(members, offsets).detach()]
    asked = []

    def on_trial(samples):
        parts = user(ids), tags(members, offsets)
        loss = log_loss(head(*parts), labels).item()
        asked.append((loss, [part.detach().clone() for part in parts]))
        return loss, None, len(labels)

    shards.on_trial = on_trial
    admin.search(kappa=0.5, basis="axis", strategy="mask", mode="live", plan_only=True)
    for _ in range(200):
        shards._ask_at = 0.0
        shards.step()
        if admin.search_status()["phase"] == "planned":
            break
    assert admin.search_status()["phase"] == "planned"
    assert len(asked) == 2 * 2 * DIM  # a unit a trial: whole and masked
    drops = np.zeros((2, DIM))
    for (_, same), (loss, masked) in zip(asked[::2], asked[1::2]):
        differs = [(a - b).abs().amax(0) > 0 for a, b in zip(same, masked)]
        assert sum(int(d.sum()) for d in differs) == 1
        slot = 0 if differs[0].any() else 1
        k = int(torch.nonzero(differs[slot])[0])
        assert masked[slot][:, k].abs().max() < 1e-6
        drops[slot, k] = loss - log_loss(head(*whole), labels).item()
    assert (drops != 0).all()


# ---- layout changes ------------------------------------------------------------------------------


def trained(standalone, connect, view):
    daemon = cluster(standalone, options=("--rollback-dir", "memory"))
    client, admin = connect(daemon), connect(daemon)
    shards = dimfit.torch.Shards(client, view=view)
    user, tags, head = dimfit.torch.Embedding(shards, 1), dimfit.torch.EmbeddingBag(shards, 2), Head()
    for step in range(1, 9):
        ids, members, offsets, labels = batch(keys=50)
        log_loss(head(user(ids), tags(members, offsets)), labels).backward()
        shards.step(samples=64, mode="train+score", step=step)
    return admin, shards, user, tags, head


@pytest.mark.parametrize("view", ["full", "compact"])
@pytest.mark.parametrize("basis", ["axis", "rotated"])
def test_change_at_full_width_leaves_the_function(standalone, connect, view, basis):
    admin, shards, user, tags, head = trained(standalone, connect, view)
    ids, members, offsets, labels = batch(keys=50)
    with torch.no_grad():
        before = head(user(ids), tags(members, offsets))
    admin.search(kappa=1, basis=basis, strategy="uniform", mode="live", samples=1)
    log_loss(head(user(ids), tags(members, offsets)), labels)
    shards._kept.clear()
    admin.search_wait()
    shards.client.refresh()
    assert shards.client.epoch == admin.epoch
    shards.batch += 1
    with torch.no_grad():
        after = head(user(ids), tags(members, offsets))
    torch.testing.assert_close(after, before, rtol=0, atol=2e-6)


@pytest.mark.parametrize("basis", ["axis", "rotated"])
def test_both_views_compute_the_same_and_go_on_through_shrinking_and_widening(
    standalone, connect, basis
):
    admin, shards, user, tags, head = trained(standalone, connect, "compact")
    optimizer = torch.optim.Adam([*user.parameters(), *tags.parameters(), *head.parameters()])
    shards.follow(optimizer)
    other = dimfit.torch.Shards(admin)
    full = dimfit.torch.Embedding(other, 1), dimfit.torch.EmbeddingBag(other, 2)
    ids, members, offsets, labels = batch(keys=50)

    def logits(one, two):
        return head(one(ids), two(members, offsets))

    graphs = []

    def train():
        optimizer.zero_grad()
        graphs.append(log_loss(logits(user, tags), labels))  # kept alive, as a loop's variable is
        graphs[-1].backward()
        optimizer.step()
        shards.step(samples=len(labels))

    def back():
        """To where both views agree."""
        for module in (user, tags):
            with torch.no_grad():
                module.transform.copy_(module.basis.T)
                module.mean.copy_(module.origin)

    train()
    back()

    def shrink():
        return admin.search(kappa=0.5, basis=basis, strategy="uniform", mode="live", samples=1)

    widths = []
    for change in (shrink, admin.search_rollback):
        change()
        assert admin.search_wait()["phase"] in ("committed", "rolled back")
        with torch.no_grad():
            torch.testing.assert_close(logits(user, tags), logits(*full), rtol=0, atol=1e-5)
        width = admin.layout()[1].width
        assert int(user.width) == width
        widths.append(width)
        old = user.transform.detach().clone()
        train()
        moved = (user.transform != old).any(1)
        assert moved[:width].all() and not moved[width:].any()
        back()
    assert widths == [DIM // 2, DIM]


def test_batch_that_looks_up_twice_across_a_change_is_refused_and_can_be_repeated(
    standalone, connect
):
    admin, shards, user, _, _ = trained(standalone, connect, "compact")
    ids = torch.arange(10)
    first = user(ids)
    admin.search(kappa=0.5, basis="axis", strategy="uniform", mode="live", samples=1, wait=True)
    with pytest.raises(dimfit.Error) as failed:
        user(ids)
    assert failed.value.code == "STALE_EPOCH"
    first.sum().backward()
    shards.step()  # of the old layout: mapped to the new one
    assert user(ids).shape == (10, DIM) and int(user.width) == DIM // 2


def test_state_of_another_layout_is_carried_over_when_loaded(standalone, connect):
    admin, shards, user, _, _ = trained(standalone, connect, "compact")
    with torch.no_grad():
        user.transform.add_(0.1 * torch.randn_like(user.transform))
    ids = torch.arange(50)
    saved = {name: value.clone() for name, value in user.state_dict().items()}
    admin.search(kappa=0.5, basis="rotated", strategy="uniform", mode="live", samples=1, wait=True)
    with torch.no_grad():
        expected = user(ids)
        again = dimfit.torch.Embedding(shards, 1)
        again.load_state_dict(saved)
        torch.testing.assert_close(again(ids), expected, rtol=0, atol=1e-5)
    assert int(again.width) == DIM // 2 and not again.transform[DIM // 2 :].any()


def test_cold_layer_starts_anew_and_its_optimizer_forgets(standalone):
    head = Head()
    optimizer = torch.optim.Adam(head.parameters())
    head(torch.randn(4, 8), torch.randn(4, 8)).sum().backward()
    optimizer.step()
    old = [p.detach().clone() for p in head.parameters()]
    dimfit.torch.cold(head.layers[0], optimizer)
    same = [torch.equal(a, b) for a, b in zip(old, head.parameters())]
    assert same == [False, False, True, True]
    assert [p in optimizer.state for p in head.parameters()] == same


def test_dense_weights_on_the_shards_are_everybodys(standalone, connect):
    daemon = cluster(standalone)
    one, two = connect(daemon), connect(daemon)
    heads = Head(), Head()
    both = [
        dimfit.torch.DenseOptimizer(client, head.parameters(), optimizer="sgd", lr=0.1)
        for client, head in zip((one, two), heads)
    ]
    torch.testing.assert_close(heads[0].layers[0].weight, heads[1].layers[0].weight, rtol=0, atol=0)
    start = heads[0].layers[0].weight.detach().clone()
    gradients = []
    for optimizer, head in zip(both, heads):
        optimizer.zero_grad()
        head(torch.ones(4, 8), torch.randn(4, 8)).sum().backward()
        gradients.append(head.layers[0].weight.grad.clone())
    for optimizer in both:
        optimizer.step()
    expected = start - 0.1 * (gradients[0] + gradients[1])
    torch.testing.assert_close(heads[1].layers[0].weight.detach(), expected, rtol=0, atol=1e-6)
    one.push({1: (np.arange(9, dtype=np.uint64), np.ones((9, DIM), np.float32))})
    one.search(kappa=0.5, basis="axis", strategy="uniform", mode="live", samples=1, wait=True)
    both[1].zero_grad()
    two.refresh()
    both[1].step()  # a new vector, with the weights as they are
    torch.testing.assert_close(heads[1].layers[0].weight.detach(), expected, rtol=0, atol=1e-6)


# ---- watch ---------------------------------------------------------------------------------------


class Model(nn.Module):
    """Knows nothing of dimfit."""

    def __init__(self, user, tags):
        super().__init__()
        self.user, self.tags, self.head = user, tags, Head()

    def forward(self, ids, members, offsets):
        return self.head(self.user(ids), self.tags(members, offsets))


def unmodified(client, n=20, mode="mean"):
    weights = [beside(client, slot, n).weight.detach().clone() for slot in (1, 2)]
    return Model(
        nn.Embedding(n, DIM, _weight=weights[0]), nn.EmbeddingBag(n, DIM, mode=mode, _weight=weights[1])
    )


@pytest.mark.parametrize("mode", ["sum", "mean", "max"])
def test_watched_scores_are_those_of_rows_on_the_shards(standalone, connect, mode):
    theirs = connect(cluster(standalone, auto_slots=True))
    ours = connect(cluster(standalone))
    model = unmodified(ours, mode=mode)
    shards = dimfit.torch.Shards(ours)
    user = dimfit.torch.Embedding(shards, 1)
    tags = dimfit.torch.EmbeddingBag(shards, 2, mode=mode)
    with dimfit.torch.watch(model, theirs, slots={"user": 1, "tags": 2}) as watcher:
        for step in range(1, 6):
            ids, members, offsets, labels = batch()
            log_loss(model(ids, members, offsets), labels).backward()
            log_loss(model.head(user(ids), tags(members, offsets)), labels).backward()
            shards.step(samples=len(labels), mode="score", step=step)
        with torch.no_grad():
            model(ids, members, offsets)
        assert watcher.lost == 0
    for estimator in ("single", "step", "fisher"):
        scores = theirs.scores(estimator)
        for slot, expected in ours.scores(estimator).items():
            np.testing.assert_allclose(scores[slot], expected, rtol=1e-5, atol=1e-5 * expected.max())


def test_plan_of_a_watch_rewrites_the_model_to_what_its_mask_computes(standalone, connect):
    ours = connect(cluster(standalone))
    client = connect(standalone(2, auto_slots=True))
    model = unmodified(ours)
    watcher = dimfit.torch.watch(model, client)
    watcher.start(kappa=0.4)
    for _ in range(5):
        ids, members, offsets, labels = batch()
        log_loss(model(ids, members, offsets), labels).backward()
    plan = watcher.plan()
    assert client.layout()[1].name == "user" and client.layout()[2].name == "tags"
    assert plan["samples"] == 5 * 64 and plan["params_before"] == 2 * 20 * DIM
    assert plan["params_after"] <= 0.4 * plan["params_before"]
    kept = {slot["name"]: slot["keep"] for slot in plan["slots"]}
    assert sum(map(len, kept.values())) * 20 == plan["params_after"]
    scores = client.scores("step")
    for slot in (1, 2):  # each slot keeps its best
        keep = kept[client.layout()[slot].name]
        assert set(keep) == set(np.argsort(-scores[slot])[: len(keep)])

    masked = unmodified(ours)
    masked.head.load_state_dict(model.head.state_dict())
    with torch.no_grad():
        for name, keep in kept.items():
            mask = torch.zeros(DIM)
            mask[keep] = 1
            getattr(masked, name).weight.mul_(mask)
    watcher.close()
    assert dimfit.torch.apply(model, plan) is model
    assert [tuple(m.table.weight.shape) for m in (model.user, model.tags)] == [
        (20, len(kept["user"])),
        (20, len(kept["tags"])),
    ]
    torch.testing.assert_close(model(ids, members, offsets), masked(ids, members, offsets))
    log_loss(model(ids, members, offsets), labels).backward()
    assert model.user.transform.grad is not None and model.tags.table.weight.grad is not None


def test_watch_of_a_cluster_that_is_gone_lets_the_model_train(standalone, connect):
    daemon = cluster(standalone)
    client = connect(daemon, timeout=1)
    model = unmodified(client)
    watcher = dimfit.torch.watch(model, client)
    daemon.stop()
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        for _ in range(3):
            ids, members, offsets, labels = batch()
            log_loss(model(ids, members, offsets), labels).backward()
        watcher.close()
    assert watcher.lost == 3 and len(warned) == 1 and "no answer" in str(warned[0].message)


def test_output_changed_in_place_is_told_and_not_scored(standalone, connect):
    client = connect(cluster(standalone))
    model = unmodified(client)
    watcher = dimfit.torch.watch(model, client, slots={"user": 1})
    model.user(torch.arange(5)).mul_(2).sum().backward()
    with pytest.warns(UserWarning, match="in place"):
        watcher.close()
    assert watcher.lost == 1 and not client.scores()[1].any()


def test_watch_says_what_does_not_fit(standalone, connect):
    client = connect(cluster(standalone))
    model = unmodified(client)
    for wanted, code in (({"nobody": 1}, "INVALID"), ({"user": 9}, "UNKNOWN_SLOT")):
        with pytest.raises(dimfit.Error) as failed:
            dimfit.torch.watch(model, client, slots=wanted)
        assert failed.value.code == code
    with pytest.raises(dimfit.Error) as failed:
        dimfit.torch.watch(nn.Sequential(nn.Embedding(4, 3)), client, slots={"0": 1})
    assert failed.value.code == "WIDTH"
    with pytest.raises(dimfit.Error) as failed:
        dimfit.torch.watch(Head(), client)
    assert failed.value.code == "INVALID"
    watcher = dimfit.torch.watch(model, client)
    for options in ({"basis": "rotated"}, {"estimator": "row"}, {"mode": "freeze"}):
        with pytest.raises(dimfit.Error) as failed:
            watcher.start(kappa=0.5, **options)
        assert failed.value.code == "INVALID"
    with pytest.raises(dimfit.Error):
        dimfit.torch.apply(Head(), {"slots": [{"name": "user", "rows": 1, "dim": 2, "keep": []}]})
