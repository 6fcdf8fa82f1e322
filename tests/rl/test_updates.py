"""The update: equal to torch's own Adam step by step, and the same compiled as eager."""

import torch
import torch._inductor.utils
from torch import Tensor, nn

from dapbench.rl.updates import Batch, FlatParameters, Update, can_compile


def make(compile: bool, power: int = 2, max_grad_norm: float = 0.05) -> tuple[nn.Module, Update]:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(3, 8), nn.Tanh(), nn.Linear(8, 1))

    def loss(batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        error = ((net(batch["x"])[:, 0] - batch["y"]) ** power).mean()
        return error, {"error": error, "offset": batch["z"].mean()}

    return net, Update(FlatParameters({"net": net}), loss, 1e-2, max_grad_norm=max_grad_norm, compile=compile)


def table(length: int = 60) -> Batch:
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(length, 3, generator=generator)
    return {"x": x, "y": x.sum(-1), "z": torch.arange(float(length))}


def test_equals_torch_adam_with_clipping() -> None:
    net, update = make(compile=False)
    other, _ = make(compile=False)
    optimizer = torch.optim.Adam(other.parameters(), lr=1e-2)
    data = table()
    for epoch in range(4):
        update.epoch(data, 10, torch.Generator().manual_seed(epoch))
        order = torch.randperm(60, generator=torch.Generator().manual_seed(epoch))
        for rows in order.view(6, 10):
            optimizer.zero_grad()
            ((other(data["x"][rows])[:, 0] - data["y"][rows]) ** 2).mean().backward()
            nn.utils.clip_grad_norm_(other.parameters(), 0.05)
            optimizer.step()
    for ours, theirs in zip(net.parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-6)


def test_compiled_equals_eager_after_20_updates() -> None:
    assert can_compile()
    eager_net, eager = make(compile=False)
    compiled_net, compiled = make(compile=True)
    for epoch in range(20):
        expected = eager.epoch(table(), 10, torch.Generator().manual_seed(epoch))
        metrics = compiled.epoch(table(), 10, torch.Generator().manual_seed(epoch))
    for ours, theirs in zip(compiled_net.parameters(), eager_net.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-6)
    assert metrics.keys() == expected.keys() == {"loss", "grad_norm", "error", "offset"}


def test_compiled_updates_and_lengths_in_turn_keep_to_their_own() -> None:
    losses = []
    for compile in (True, False):
        updates = [make(compile, power)[1] for power in (2, 4)]
        turns = [(update, length) for length in (60, 90, 60) for update in updates] * 2
        losses.append([u.epoch(table(n), 10, torch.Generator().manual_seed(0))["loss"] for u, n in turns])
    torch.testing.assert_close(torch.tensor(losses[0]), torch.tensor(losses[1]), rtol=1e-3, atol=1e-6)


def test_loops_are_kept_from_one_process_to_the_next_each_with_its_own_body() -> None:
    """Another loss over the same shapes is not taken for the one that the cache has."""
    torch._dynamo.utils.counters.clear()
    with torch._inductor.utils.fresh_cache():
        losses = []
        for power in (2, 4, 2):
            torch._dynamo.reset()  # forgets what this process compiled, so that it asks the cache
            losses.append(make(True, power)[1].epoch(table(), 10, torch.Generator().manual_seed(0))["loss"])
        eager = [make(False, power)[1].epoch(table(), 10, torch.Generator().manual_seed(0))["loss"] for power in (2, 4)]
    torch.testing.assert_close(losses, [*eager, eager[0]], rtol=1e-5, atol=0)
    assert torch._dynamo.utils.counters["inductor"]["fxgraph_cache_hit"] >= 1


@torch._dynamo.config.patch(disable=True)
def test_updates_run_with_torch_compile_switched_off() -> None:
    _, update = make(compile=True)
    assert update.epoch(table(), 10, torch.Generator().manual_seed(0))["offset"] == 29.5


def test_compiling_beforehand_moves_nothing() -> None:
    net, update = make(compile=False)
    before = [p.clone() for p in net.parameters()]
    update.compile_for(table(), 10)
    assert all(torch.equal(a, b) for a, b in zip(before, net.parameters(), strict=True))
    state = update.optimizer.state[update.flat]
    assert state["step"] == 0
    assert not state["exp_avg"].any()
    expected = make(compile=False)[1].epoch(table(), 10, torch.Generator().manual_seed(0))
    assert update.epoch(table(), 10, torch.Generator().manual_seed(0)) == expected


def test_a_loss_may_report_other_numbers_for_other_columns() -> None:
    net = nn.Linear(3, 1)

    def loss(batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        further = {"offset": batch["z"].mean()} if "z" in batch else {}
        return ((net(batch["x"])[:, 0] - batch["y"]) ** 2).mean(), further

    update = Update(FlatParameters({"net": net}), loss, 1e-2, compile=False)
    generator = torch.Generator().manual_seed(0)
    whole = table()
    fewer = {name: whole[name] for name in ("x", "y")}
    for columns, names in ((whole, {"loss", "grad_norm", "offset"}), (fewer, {"loss", "grad_norm"})) * 2:
        assert update.epoch(columns, 10, generator).keys() == names


def test_every_row_is_used_once() -> None:
    _, update = make(compile=False)
    metrics = update.epoch(table(), 10, torch.Generator().manual_seed(0))
    assert metrics["offset"] == 29.5  # the mean of 0 … 59


def test_minibatches_have_the_size_asked_for_and_the_rest_is_left_out() -> None:
    sizes = []

    def loss(batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        sizes.append(len(batch["x"]))
        return net(batch["x"]).mean(), {}

    net = nn.Linear(3, 1)
    update = Update(FlatParameters({"net": net}), loss, 1e-2, compile=False)
    update.epoch(table(), 25, torch.Generator())
    assert set(sizes) == {25}
    assert update.optimizer.state_dict()["state"][0]["step"] == 2


def test_learning_rate_can_change_and_state_is_adams() -> None:
    net, update = make(compile=False)
    update.set_learning_rate(0.0)
    before = [p.detach().clone() for p in net.parameters()]
    update.epoch(table(), 10, torch.Generator().manual_seed(0))
    for ours, theirs in zip(net.parameters(), before, strict=True):
        assert torch.equal(ours, theirs)
    assert update.optimizer.state_dict()["state"][0]["step"] == 6


def test_only_trainable_parameters_move() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(3, 8), nn.Linear(8, 1))
    net[0].requires_grad_(False)
    frozen = net[0].weight.clone()
    free = net[1].weight.detach().clone()

    def loss(batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        return net(batch["x"]).mean(), {}

    Update(FlatParameters({"net": net}), loss, 1e-2, compile=False).epoch(table(), 30, torch.Generator())
    assert torch.equal(net[0].weight, frozen)
    assert not torch.equal(net[1].weight, free)


def test_two_updates_can_share_parameters() -> None:
    """PPG's phases do: both move the same weights, each with moments of its own."""
    torch.manual_seed(0)
    net = nn.Linear(3, 1)
    parameters = FlatParameters({"net": net})
    first, second = (
        Update(parameters, lambda batch, sign=sign: (sign * net(batch["x"]).mean(), {}), 1e-2, compile=False)
        for sign in (1.0, -1.0)
    )
    before = net.weight.detach().clone()
    first.epoch(table(), 60, torch.Generator())
    between = net.weight.detach().clone()
    second.epoch(table(), 60, torch.Generator())
    assert not torch.equal(between, before)
    torch.testing.assert_close(net.weight, before, atol=1e-4, rtol=0)
