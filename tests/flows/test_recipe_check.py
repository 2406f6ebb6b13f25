from __future__ import annotations

import pytest
import yaml

from data_engine.errors import RequestError
from data_engine.recipe import template, validate
from flows.curate import curate
from flows.recipe_check import check_names

SELECT = {"name": "a", "method": "filter"}
SOURCE = {"uri": "demos.hdf5"}


def test_the_template_names_what_there_is():
    check_names(validate(yaml.safe_load(template())))


@pytest.mark.parametrize(
    ("part", "message"),
    [
        ({"select": [{**SELECT, "where": "integrty = 0"}]}, "'a': where: expression: unknown .* .did you mean integri"),
        ({"select": [{**SELECT, "where": "task ="}]}, "'a': where: expression: does not parse"),
        ({"select": [{**SELECT, "target": {"where": "operater = 'anna'"}}]}, "'a': target.where: .*operator"),
        ({"select": [{**SELECT, "target": {"top": 3, "by": "composit"}}]}, "'a': target.by: .*composite"),
        (
            {"select": [SELECT], "score": [{"scorer": "compatibility", "base": {"where": "sucess"}}]},
            "'compatibility': base.where: .*success",
        ),
        (
            {"select": [SELECT], "score": [{"scorer": "influence", "base": {"where": "success", "against": "nope"}}]},
            "'influence': base.against: .*nope",
        ),
    ],
)
def test_a_wrong_name_is_told_with_its_place_before_a_lake_is_made(tmp_path, part, message):
    recipe = validate({"source": SOURCE, **part})
    with pytest.raises(RequestError, match=message) as caught:
        curate(str(tmp_path / "lake"), recipe)
    assert caught.value.code == "bad_expression"
    assert not (tmp_path / "lake").exists()
