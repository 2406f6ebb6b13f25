from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest

from data_engine.conventions.cameras import camera_class

TABLE = Path(__file__).with_name("camera_names.csv")


def table() -> dict[str, str]:
    with TABLE.open(encoding="utf-8", newline="") as file:
        return {row["name"]: row["class"] for row in csv.DictReader(file)}


def test_every_public_name_is_of_the_class_that_a_person_gave_it():
    wrong = {name: (camera_class(name), said) for name, said in table().items() if camera_class(name) != said}
    assert wrong == {}


def test_the_table_holds_every_camera_of_the_public_sets(shared_data):
    with (shared_data / "so101_community_mixture.json").open() as file:
        sets = json.load(file)["datasets"]
    maps = [one["data_features_name_mapping"] for one in sets]
    names = {value for found in maps for key, value in found.items() if key.startswith("camera")}
    assert {name.removeprefix("observation.images.") for name in names} == table().keys()


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("observation.images.cam_left_wrist", "wrist"),
        ("robot0_eye_in_hand", "wrist"),
        ("agentview", "external"),
        ("cam_high", "external"),
        ("left", "other"),
        ("gripper_tactile", "other"),
        ("handy", "other"),  # not a hand
        ("stopwatch", "other"),  # not a top
        ("", "other"),
    ],
)
def test_words_count_and_not_letters(name, expected):
    assert camera_class(name) == expected
