import numpy as np
import pyarrow as pa

from data_engine.model import ACTION, STATE, Dataset, Feature
from data_engine.reference import Reference, episodes, matrix
from data_engine.scoring import EpisodeBatch

FEATURES = (Feature(name=STATE, dtype="float32", shape=(2,)), Feature(name=ACTION, dtype="float32", shape=(1,)))
DATASET = Dataset(
    name="set", embodiment="arm", control_mode="delta", fps=10.0, features=FEATURES, origin="-", format="-"
)


def batch(names, steps=10, state=None):
    n = len(names)
    moved = [np.random.default_rng(list(name.encode())).normal(size=(steps, 2)) for name in names]
    rows = state if state is not None else np.concatenate(moved).tolist()
    table = pa.table({STATE: rows, ACTION: [[float(i % steps)] for i in range(n * steps)]})
    about = {"content_hash": names, "embodiment": ["arm"] * n, "control_mode": ["delta"] * n, "task": ["t"] * n}
    return EpisodeBatch(DATASET, pa.table(about), table, np.arange(n + 1) * steps)


def renaming(found):
    """The same motions with other content hashes, as without their rewards."""
    hashes = pa.array([f"x{name}" for name in found.content_hashes])
    episodes = found.episodes.set_column(0, "content_hash", hashes)
    return EpisodeBatch(found.dataset, episodes, found.steps, found.offsets)


def kept(reference):
    return [episode.content_hash for group in reference.groups.values() for episode in group]


def test_what_stays_does_not_depend_on_order_and_is_bounded():
    names = [f"h{i:02d}" for i in range(40)]
    one = Reference([batch(names)], seed=3, budget=95)
    other = Reference([batch([name]) for name in reversed(names)], seed=3, budget=95)
    assert kept(one) == kept(other)
    assert len(kept(one)) == 10
    renamed = Reference([renaming(batch(names))], seed=3, budget=95)
    assert kept(renamed) == [f"x{name}" for name in kept(one)]
    assert one.seen == other.seen == tuple(names)
    assert kept(Reference([batch(names)], seed=4, budget=95)) != kept(one)


def test_one_episode_more_changes_at_most_its_own_place():
    names = [f"h{i:02d}" for i in range(40)]
    before = set(kept(Reference([batch(names)], seed=3, budget=95)))
    after = set(kept(Reference([batch([*names, "new"])], seed=3, budget=95)))
    assert len(before - after) <= 1


def test_copies_are_seen_twice_and_kept_once():
    reference = Reference([batch(["a", "b", "a"])], seed=0, budget=1000)
    assert reference.seen == ("a", "a", "b")
    assert sorted(kept(reference)) == ["a", "b"]


def test_uneven_lists_are_missing_steps_not_a_crash():
    rows = [[1.0, 2.0], [1.0], [3.0, None], [4.0, 5.0]]
    found = batch(["a", "b"], steps=2, state=rows)
    assert np.isnan(matrix(found, STATE)[1]).all()
    assert [episode.finite.tolist() for episode in episodes(found)] == [[True, False], [False, True]]


def test_text_is_no_number():
    found = batch(["a", "b"], steps=1, state=["x", "y"])
    assert [episode.problem for episode in episodes(found)] == ["no numeric observation.state"] * 2
