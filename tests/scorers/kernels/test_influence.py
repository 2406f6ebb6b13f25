from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from scorers.kernels.influence import Objective, curvature, gradient, influence, solve
from scorers.kernels.mlp import adam


def squared(module, batch):
    return 0.5 * ((module(batch[0]) - batch[1]) ** 2).flatten(1).sum(1)


def drawn(module, batch, generator):
    out = module(batch[0])
    return (torch.randn(out.shape, generator=generator, dtype=out.dtype) * out).flatten(1).sum(1)


SQUARED = Objective(squared, drawn)


def linear_problem(n=400, inputs=4, seed=0):
    draw = np.random.default_rng(seed)
    x = draw.normal(size=(n, inputs)) @ draw.normal(size=(inputs, inputs))
    y = x @ draw.normal(size=(inputs, 1)) + draw.normal(size=(n, 1))
    return x, y


def exact(x, y, wanted_x, wanted_y, damping):
    """I of each sample for least squares with a bias, in float64: the residuals, the Hessian, its inverse."""
    a, b = (np.c_[z, np.ones(len(z))] for z in (x, wanted_x))
    weights = np.linalg.lstsq(a, y, rcond=None)[0]
    hessian = a.T @ a / len(a)
    values, vectors = np.linalg.eigh(hessian)
    asked = b.T @ (b @ weights - wanted_y) / len(b)
    solved = vectors @ (vectors.T @ asked / (values + damping * values.mean())[:, None])
    return weights, ((a * (a @ weights - y)) @ solved)[:, 0]


def test_is_the_closed_form_for_least_squares():
    x, y = linear_problem()
    wanted_x, wanted_y = linear_problem(30, seed=1)
    weights, want = exact(x, y, wanted_x, wanted_y, damping=0.01)
    module = nn.Sequential(nn.Linear(4, 1, dtype=torch.float64))
    with torch.no_grad():
        module[0].weight.copy_(torch.from_numpy(weights[:-1].T))
        module[0].bias.copy_(torch.from_numpy(weights[-1]))
    data, wanted = ((torch.from_numpy(a), torch.from_numpy(b)) for a, b in ((x, y), (wanted_x, wanted_y)))
    found = curvature(module, SQUARED, [data], seed=0, draws=400)
    got = influence(module, SQUARED, data, solve(found, gradient(module, SQUARED, wanted), 0.01)).numpy()
    assert np.corrcoef(got, want)[0, 1] > 0.999
    np.testing.assert_allclose(got, want, atol=0.05 * np.abs(want).max())


def test_samples_add_up_to_the_gradient_whatever_the_batches_and_axes():
    torch.manual_seed(0)
    module = nn.Sequential(nn.Linear(3, 5), nn.Tanh(), nn.Linear(5, 2, bias=False)).double()
    x, y = torch.randn(6, 4, 3, dtype=torch.float64), torch.randn(6, 4, 2, dtype=torch.float64)  # four tokens a sample
    slope = gradient(module, SQUARED, (x, y))
    plain = torch.autograd.grad(squared(module, (x, y)).mean(), list(module.parameters()))
    np.testing.assert_allclose(slope["0"], torch.cat([plain[0], plain[1][:, None]], dim=1))
    np.testing.assert_allclose(slope["2"], plain[2])
    identity = {name: torch.eye(g.shape[0], g.shape[1], dtype=torch.float64) for name, g in slope.items()}
    each = influence(module, SQUARED, (x, y), identity)
    np.testing.assert_allclose(each.mean(), sum((identity[name] * slope[name]).sum() for name in slope), rtol=1e-9)
    np.testing.assert_allclose(each[2:3], influence(module, SQUARED, (x[2:3], y[2:3]), identity))
    whole, parts = (
        curvature(module, Objective(squared), batches, seed=0)
        for batches in ([(x, y)], [(x[:2], y[:2]), (x[2:], y[2:])])
    )
    for name in slope:
        np.testing.assert_allclose(whole.values[name], parts.values[name])


def retrained(x, y, keep, hidden=12, steps=1500):
    """Networks from one beginning, [K] of them at once, each on the samples of its row of ``keep`` [K, n]."""
    draw = torch.Generator().manual_seed(0)
    sizes = [(x.shape[1], hidden), (hidden, y.shape[1])]
    first = [torch.randn(a, b, generator=draw, dtype=torch.float64) / a**0.5 for a, b in sizes]
    biases = [torch.zeros(1, b, dtype=torch.float64) for _, b in sizes]
    layers = [
        t.expand(len(keep), *t.shape).clone().requires_grad_() for pair in zip(first, biases, strict=True) for t in pair
    ]
    m, v = ([torch.zeros_like(t) for t in layers] for _ in range(2))
    data = torch.from_numpy(x).expand(len(keep), -1, -1)
    weight = torch.from_numpy(keep / keep.sum(axis=1, keepdims=True))
    for step in range(1, steps + 1):
        out = torch.baddbmm(layers[3], torch.tanh(torch.baddbmm(layers[1], data, layers[0])), layers[2])
        loss = (0.5 * ((out - torch.from_numpy(y)) ** 2).sum(2) * weight).sum()
        loss = loss + sum(1e-3 * (t**2).sum() for t in layers)
        with torch.no_grad():
            adam(layers, torch.autograd.grad(loss, layers), m, v, step, 1e-2 * (1 - step / (steps + 1)), 0.0)
    return [t.detach() for t in layers]


