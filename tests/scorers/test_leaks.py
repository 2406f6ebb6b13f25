"""No scorer looks at what it must not: order, ids, names, rewards, success, operators, masks. Every registered one.

A content hash covers rewards and success: without them it is another one, and no draw or fold may go by it.
"""

from __future__ import annotations

import re
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest

from data_engine import registry
from data_engine.canonical import digest
from data_engine.scoring import EpisodeBatch, Fit, Scorer, Span
from tests.scenes import scenes
from tests.scorers import seen
from tests.scorers.conftest import make_batch
from tests.scorers.strategies import detours

EPISODES = 24
QUICK = {
    "compatibility": {"members": 2, "iterations": 40},
    "influence": {"members": 1, "iterations": 40},
    "action_divergence": {"cloning": True, "members": 1, "iterations": 40},
}


def moving() -> EpisodeBatch:
    """Two tasks of a point mass, with success, operators and rewards told."""
    states, actions = detours([1.0 if i % 3 else -1.0 for i in range(EPISODES)])
    shift = np.array([0.0, 3.0])
    states = [state + shift * (i % 2) for i, state in enumerate(states)]
    return make_batch(states, actions, ["left", "right"] * (EPISODES // 2), name="told")


def seeing(eyes) -> EpisodeBatch:
    """Rendered scenes with a vector a frame."""
    from scorers.open_clip import OpenClip

    return seen.batch_of(scenes(70, kinds=("progress",))[:8], OpenClip(checkpoint=str(eyes)), cameras=("front", "side"))


def told(batch: EpisodeBatch) -> EpisodeBatch:
    """``batch`` with what no scorer may use, and scores for those that combine others."""
    draw = np.random.default_rng(1)
    rows, steps = len(batch), batch.steps.num_rows
    episodes = batch.episodes
    for name, values in {
        "success": pa.array(draw.random(rows) < 0.5),
        "operator": pa.array([f"operator {i % 3}" for i in range(rows)]),
        "mask": pa.array([f"mask {i % 2}" for i in range(rows)]),
    }.items():
        at = episodes.schema.get_field_index(name)
        episodes = episodes.append_column(name, values) if at < 0 else episodes.set_column(at, name, values)
    known = batch.steps.append_column("reward", pa.array(draw.normal(size=steps)))
    known = known.append_column("terminated", pa.array(draw.random(steps) < 0.1))
    return replace(batch, episodes=episodes, steps=known)


def hash_without(content: str) -> str:
    """The content hash of a recording whose rewards are dropped."""
    return digest("without", content)


def unnamed(spans: tuple[Span, ...]) -> list[Span]:
    """``spans`` without the hashes of other recordings that they point to."""
    return [replace(span, reason=re.sub(r"\b[0-9a-f]{16,}", "", span.reason)) for span in spans]


def disguised(batch: EpisodeBatch, order: np.ndarray) -> EpisodeBatch:
    """The episodes of ``batch`` in another order, under other names and hashes, and with nothing told of them."""
    spans = list(batch)
    rows = pa.array(order)
    renamed = pa.array([f"x{7 * i}" for i in order])
    episodes = batch.episodes.take(rows)
    episodes = episodes.set_column(episodes.schema.get_field_index("episode_id"), "episode_id", renamed)
    hashes = pa.array([hash_without(content) for content in episodes.column("content_hash").to_pylist()])
    episodes = episodes.set_column(episodes.schema.get_field_index("content_hash"), "content_hash", hashes)
    if "success" in episodes.column_names:
        unknown = {"success": pa.nulls(len(order), pa.bool_()), "operator": pa.nulls(len(order), pa.string())}
        for name, values in unknown.items():
            episodes = episodes.set_column(episodes.schema.get_field_index(name), name, values)
        episodes = episodes.drop_columns(["mask"])
    steps = pa.concat_tables([batch.steps.slice(spans[i].start, spans[i].stop - spans[i].start) for i in order])
    steps = steps.drop_columns([name for name in ("reward", "terminated") if name in steps.column_names])
    lengths = [spans[i].stop - spans[i].start for i in order]
    return replace(
        batch,
        dataset=batch.dataset.model_copy(update={"name": "another", "origin": "elsewhere"}),
        episodes=episodes,
        steps=steps,
        offsets=np.r_[0, np.cumsum(lengths)].astype(np.int64),
        spaces={name: [clips[i] for i in order] for name, clips in batch.spaces.items()},
        scores={name: values[order] for name, values in batch.scores.items()},
    )


def fitted(scorer: Scorer, batch: EpisodeBatch, base: set[str]) -> Fit:
    """A fit as the flow makes it: on all of them, or with those of ``base`` (content hashes) held apart."""
    ones = [batch.one(i) for i in range(len(batch))]
    some = [one for one in ones if one.content_hashes[0] in base]
    if scorer.spec.base == "optional":
        return scorer.fit([batch])
    if scorer.spec.base == "reference":
        return scorer.fit(some)
    return scorer.fit([one for one in ones if one.content_hashes[0] not in base], base=scorer.fit(some))


@pytest.mark.parametrize("name", registry.names("scorers"))
def test_order_names_and_outcomes_change_no_score(name, request):
    scorer_type = registry.load("scorers", name)
    params = dict(QUICK.get(name, {}))
    if scorer_type.spec.needs.spaces:
        eyes = request.getfixturevalue("eyes")
        batch = seeing(eyes)
        params |= {"space": seen.SPACE} | (
            {"checkpoint": str(eyes)} if "checkpoint" in scorer_type.model_fields else {}
        )
    else:
        batch = moving()
    draw = np.random.default_rng(5)
    scores = {metric: draw.normal(size=len(batch)) ** 2 for metric in scorer_type.spec.needs.scores}
    scores |= {metric: np.zeros(len(batch)) for metric in scores if metric.startswith("integrity.")}
    batch = replace(told(batch), scores=scores)
    order = np.random.default_rng(3).permutation(len(batch))
    other = disguised(batch, order)
    scorer = registry.make("scorers", name, params)
    base = set(sorted(batch.content_hashes)[: len(batch) // 2])
    fits = [fitted(scorer, batch, base), fitted(scorer, other, set(map(hash_without, base)))]
    if scorer_type.spec.needs.spaces:
        from scorers.open_clip import OpenClip

        fits = [seen.fitted(fit, OpenClip(checkpoint=str(eyes)).version()) for fit in fits]
    before, after = scorer.score(batch, fits[0]), scorer.score(other, fits[1])
    known = 0
    for place, i in enumerate(order):
        for one, two in zip(before[i], after[place], strict=True):
            assert (one.metric, one.status, one.reason) == (two.metric, two.status, two.reason)
            assert unnamed(one.spans) == unnamed(two.spans)
            if one.value is None:
                assert two.value is None
            else:
                known += one.metric != "length"
                assert two.value == pytest.approx(one.value, rel=1e-6, abs=1e-9), one.metric
    assert known  # a scorer that says nothing at all would pass
