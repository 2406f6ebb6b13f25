from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from data_engine.scoring import EpisodeBatch
from scorers.composite import BEHAVIOUR, DEFECTS, INCONSISTENCY, LOG_ODDS, Composite
from tests.scorers.conftest import make_batch

SCORER = Composite()
RESIDUAL, INFORMED, UNINFORMED, EXTRANEOUS, PAUSES, SETTLED, UNFINISHED = (part.metric for part in BEHAVIOUR)


def batch_with(n: int = 40, tasks: list[str] | None = None, **scores: np.ndarray) -> EpisodeBatch:
    """Episodes whose parts are ``scores``; the rest of the parts sound and drawn at random."""
    draw = np.random.default_rng(0)
    states = [draw.normal(size=(10 + i, 3)) for i in range(n)]
    batch = make_batch(states, [state[:, :2] for state in states], tasks or ["lift"] * n)
    told = {
        DEFECTS: np.zeros(n),
        INCONSISTENCY: draw.random(n) * 0.3,
        LOG_ODDS: np.full(n, 5.0),
        RESIDUAL: draw.normal(1, 0.1, n),
        INFORMED: draw.normal(0, 1, n),
        UNINFORMED: draw.random(n) * 0.2,
        EXTRANEOUS: np.zeros(n),
        PAUSES: np.zeros(n),
        SETTLED: np.full(n, 0.2),
        UNFINISHED: np.full(n, 0.05),
    }
    names = {"defects": DEFECTS, "inconsistency": INCONSISTENCY, "log_odds": LOG_ODDS, "residual": RESIDUAL,
             "uninformed": UNINFORMED, "extraneous": EXTRANEOUS, "pauses": PAUSES, "settled": SETTLED,
             "unfinished": UNFINISHED}  # fmt: skip
    return replace(batch, scores=told | {names[name]: values for name, values in scores.items()})


def scored(batch: EpisodeBatch, scorer: Composite = SCORER) -> list[dict]:
    fit = scorer.fit([batch])
    return [{row.metric: row for row in episode} for episode in scorer.score(batch, fit)]


def only(n: int, index: int, value: float, rest: float) -> np.ndarray:
    return np.where(np.arange(n) == index, value, rest)


def test_layers_rank_in_their_order() -> None:
    rows = scored(
        batch_with(defects=only(40, 0, 0.2, 0.0), inconsistency=only(40, 1, 0.9, 0.1), log_odds=only(40, 2, -3.0, 5.0))
    )
    values = np.array([row["composite"].value for row in rows])
    assert values[0] == pytest.approx(1 / 1.2)
    assert values[1] == pytest.approx(1 + 1 / (1 + 0.9 / 0.7))
    assert values[2] == pytest.approx(1 + 1 / (1 + np.hypot(0.1 / 0.7, 3)))
    assert (values[3:] > 2).all()
    assert [rows[i]["composite"].reason for i in range(4)] == [
        "fails integrity", "fails consistency", "fails consistency", None,
    ]  # fmt: skip


def test_divergence_is_the_norm_of_robust_surprises() -> None:
    batch = batch_with(
        residual=only(40, 7, 2.0, 1.0) + np.linspace(-0.1, 0.1, 40),
        extraneous=only(40, 3, 0.12, 0.0),
        pauses=only(40, 3, 0.08, 0.0),
    )
    rows = scored(batch)
    expected = np.zeros(40)
    for part in BEHAVIOUR:
        values = batch.scores[part.metric]
        usual = np.quantile(values, 0.25) if part.brisk else np.median(values)
        spread = (
            (usual - np.quantile(values, 0.05)) / 0.97 if part.brisk else 1.4826 * np.median(np.abs(values - usual))
        )
        vague = max(0.0, np.quantile(values, 0.05) - part.exact)
        beyond = part.sign * (values - usual - part.slack - 3 * vague) / max(spread, part.least + vague)
        beyond = np.minimum(np.log1p(np.exp(np.minimum(beyond, 30))), part.most)
        expected = np.hypot(expected, part.weight * beyond)
    np.testing.assert_allclose([row["divergence"].value for row in rows], expected, rtol=1e-12)
    assert int(np.argmin([row["composite"].value for row in rows])) == 7
    assert rows[3]["divergence"].value >= np.hypot(3, 4)
    assert len({row["composite"].value for row in rows}) == 40  # nobody ties, the good ones neither


