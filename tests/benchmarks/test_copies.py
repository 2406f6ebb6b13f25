import numpy as np
import pytest

from benchmarks import copies as module
from benchmarks.copies import copies
from data_engine.arrays import to_array
from data_engine.formats import Source, SourceEpisode
from data_engine.formats.lerobot_v3 import LeRobotV3
from tests.data_engine.formats.lerobot_sets import write_v3


@pytest.mark.parametrize("per_file", [1, 2, 25])
def test_copies_are_one_sound_set_of_other_episodes(tmp_path, monkeypatch, per_file):
    monkeypatch.setattr(module, "_FILE_COPIES", per_file)
    write_v3(tmp_path / "one", [3, 5])
    source = Source(str(copies(tmp_path / "one", tmp_path / "many", 3)))
    probe = LeRobotV3().probe(source)
    assert probe is not None and not probe.defects and not probe.notes
    episodes = list(LeRobotV3().read(source, probe, [ref.key for ref in probe.episodes]))
    assert all(isinstance(episode, SourceEpisode) and not episode.notes for episode in episodes)
    assert [len(episode.steps) for episode in episodes] == [3, 5] * 3
    first, second = (to_array(episodes[i].steps["observation.state"], "state") for i in (1, 3))
    np.testing.assert_allclose(second, first * 1.0001, rtol=1e-6)
    assert not np.array_equal(second, first)
