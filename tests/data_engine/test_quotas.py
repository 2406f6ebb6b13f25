from __future__ import annotations

import numpy as np
import pytest

from data_engine.errors import RequestError
from data_engine.exports.rates import rates
from data_engine.quotas import check, factors
from data_engine.samples import Samples
from tests.data_engine.test_sampling import chi_square

OF = {"a": "real", "b": "sim", "c": None}
QUOTAS = {"real": 0.5, "sim": 0.3, "unknown": 0.2}


@pytest.fixture
def made(toy):
    """Few real steps, many simulated ones, and some of which nobody says."""
    made = toy({"a": [10, 5], "b": [40, 30, 60], "c": [20]})
    for row in made.rows:
        row["provenance"] = OF[row["dataset"]]
    return made


@pytest.mark.parametrize("unit", ["step", "episode", "dataset"])
def test_probability_draws_by_the_quotas_whatever_the_weights(made, tmp_path, unit) -> None:
    entries = [{"selection": name, "weight": weight} for name, weight in (("a", 1), ("b", 7), ("c", 2))]
    mixture = made.mixture(tmp_path, unit=unit, entries=entries, quotas=QUOTAS, epoch_size=30_000)
    drawn = Samples(mixture).read(0, np.arange(30_000))["dataset"]
    counts = np.array([drawn.count(name) for name in OF])
    assert chi_square(counts, np.array([0.5, 0.3, 0.2]) * 30_000) < 4
    share = dict.fromkeys(OF, 0.0)
    for name, rate, steps in zip(mixture.episodes["dataset"].to_pylist(), rates(mixture), mixture.rows["row_count"],
                                 strict=True):  # fmt: skip
        share[name] += rate * steps / 30_000
    assert share == pytest.approx({"a": 0.5, "b": 0.3, "c": 0.2})


@pytest.mark.parametrize("kind", ["repeat", "choose"])
@pytest.mark.parametrize("unit", ["step", "episode", "dataset"])
def test_whole_passes_meet_them_over_epochs_and_an_epoch_stays_as_long(made, tmp_path, kind, unit) -> None:
    plain = Samples(made.mixture(tmp_path, weight_kind=kind, unit=unit))
    samples = Samples(made.mixture(tmp_path, weight_kind=kind, unit=unit, quotas=QUOTAS))
    counts = dict.fromkeys(OF, 0)
    sizes = []
    for epoch in range(400):
        rows = samples.locate(epoch, np.arange(samples.size(epoch)))[0]
        names = np.array(samples.mixture.episodes["dataset"].to_pylist())[rows]
        sizes.append(len(rows))
        for name in OF:
            counts[name] += int((names == name).sum())
    expected = np.mean([plain.size(epoch) for epoch in range(400)])
    assert np.mean(sizes) == pytest.approx(expected, rel=0.1)
    for name, share in (("a", 0.5), ("b", 0.3), ("c", 0.2)):
        assert counts[name] / sum(counts.values()) == pytest.approx(share, abs=0.05)


def test_proportions_inside_a_provenance_stay(made, tmp_path) -> None:
    for row in made.rows:
        row["weight"] = 2.0 if row["episode_id"] == "ep_b_0" else 1.0
    before, after = (rates(made.mixture(tmp_path, quotas=quotas)) for quotas in (None, QUOTAS))
    names = np.array(made.mixture(tmp_path).episodes["dataset"].to_pylist())
    for name in OF:
        assert np.ptp((after / before)[names == name]) == pytest.approx(0, abs=1e-12)


def test_they_are_part_of_the_identity_and_absent_ones_change_nothing(made) -> None:
    one, other, none = (
        made.freeze(quotas=quotas).mixture_id for quotas in (QUOTAS, {**QUOTAS, "real": 0.4, "sim": 0.4}, {})
    )
    assert len({one, other, none, made.freeze().mixture_id}) == 3
    assert none == made.freeze().mixture_id


def test_a_split_without_one_shares_it_out() -> None:
    found = factors({"real": 0.5, "sim": 0.25, "synthetic": 0.25}, ["real", "sim", "synthetic"], np.array([0, 0, 1]),
                    np.array([1.0, 2.0, 3.0]))  # fmt: skip
    assert found == pytest.approx([4 / 3, 4 / 3, 2 / 3])


@pytest.mark.parametrize(
    ("quotas", "line"),
    [
        ({"reel": 1.0}, "quota of 'reel' .*known: real"),
        ({"real": 0.5, "sim": 0.3}, "do not share out 1"),
        ({"real": 1.5, "sim": -0.5}, "do not share out 1"),
        ({"real": 1.0}, "episodes of provenance sim, and no quota"),
        ({"real": 0.5, "sim": 0.3, "synthetic": 0.2}, "no episode of the mixture is of provenance synthetic"),
    ],
)
def test_wrong_quotas_get_one_line(quotas, line) -> None:
    with pytest.raises(RequestError, match=line):
        check(quotas, ["real", "sim"])


def test_a_dataset_of_two_provenances_drawn_whole_is_refused(made, tmp_path) -> None:
    made.rows[0]["provenance"] = "sim"
    mixture = made.mixture(tmp_path, weight_kind="repeat", unit="dataset", quotas=QUOTAS)
    with pytest.raises(RequestError, match="several provenances"):
        Samples(mixture)
