import numpy as np

from scorers.kernels.vae import codes, train


def low_rank(n=600):
    draw = np.random.default_rng(0)
    return draw.normal(size=(n, 2)) @ draw.normal(size=(2, 10))


def test_same_seed_same_codes_and_another_seed_another():
    x = low_rank()
    first, again, other = (train(x, latent=4, seed=seed, hidden=32, steps=50) for seed in (1, 1, 2))
    np.testing.assert_allclose(codes(x, first), codes(x, again), atol=1e-5)
    assert np.abs(codes(x, first) - codes(x, other)).max() > 1e-2


def test_codes_hold_the_data():
    x = low_rank()
    z = codes(x, train(x, latent=4, seed=0, hidden=64, steps=400, rate=3e-3))
    assert z.shape == (600, 4)
    assert z.dtype == np.float32
    fitted = np.c_[z, np.ones(len(z))] @ np.linalg.lstsq(np.c_[z, np.ones(len(z))], x, rcond=None)[0]
    assert ((x - fitted) ** 2).sum() / ((x - x.mean(axis=0)) ** 2).sum() < 0.1


def test_rows_are_coded_alone():
    x = low_rank()
    weights = train(x, latent=4, seed=0, hidden=32, steps=20)
    np.testing.assert_allclose(codes(x, weights)[7:9], codes(x[7:9], weights), atol=1e-6)
    assert codes(x[:0], weights).shape == (0, 4)
