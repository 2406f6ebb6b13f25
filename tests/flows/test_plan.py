from datetime import UTC, datetime

import h5py
import numpy as np
import pytest

from data_engine.errors import RequestError
from data_engine.recipe import EntryRecipe, MixtureRecipe, SelectRecipe, SourceRecipe
from flows.ingest import ingest
from flows.mix import mix
from flows.plan import plan
from flows.select import select
from storage.lake import Lake
from tests.recordings import write_robomimic

BREADTHS = (1, 2, 4, 8, 12)


@pytest.fixture(scope="module")
def evaluated(tmp_path_factory):
    """A lake with mixtures of 1 to 12 scenes, whose policies failed in 80 % over the square root of their scenes."""
    from flows.executor import Local
    from flows.progress import silent

    folder = tmp_path_factory.mktemp("planned")
    lake = Lake.open(str(folder / "lake"), create=True)
    source = write_robomimic(folder / "scenes.hdf5", episodes=12)
    with h5py.File(source, "r+") as file:
        for name, demo in file["data"].items():
            demo.attrs["scene"] = name  # one each
    common = {"progress": silent(), "run_id": "run_test"}
    ingest(lake, SourceRecipe(name="scenes", uri=str(source)), on=Local(), **common)
    rows = []
    for breadth in BREADTHS:
        name = f"some{breadth}"
        select(lake, SelectRecipe(name=name, method="random", budget=breadth), lake.episodes(), **common)
        frozen = MixtureRecipe(name=name, entries=(EntryRecipe(selection=name),))
        mixture = mix(lake, frozen, run_id="run_test", recipe_hash="x")["mixture_id"]
        failures = round(200 * 0.8 / np.sqrt(breadth))
        rows += [
            {"evaluation_id": f"{mixture}{i}", "mixture_id": mixture, "seed": 0, "task": "reach",
             "success": i >= failures, "created_at": datetime.now(UTC)}
            for i in range(200)
        ]  # fmt: skip
    lake.append_rows("evaluations", rows, transaction="t", run_id="run_test", config_hash="x")
    return lake


def test_the_plan_follows_the_law_of_what_was_evaluated(evaluated):
    answer = plan(evaluated, success=0.8)
    assert (answer["collect"], answer["likeliest"]) == ("scenes", "scenes")
    (item,) = answer["items"]
    assert item["have"] == answer["here"]["scenes"] == 12
    assert item["exponent"]["value"] == pytest.approx(-0.5, abs=0.03)
    assert item["exponent"]["low"] < -0.5 < item["exponent"]["high"] < 0
    assert item["needed"]["value"] == pytest.approx(16, rel=0.1)
    assert item["needed"]["low"] < 16 < item["needed"]["high"]
    assert item["doubled"]["value"] == pytest.approx(0.8 / 12**0.5 - 0.8 / 24**0.5, abs=0.01)
    assert answer["here"]["predicted"]["low"] < 1 - 0.8 / 12**0.5 < answer["here"]["predicted"]["high"]
    first = min(answer["points"], key=lambda point: point["scenes"])
    assert plan(evaluated, here=first["mixture_id"][:16])["here"]["scenes"] == 1


@pytest.mark.parametrize(
    ("asked", "code"),
    [
        ({"task": "another"}, "too_few_points"),
        ({"factors": ["objects"]}, "too_few_points"),  # this source names none
        ({"factors": ["demonstrations"]}, "too_few_points"),  # one each, everywhere
        ({"success": 1.0}, "bad_option"),
        ({"factors": ["robots"]}, "bad_option"),
        ({"costs": {"scenes": 0}}, "bad_option"),
        ({"here": "zz"}, "unknown_mixture"),
    ],
)
def test_what_cannot_be_planned_is_refused_in_one_line(evaluated, asked, code):
    with pytest.raises(RequestError) as caught:
        plan(evaluated, **asked)
    assert caught.value.code == code
    assert "\n" not in caught.value.message
