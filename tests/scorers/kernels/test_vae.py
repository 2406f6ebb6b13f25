import numpy as np
import pytest

from scorers.kernels.vae import codes, train


def low_rank(n=600):
    draw = np.random.default_rng(0)
    return draw.normal(size=(n, 2)) @ draw.normal(size=(2, 10))


def trained(x, **options):
    return train(x, **{"latent": 4, "seed": 0, "hidden": 32, "held": np.arange(len(x)) % 10 == 0, **options})


def test_same_seed_same_codes_and_another_seed_another():
    x = low_rank()
    first, again, other = (trained(x, seed=seed, limit=50).weights for seed in (1, 1, 2))
    np.testing.assert_allclose(codes(x, first), codes(x, again), atol=1e-5)
    assert np.abs(codes(x, first) - codes(x, other)).max() > 1e-2


def test_codes_hold_the_data():
    x = low_rank()
    z = codes(x, trained(x, hidden=64, limit=400, rate=3e-3).weights)
    assert z.shape == (600, 4)
    assert z.dtype == np.float32
    fitted = np.c_[z, np.ones(len(z))] @ np.linalg.lstsq(np.c_[z, np.ones(len(z))], x, rcond=None)[0]
    assert ((x - fitted) ** 2).sum() / ((x - x.mean(axis=0)) ** 2).sum() < 0.1


def test_rows_are_coded_alone():
    x = low_rank()
    weights = trained(x, limit=20).weights
    np.testing.assert_allclose(codes(x, weights)[7:9], codes(x[7:9], weights), atol=1e-6)
    assert codes(x[:0], weights).shape == (0, 4)


def test_ends_once_the_held_out_loss_falls_no_more():
    x = low_rank(200)
    training = trained(x, hidden=16, rate=1e-2, limit=20_000)
    assert training.converged.all()
    assert training.iterations < 20_000
    early = trained(x, hidden=16, rate=1e-2, limit=100)
    assert not early.converged.any()
    assert training.held_out[0] < early.held_out[0]


def test_what_is_held_out_is_not_learned_from():
    x = low_rank(200)
    held = np.arange(200) >= 150
    other = np.where(held[:, None], x[::-1] * 3 + 1, x)
    first, second = (trained(each, held=held, limit=40).weights for each in (x, other))  # one look: at the end
    for name in first:
        np.testing.assert_array_equal(first[name], second[name])
    with pytest.raises(ValueError, match="no row to learn from"):
        trained(x, held=np.ones(200, bool))


def test_without_anything_held_out_it_runs_a_fixed_while():
    training = trained(low_rank(50), held=None, limit=40)
    assert training.iterations == 10
    assert training.ended["held_out"] is None
