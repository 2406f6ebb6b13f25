from benchmarks.kept import Kept


def test_outcomes_outlive_the_run_that_made_them(tmp_path):
    path = tmp_path / "folder/outcomes.jsonl"
    Kept(path).put("a", success=[0.5])
    assert Kept(path).get("a") == {"key": "a", "success": [0.5]}
    assert Kept(path).get("b") is None
    assert Kept(None).get("a") is None


def test_a_line_that_was_cut_off_is_as_if_it_had_not_begun(tmp_path):
    path = tmp_path / "outcomes.jsonl"
    kept = Kept(path)
    kept.put("a", success=[0.5])
    kept.put("b", success=[0.6])
    path.write_text(path.read_text()[:-5])
    assert Kept(path).get("b") is None
    Kept(path).put("c", success=[0.7])
    assert [Kept(path).get(key) is not None for key in "abc"] == [True, False, True]
