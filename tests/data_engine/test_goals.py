from __future__ import annotations

import pickle

import numpy as np
import pyarrow as pa
import pytest

from data_engine.document import Clustering
from data_engine.errors import RequestError
from data_engine.goals import Goals, Peers
from data_engine.loader import MixtureStream
from data_engine.mixture import Mixture
from data_engine.samples import Samples
from data_engine.windows import Windows
from tests.data_engine.formats.lerobot_sets import write_v3
from tests.mixtures import mixture_of

LENGTH = np.array([10, 4, 7, 20])


def drawn(goals: Goals, row: int, offset: int, n: int = 4000, group: tuple[int, ...] = (0, 0, 0, 1)):
    """Goals of ``n`` samples that are all at one step."""
    peers = Peers(np.arange(4), np.array(group), LENGTH)
    return goals.draw(7, np.arange(n), np.full(n, row), np.full(n, offset), LENGTH, peers)


def test_future_goals_are_every_later_step_alike() -> None:
    row, at = drawn(Goals(), 0, 3)
    counts = np.bincount(at, minlength=10)
    assert (row == 0).all()
    assert (counts[:4] == 0).all()
    expected = 4000 / 6
    assert ((counts[4:] - expected) ** 2 / expected).sum() < 20.5  # chi-square, 5 degrees of freedom, 0.1 %
    assert set(drawn(Goals(), 0, 9)[1]) == {9}


def test_discounted_goals_are_geometric_and_end_with_the_range() -> None:
    _, at = drawn(Goals(discount=0.5), 3, 15)
    counts = np.bincount(at, minlength=20)[16:]
    expected = 4000 * np.array([1 / 2, 1 / 4, 1 / 8, 1 / 8])
    assert ((counts - expected) ** 2 / expected).sum() < 16.3  # 3 degrees of freedom, 0.1 %


def test_kinds_come_by_their_shares() -> None:
    row, at = drawn(Goals(future=0.0, final=0.25, here=0.5, random=0.25), 3, 5)
    assert set(row) == {3}  # alone in its group
    counts = np.array([(at == 19).sum(), (at == 5).sum()])
    assert counts == pytest.approx([4000 * (0.25 + 0.25 / 20), 4000 * (0.5 + 0.25 / 20)], abs=4 * np.sqrt(4000) / 2)


def test_random_goals_are_every_step_of_the_group_alike() -> None:
    row, at = drawn(Goals(future=0.0, random=1.0), 1, 0, n=21_000)
    assert set(row) == {0, 1, 2}
    counts = np.concatenate([np.bincount(at[row == r], minlength=LENGTH[r]) for r in range(3)])
    assert len(counts) == 21
    assert ((counts - 1000) ** 2 / 1000).sum() < 45.3  # 20 degrees of freedom, 0.1 %


def test_each_goal_is_a_function_of_its_sample_alone() -> None:
    goals, peers = Goals(future=0.5, random=0.5), Peers(np.arange(4), np.zeros(4, int), LENGTH)
    k, rows, offsets = np.arange(50), np.arange(50) % 4, np.arange(50) % 4
    whole = goals.draw(3, k, rows, offsets, LENGTH, peers)
    for i in range(50):
        one = slice(i, i + 1)
        alone = goals.draw(3, k[one], rows[one], offsets[one], LENGTH, peers)
        assert [part[i] for part in whole] == [part[0] for part in alone]


def test_goals_of_a_mixture(toy, tmp_path) -> None:
    """State of step t of episode e is (e, t)."""
    mixture = toy({"a": [12, 5, 9, 30], "b": [8, 20]}).mixture(tmp_path, weight_kind="repeat")
    windows = Windows(history=2, goals=Goals(future=0.5, random=0.5))
    samples = Samples(mixture, windows)
    batch = samples.read(0, np.arange(samples.size()))
    own, goal, ahead = batch["observation.state"][:, -1], batch["goal.observation.state"], batch["goal_distance"]
    later = (goal[:, 0] == own[:, 0]) & (goal[:, 1] >= own[:, 1])
    assert (ahead == np.where(later, goal[:, 1] - own[:, 1], -1)).all()
    of_b = np.array(batch["dataset"]) == "b"
    assert (goal[of_b, 0] >= 4).all()
    assert (goal[~of_b, 0] < 4).all()
    assert len({(int(a), int(b)) for a, b in zip(own[:, 0], goal[:, 0], strict=True) if a != b}) > 6
    (first, *_) = MixtureStream(mixture, windows, batch_size=16, rank=1, world_size=3)
    assert (first["goal.observation.state"].numpy() == goal[first["index"].numpy()]).all()
    again = Samples(mixture, windows).read(1, np.arange(samples.size()))
    assert not np.array_equal(again["goal_distance"], ahead)  # another epoch, other goals