def test_who_stands_still_at_the_end_ranks_low_though_many_do_and_not_where_all_do() -> None:
    quitters = np.arange(40) % 10 < 6
    rows = scored(batch_with(settled=np.where(quitters, 3.0, 0.2) + np.linspace(0, 0.1, 40)))
    values = np.array([row["composite"].value for row in rows])
    lost = np.log1p(np.exp(2.8))  # against the brisker quarter, in seconds
    assert min(row["divergence"].value for row in np.array(rows)[quitters]) > lost
    assert np.median(values[~quitters]) > values[quitters].max()
    plain = [row["composite"].value for row in scored(batch_with())]
    held = [row["composite"].value for row in scored(batch_with(settled=np.full(40, 3.0)))]
    np.testing.assert_allclose(held, plain, rtol=1e-12)


def test_who_leaves_the_task_unfinished_ranks_low_though_most_do_and_a_little_is_usual() -> None:
    failed = np.arange(40) % 10 < 7
    rows = scored(batch_with(unfinished=np.where(failed, 0.4, np.linspace(0.0, 0.1, 40))))
    values = np.array([row["composite"].value for row in rows])
    assert np.median(values[~failed]) > values[failed].max()
    plain = np.array([row["divergence"].value for row in scored(batch_with())])
    good = np.array([row["divergence"].value for row in rows])[~failed]
    assert (good < plain[~failed] + 0.5).all()


def test_where_nobody_is_seen_to_end_little_is_left_unfinished() -> None:
    left, last = np.linspace(0.0, 0.3, 40), only(40, 39, 0.8, 0.0)
    sharp = [row["divergence"].value for row in scored(batch_with(unfinished=left + last))]
    vague = [row["divergence"].value for row in scored(batch_with(unfinished=left + 0.1 + last))]
    assert sharp[38] > vague[38] + 1
    assert vague[39] > max(vague[:39]) + 1


def test_a_null_part_adds_nothing_and_is_named() -> None:
    one = scored(batch_with(log_odds=np.full(40, np.nan)))[0]
    assert one["composite"].value > 2
    assert one["composite"].reason == f"without {LOG_ODDS}"
    unknown = scored(batch_with(defects=np.full(40, np.nan)))[0]["composite"]
    assert unknown.value is None
    assert unknown.status == "undefined"
    assert DEFECTS in unknown.reason
    neither = batch_with(residual=only(40, 3, np.nan, 1.0))
    neither.scores[INFORMED][3] = neither.scores[UNINFORMED][3] = np.nan
    row = scored(neither)[3]
    assert row["composite"].value is None
    assert row["divergence"].status == "undefined"


def test_a_rare_task_is_held_against_its_group() -> None:
    tasks = ["lift"] * 38 + ["push"] * 2
    rows = scored(batch_with(tasks=tasks, residual=only(40, 39, 3.0, 1.0) + np.linspace(-0.1, 0.1, 40)))
    assert rows[39]["divergence"].value == pytest.approx(20, rel=0.1)
    assert rows[38]["composite"].value > rows[39]["composite"].value


def test_neither_order_nor_names_matter() -> None:
    batch = batch_with()
    order = np.random.default_rng(1).permutation(40)
    fit = SCORER.fit([batch.one(int(i)) for i in order])
    assert fit.reference == SCORER.fit([batch]).reference
    direct = [rows[0].value for rows in SCORER.score(batch, SCORER.fit([batch]))]
    shuffled = [SCORER.score(batch.one(i), fit)[0][0].value for i in range(40)]
    assert direct == shuffled