def test_foretells_what_retraining_without_a_group_does():
    draw = np.random.default_rng(2)
    groups = np.repeat(np.arange(16), 10)
    x = draw.uniform(-1, 1, (160, 2))
    y = np.sin(3 * x[:, :1]) + x[:, 1:] ** 2 + draw.normal(0, 0.1, (160, 1))
    y += np.where(groups < 6, draw.normal(0, 1.0, 16)[groups], 0)[:, None]  # some groups are wrong, each in its way
    wanted = draw.uniform(-1, 1, (200, 2))
    goal = np.sin(3 * wanted[:, :1]) + wanted[:, 1:] ** 2
    keep = np.stack([np.ones(160), *(groups != g for g in range(16))]).astype(float)
    layers = retrained(x, y, keep)
    losses = [
        0.5 * ((np.tanh(wanted @ w0 + b0) @ w1 + b1 - goal) ** 2).mean()
        for w0, b0, w1, b1 in zip(*(t.numpy() for t in layers), strict=True)
    ]
    change = np.array(losses[1:]) - losses[0]  # positive: the group was helpful
    module = nn.Sequential(nn.Linear(2, 12), nn.Tanh(), nn.Linear(12, 1)).double()
    with torch.no_grad():
        for at, layer in ((0, module[0]), (2, module[2])):
            layer.weight.copy_(layers[at][0].T)
            layer.bias.copy_(layers[at + 1][0, 0])
    data = (torch.from_numpy(x), torch.from_numpy(y))
    found = curvature(module, SQUARED, [data], seed=0, draws=50)
    asked = gradient(module, SQUARED, (torch.from_numpy(wanted), torch.from_numpy(goal)))
    each = influence(module, SQUARED, data, solve(found, asked, 0.1)).numpy()
    told = np.array([each[groups == g].mean() for g in range(16)])
    rank = [np.argsort(np.argsort(z)) for z in (told, change)]
    assert np.corrcoef(*rank)[0, 1] > 0.8


def test_says_what_it_cannot_attribute_to():
    shared = nn.Linear(2, 2)
    batch = (torch.randn(3, 2), torch.randn(3, 2))
    with pytest.raises(ValueError, match="used twice"):
        gradient(nn.Sequential(shared, nn.ReLU(), shared), SQUARED, batch)
    unused = nn.ModuleDict({"used": shared, "idle": nn.Linear(2, 2)})
    unused.forward = lambda x: unused["used"](x)
    with pytest.raises(ValueError, match="'idle' has no part"):
        gradient(unused, SQUARED, batch)
    assert list(gradient(unused, replace(SQUARED, layers=lambda name: name != "idle"), batch)) == ["used"]
    with pytest.raises(ValueError, match="no linear layer"):
        gradient(nn.Sequential(nn.Conv1d(2, 2, 1)), SQUARED, batch)


class Attentive(nn.Module):
    """A policy of a frozen first layer, attention, and a head that works in place."""

    def __init__(self):
        super().__init__()
        self.eyes = nn.Linear(3, 8).requires_grad_(False)
        self.body = nn.TransformerEncoderLayer(8, 2, 16, dropout=0.0, batch_first=True)
        self.head = nn.Sequential(nn.Linear(8, 8), nn.ReLU(inplace=True), nn.Linear(8, 2))

    def forward(self, x):
        return self.head(self.body(self.eyes(x)))


def test_a_policy_of_ones_own_may_attend_and_work_in_place():
    torch.manual_seed(0)
    module = Attentive().double().eval()
    batch = torch.randn(6, 4, 3, dtype=torch.float64), torch.randn(6, 4, 2, dtype=torch.float64)
    with pytest.raises(ValueError, match=r"'body.self_attn.out_proj' has no part in the loss: leave it out"):
        gradient(module, SQUARED, batch)
    objective = Objective(squared, drawn, layers=lambda name: "self_attn" not in name)
    slope = gradient(module, objective, batch)
    assert list(slope) == ["body.linear1", "body.linear2", "head.0", "head.2"]
    parameters = dict(module.named_parameters())
    for name, found in slope.items():
        own = [parameters[f"{name}.weight"], parameters[f"{name}.bias"]]
        weight, bias = torch.autograd.grad(squared(module, batch).mean(), own)
        np.testing.assert_allclose(found, torch.cat([weight, bias[:, None]], dim=1), atol=1e-12)
    asked = solve(curvature(module, objective, [batch], seed=0), slope, 0.1)
    each = influence(module, objective, batch, asked)
    assert each.shape == (6,)
    assert each.mean() > 0  # to train more on what is wanted helps it


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA here")
def test_cuda_gives_the_same():
    x, y = linear_problem()
    torch.manual_seed(0)
    module = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 1)).double()
    found = []
    for device in ("cpu", "cuda"):
        module = module.to(device)
        data = tuple(torch.from_numpy(z).to(device) for z in (x, y))
        solved = solve(curvature(module, Objective(squared), [data], seed=0), gradient(module, SQUARED, data), 0.1)
        found.append(influence(module, SQUARED, data, solved).cpu())
    np.testing.assert_allclose(*found, rtol=1e-6, atol=1e-9)
