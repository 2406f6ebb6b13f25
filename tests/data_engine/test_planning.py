import numpy as np
import pytest

from data_engine.errors import RequestError
from data_engine.planning import fit_law

SCENES = np.array([1, 1, 2, 2, 4, 4, 8, 8, 16, 16.0])
OBJECTS = np.array([1, 4, 8, 2, 1, 8, 2, 16, 4, 1.0])
TRUTH = 0.9 * SCENES**-0.5 * OBJECTS**-0.2


def test_exact_points_give_the_law_that_made_them():
    law = fit_law({"scenes": SCENES, "objects": OBJECTS}, 1000 * TRUTH, np.full(10, 1000))
    assert law.beta == pytest.approx([np.log(0.9), -0.5, -0.2], abs=1e-6)
    assert law.dispersion == 1
    assert law.failure({"scenes": 9, "objects": 1}).value == pytest.approx(0.3, abs=1e-6)
    assert law.needed("scenes", {"scenes": 1, "objects": 1}, 0.9).value == pytest.approx(81, rel=1e-4)
    gain = law.gain("scenes", {"scenes": 4, "objects": 1}, 5)
    assert gain.value == pytest.approx(0.45 - 0.3, abs=1e-6)
    assert gain.low < gain.value < gain.high


@pytest.mark.parametrize("luck", [0.0, 0.25])
def test_the_interval_holds_the_exponent_also_where_trainings_differ(luck):
    rng = np.random.default_rng(0)
    inside, widths = [], []
    for _ in range(150):
        rate = np.clip(TRUTH * np.exp(luck * rng.normal(size=10)), 0, 0.999)
        law = fit_law({"scenes": SCENES, "objects": OBJECTS}, rng.binomial(60, rate), np.full(10, 60))
        found = law.exponent("scenes")
        inside.append(found.low <= -0.5 <= found.high)
        widths.append(found.high - found.low)
        assert found.low <= found.value <= found.high
    assert np.mean(inside) >= 0.9
    assert np.median(widths) < (0.6 if luck else 0.5)


def test_the_next_unit_goes_where_failure_falls_most_for_its_cost():
    law = fit_law({"scenes": SCENES, "objects": OBJECTS}, 1000 * TRUTH, np.full(10, 1000))
    name, sure = law.best({"scenes": 4, "objects": 4}, {})
    assert (name, sure > 0.95) == ("scenes", True)
    name, sure = law.best({"scenes": 4, "objects": 4}, {"scenes": 10})
    assert (name, sure > 0.95) == ("objects", True)
    few = fit_law({"scenes": SCENES, "objects": OBJECTS}, np.round(10 * TRUTH), np.full(10, 10))
    assert few.best({"scenes": 10, "objects": 4}, {})[1] < 0.95  # 10 rollouts a mixture do not tell


def test_what_does_not_help_never_suffices():
    flat = fit_law({"scenes": SCENES}, np.full(10, 30), np.full(10, 100))
    found = flat.needed("scenes", {"scenes": 4}, 0.9)
    assert found.high is None
    assert flat.exponent("scenes").value == pytest.approx(0, abs=1e-9)
    worse = fit_law({"scenes": SCENES}, 100 * 0.1 * SCENES**0.3, np.full(10, 100))
    assert worse.needed("scenes", {"scenes": 4}, 0.95).value is None


def test_mixtures_without_a_failure_are_points_too():
    failures = np.array([8, 9, 6, 7, 4, 3, 1, 1, 0, 0.0])
    law = fit_law({"scenes": SCENES}, failures, np.full(10, 10))
    assert law.exponent("scenes").value < -0.5
    assert law.failure({"scenes": 16}).value < 0.1


@pytest.mark.parametrize(
    ("counts", "failures", "code"),
    [
        ({"scenes": [1, 2, 4]}, [5, 4, 3], "too_few_points"),
        ({"scenes": [1, 1, 1, 2, 2]}, [5, 5, 4, 3, 4], "too_few_points"),
        ({"scenes": SCENES[:4], "objects": OBJECTS[:4]}, [5, 5, 4, 3], "too_few_points"),
        ({}, [5, 4], "too_few_points"),
        ({"scenes": [1, 2, 4, 8, 16], "objects": [2, 4, 8, 16, 32]}, [9, 7, 5, 4, 3], "not_told_apart"),
        ({"scenes": [1, 2, 4, 8, 16]}, [0, 0, 0, 0, 0], "nothing_failed"),
    ],
)
def test_too_little_to_go_by_is_refused(counts, failures, code):
    with pytest.raises(RequestError) as caught:
        fit_law(counts, failures, [10] * len(failures))
    assert caught.value.code == code
    assert "\n" not in caught.value.message