def test_goals_of_a_cluster(toy, tmp_path) -> None:
    mixture = toy({"a": [12, 5, 9, 30]}).mixture(tmp_path)
    clusters = {f"ep_a_{i}": i % 2 for i in range(4)}
    samples = Samples(mixture, Windows(goals=Goals(future=0.0, random=1.0, clusters=clusters)))
    batch = samples.read(0, np.arange(samples.size()))
    own, goal = batch["observation.state"][:, -1, 0], batch["goal.observation.state"][:, 0]
    assert (own % 2 == goal % 2).all()
    assert (own != goal).any()
    with pytest.raises(RequestError, match="ep_a_3 is in no cluster"):
        Samples(mixture, Windows(goals=Goals(clusters=dict(list(clusters.items())[:3]))))


def test_goals_of_a_frozen_cluster(toy, tmp_path) -> None:
    """Whoever opens the mixture draws the same goals, with neither the space nor its vectors."""
    made = toy({"a": [12, 5, 9, 30], "b": [8, 20]})
    said = Clustering(name="look", space="look", encoder_version="v", count=2)

    def frozen(numbers: list[int]) -> Mixture:
        return made.mixture(tmp_path, clusterings=[said], clusters=pa.table({"look": pa.array(numbers, pa.int32())}))

    mixture = frozen([0, 1, 0, 1, 0, 0])
    windows = Windows(goals=Goals(future=0.0, random=1.0, clusters="look"))
    samples = Samples(mixture, windows)
    batch = samples.read(0, np.arange(samples.size()))
    own, goal = batch["observation.state"][:, -1, 0].astype(int), batch["goal.observation.state"][:, 0].astype(int)
    of_a = np.array(batch["dataset"]) == "a"
    assert set(zip(own.tolist(), goal.tolist(), strict=True)) >= {(0, 2), (2, 0), (3, 1), (5, 4)}
    assert (own[of_a] % 2 == goal[of_a] % 2).all() and (goal[~of_a] >= 4).all()
    again = Samples(pickle.loads(pickle.dumps(mixture)), windows).read(0, batch["index"])
    assert np.array_equal(again["goal.observation.state"], batch["goal.observation.state"])
    assert frozen([7, 3, 7, 3, 7, 7]).id == mixture.id != frozen([0, 0, 1, 1, 0, 0]).id
    assert mixture.id != made.mixture(tmp_path).id
    with pytest.raises(RequestError, match=r"no clusters 'feel' \(there are: look"):
        Samples(mixture, Windows(goals=Goals(clusters="feel")))
    with pytest.raises(RequestError, match="in no cluster"):
        frozen([0, 1, 0, 1, 0, None])


@pytest.mark.parametrize(
    ("wrong", "said"),
    [({"future": 0.5}, "do not sum to 1: future 0.5"), ({"future": 1.5, "final": -0.5}, "do not sum"),
     ({"discount": 1.0}, "not between 0 and 1")],
)  # fmt: skip
def test_wrong_requests(wrong, said) -> None:
    with pytest.raises(RequestError, match=said):
        Goals(**wrong)


def test_a_goal_is_shown_by_what_samples_have() -> None:
    with pytest.raises(RequestError, match="goals show 'reward', which samples do not"):
        Windows(goals=Goals(columns=("reward",)))


def test_goals_are_shown_by_their_frames(tmp_path) -> None:
    write_v3(tmp_path / "set", [4, 6, 5], video=True)
    mixture = mixture_of(tmp_path / "lake", {"made": ("lerobot_v3", tmp_path / "set")}, weight_kind="repeat")
    (camera,) = mixture.datasets["made"].cameras
    samples = Samples(mixture, Windows(goals=Goals(future=0.5, final=0.5, cameras=(camera,))))
    batch = samples.read(0, np.arange(samples.size()))
    place = {at: i for i, at in enumerate(zip(batch["episode_id"], batch["step"].tolist(), strict=True))}
    for i in range(len(batch["index"])):
        goal = place[batch["episode_id"][i], int(batch["step"][i] + batch["goal_distance"][i])]
        shown = batch[f"goal.observation.images.{camera}"][i]
        assert np.array_equal(shown, batch[f"observation.images.{camera}"][goal, -1])
