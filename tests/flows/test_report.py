"""The report of a curation: whole or empty, escaped, self-contained, small, and right in its figures."""

from __future__ import annotations

import copy
import json
import random
import re
from html.parser import HTMLParser
from xml.etree import ElementTree

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import roc_auc_score

from flows import report as reporting
from flows.report import render, table

HOSTILE = "<script>alert(1)</script>\"'&[bold]$x$"
OPERATORS = {"good": 0.9, "noisy": 0.5, "failing": 0.1}


def make(n: int = 60, metrics: int = 3, seed: int = 0) -> dict:
    """A report as the flow builds it, of ``n`` candidates and four targets."""
    rng = np.random.default_rng(seed)
    episodes = []
    for i in range(n + 4):
        operator = list(OPERATORS)[i % 3] if i < n else "target"
        chosen = i < n and rng.random() < OPERATORS[operator]
        episodes.append({
            "episode_id": f"ep_{i:05d}", "dataset": f"lab_{i % 2}", "task": f"task {i // 3 % 2}", "operator": operator,
            "success": bool(rng.random() < OPERATORS.get(operator, 1.0)), "n_steps": int(rng.integers(50, 150)),
            "chosen": bool(chosen), "weight": float(rng.random()) if chosen else None, "is_target": i >= n,
            "xy": rng.normal(size=2).tolist(),
        })  # fmt: skip
    scores = [
        {"scorer": f"scorer_{m}", "metric": "value", "unit": "nats", "better": "higher", "version": "1",
         "fit_id": "fit", "nulls": 1, "values": [{"episode_id": e["episode_id"], "percentile": None,
         "value": None if i == 0 else e["success"] + float(rng.normal())} for i, e in enumerate(episodes)]}
        for m in range(metrics)
    ]  # fmt: skip
    return {
        "run_id": "run_1", "recipe_hash": "ab" * 32, "mixture_id": "cd" * 32, "name": "a curation",
        "created_at": "2025-01-01T00:00:00Z", "report": "lake/report.html", "scores": scores, "episodes": episodes,
        "datasets": [{"name": "lab_0", "format": "robomimic", "embodiment": "sawyer", "control_mode": "ee_delta",
                      "episodes": n, "steps": 100 * n, "hours": 1.5, "quarantined": 1, "notes": ["declared 9"]}],
        "selections": [{"name": "near", "method": "transport", "candidates": n, "chosen": n // 2, "report": {
            "automatic_budget": [{"distance": [0.5, 0.25, 0.3], "best_k": 2}, {"distance": [0.5, 0.2], "best_k": 2}],
            "rank": 9,
            "baselines": {"random": {"distance": 0.75}}, "loss": [0.5, 0.3, None, 0.2]}}],
        "labels": [{"labeller": "uvd", "version": "1", "fit_id": "fit", "labelled": n, "already": 4, "nulls": 1,
                    "errors": 1, "kinds": [
                        {"kind": "segment", "count": 3 * n, "episodes": n, "seconds": 2.5,
                         "labels": [["subgoal", 2 * n], ["goal", n]], "course": None},
                        {"kind": "reward", "count": n, "episodes": n, "seconds": 9.0, "labels": [],
                         "course": [i / 20 if i != 3 else None for i in range(20)]}]}],
        "mixture": {"weight_kind": "probability", "unit": "episode", "epoch_size": 10000, "episodes": n // 2,
                    "steps": 50 * n, "splits": {"train": 1.0}},
        "exports": [{"format": "lerobot_v3", "uri": "out", "episodes": n // 2, "steps": 50 * n, "weights": "column"}],
        "receipts": [{"dataset": "lab_0"}], "timings": {"ingest": 1.5, "score": 3.0}, "warnings": ["one quarantined"],
    }  # fmt: skip


def poison(value):
    """``value`` with every text replaced by a hostile one, keys of mappings the engine names kept."""
    if isinstance(value, dict):
        return {key: poison(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [poison(inner) for inner in value]
    return HOSTILE if isinstance(value, str) else value


class Tags(HTMLParser):
    """Collects tags and checks that they close in order."""

    def __init__(self):
        super().__init__()
        self.names, self.attributes, self.open = [], [], []

    def handle_starttag(self, tag, attrs):
        self.names.append(tag)
        self.attributes += attrs
        if tag not in ("meta", "br"):
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.names.append(tag)
        self.attributes += attrs

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def parse(page: str) -> Tags:
    tags = Tags()
    tags.feed(page)
    assert tags.open == []
    return tags


def test_a_whole_report_is_one_self_contained_page():
    page = render(make())
    tags = parse(page)
    assert not {"script", "img", "link", "iframe", "object", "image", "use"} & set(tags.names)
    assert not {name for name, _ in tags.attributes} & {"src", "href", "xlink:href", "onclick", "onload"}
    assert "url(" not in page
    assert "default-src 'none'" in page
    for text in ("a curation", "cd" * 32, "By operator", "Embedding map", "scorer_0.value", "one quarantined",
                 "baselines.random.distance", "Receipts (1)", "4 target demonstrations"):  # fmt: skip
        assert text in page
    for svg in re.findall(r"<svg.*?</svg>", page, re.DOTALL):
        ElementTree.fromstring(svg)


def test_untrusted_text_is_escaped_everywhere():
    whole = make()
    whole["datasets"][0][HOSTILE] = HOSTILE
    whole["selections"][0]["report"][HOSTILE] = [{HOSTILE: [1.0, 2.0, 3.0]}]
    whole["timings"][HOSTILE] = 1.0
    whole["mixture"]["splits"] = {HOSTILE: 0.5}
    whole = poison(whole)
    for i, episode in enumerate(whole["episodes"]):
        episode["episode_id"] = f"{HOSTILE}{i}"
    page = render(whole)
    assert "<script" not in page
    assert "&lt;script&gt;" in page
    assert "script" not in parse(page).names
    assert "[bold]" in table(whole)


def test_a_terminal_is_sent_no_control_characters():
    whole = make()
    for episode in whole["episodes"]:
        episode["operator"] = "a\x1b[31m\x07b\u202e"
    whole["mixture_id"] = "m\x1b]0;owned\x07"
    text = table(whole)
    assert not re.search(r"[\x00-\x09\x0b-\x1f\x7f\u202e]", text)


@settings(max_examples=50, deadline=None)
@given(st.data())
def test_any_part_may_be_missing_null_or_empty(data):
    whole = make(9, 1)
    for key in list(whole):
        fate = data.draw(st.sampled_from(["keep", "keep", "drop", "null", "empty"]), label=key)
        if fate == "drop":
            del whole[key]
        elif fate == "null":
            whole[key] = None
        elif fate == "empty":
            whole[key] = type(whole[key])()
    for key in ("episodes", "scores", "datasets", "selections", "exports"):
        for row in whole.get(key) or []:
            for name in list(row):
                if name != "episode_id" and data.draw(st.integers(0, 5), label=name) == 0:
                    row[name] = None
    parse(render(whole))
    table(whole)


def test_an_empty_report_renders():
    parse(render({}))
    assert table({}) == "\n"


def test_the_page_stays_below_one_megabyte():
    assert len(render(make(5000, 14)).encode()) < 1_000_000


def test_many_groups_names_and_notes_are_counted_where_they_are_not_shown():
    whole = make(300)
    for i, episode in enumerate(whole["episodes"]):
        episode["operator"] = f"operator {i % 100:03d}"
    whole["warnings"] = [f"warning {i}" for i in range(45)]
    page = render(whole)
    assert "and 5 more" in page
    assert "92 more" in page  # of the colours
    assert "and 60 more" in page  # of the bars
    parse(page)


def test_a_selections_report_becomes_facts_and_curves():
    selection = reporting._selection(make()["selections"][0])
    assert [name for name, *_ in selection["curves"]] == ["automatic_budget.distance", "loss"]
    assert dict(selection["facts"]) == {
        "rank": "9", "automatic_budget.best_k": "[2, 2]", "baselines.random.distance": "0.75"
    }  # fmt: skip
    assert selection["curves"][0][2].count('class="line') == 2


def test_shares_are_of_candidates_and_targets_are_none():
    whole = make(90)
    frame = reporting._episodes(whole)
    shares = {share["label"]: share for share in reporting._shares(frame, "operator")}
    assert set(shares) == set(OPERATORS)
    for name, share in shares.items():
        mine = [e for e in whole["episodes"] if e["operator"] == name]
        assert (share["of"], share["kept"]) == (len(mine), sum(e["chosen"] for e in mine))
    assert sum(share["weight"] for share in shares.values()) == pytest.approx(1.0)
    assert [share["share"] for share in shares.values()] == sorted((s["share"] for s in shares.values()), reverse=True)


def test_auc_and_length_are_taken_within_each_task():
    whole = make(120, 1)
    score = reporting._score(whole["scores"][0], reporting._episodes(whole))
    values = {v["episode_id"]: v["value"] for v in whole["scores"][0]["values"]}
    above = pairs = 0.0
    for task in ("task 0", "task 1"):
        mine = [e for e in whole["episodes"] if e["task"] == task and not e["is_target"] and values[e["episode_id"]]]
        truth = np.array([e["success"] for e in mine])
        count = truth.sum() * (~truth).sum()
        above += count * roc_auc_score(truth, [values[e["episode_id"]] for e in mine])
        pairs += count
    assert score["auc"] == pytest.approx(above / pairs)
    for episode in whole["episodes"]:  # a task's own level is not the score's doing
        episode["n_steps"] = 1000 if episode["task"] == "task 0" else 10
    assert reporting._score(whole["scores"][0], reporting._episodes(whole))["length_auc"] == pytest.approx(0.5)


def test_a_lower_better_score_is_read_the_other_way_round():
    whole = make(60, 1)
    episodes = reporting._episodes(whole)
    higher = reporting._score(whole["scores"][0], episodes)["auc"]
    lower = reporting._score({**whole["scores"][0], "better": "lower"}, episodes)["auc"]
    assert lower == pytest.approx(1 - higher)
    assert reporting._score({**whole["scores"][0], "better": "neither"}, episodes)["auc"] is None


def test_colours_stand_for_datasets_where_no_operator_is_known():
    whole = make()
    for episode in whole["episodes"]:
        episode["operator"] = None
    page = render(whole)
    assert "Colours stand for the dataset" in page
    assert "By operator" not in page
    assert "by operator" not in table(whole)


def test_order_of_rows_changes_no_figure():
    whole = make(3000, 2)
    shuffled = copy.deepcopy(whole)
    random.Random(1).shuffle(shuffled["episodes"])
    for score in shuffled["scores"]:
        random.Random(2).shuffle(score["values"])
    assert table(whole) == table(shuffled)
    assert render(whole) == render(shuffled)


def test_labels_are_told_by_kind_with_their_courses():
    page = render(make())
    section = page.partition("<h2>Labels</h2>")[2].partition("</section>")[0]
    assert "uvd" in section and "60 episodes labelled, 4 before, 1 failed" in section
    assert "subgoal 120, goal 60" in section
    assert section.count("<svg") == 1  # one kind has a number a step
    assert "<h2>Labels</h2>" not in render({**make(), "labels": []})


def test_the_table_ends_with_mixture_and_page():
    lines = table(make()).splitlines()
    assert lines[-2].split() == ["mixture", "cd" * 32]
    assert lines[-1].split() == ["report", "lake/report.html"]
    good = next(line for line in lines if line.strip().startswith("good"))
    kept, of = map(int, good.split()[1:3])
    assert of == 20
    assert f"{100 * kept / of:.0f} %" in good


def test_the_input_is_left_alone_and_the_same_input_gives_the_same_page():
    whole = make()
    before = json.dumps(whole)
    assert render(whole) == render(whole)
    assert json.dumps(whole) == before
