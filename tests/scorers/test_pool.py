import json
from dataclasses import replace

import numpy as np

from scorers.action_divergence import ActionDivergence
from scorers.mutual_information import MutualInformation
from scorers.pool import Pools, worst_spans


def test_a_fit_survives_storage(pusht, batch_of):
    batch = batch_of(pusht[0][:12], pusht[1][:12], ["a"] * 6 + ["b"] * 6)
    for scorer in (
        ActionDivergence(),
        MutualInformation(passes=1),
        MutualInformation(codes="vae", passes=1, vae_steps=5),
    ):
        fit = scorer.fit([batch])
        stored = replace(
            fit,
            arrays={name: np.ascontiguousarray(array).copy() for name, array in reversed(fit.arrays.items())},
            meta=json.loads(json.dumps(fit.meta, allow_nan=False, sort_keys=True)),
        )
        for before, after in zip(scorer.score(batch, fit), scorer.score(batch, stored), strict=True):
            assert [row.value for row in before] == [row.value for row in after]


def test_pools_are_per_task_with_one_over_all(pusht, batch_of):
    batch = batch_of(pusht[0][:12], pusht[1][:12], ["a"] * 6 + ["b"] * 4 + [None] * 2)
    pools, seen = Pools.build([batch], seed=0, size=300)
    assert [task for _, task in pools.draws] == ["a", None]
    assert len(seen) == 12
    assert all(len(pool.state) == 300 for (pool,) in pools.draws.values())


def test_episodes_far_out_of_range_are_no_reference(pusht, batch_of):
    actions = [a.copy() for a in pusht[1][:12]]
    actions[3] = actions[3][:, ::-1] + 300
    batch = batch_of(pusht[0][:12], actions)
    pools, _ = Pools.build([batch], seed=0, size=10_000)
    spoilt = pools.owners["arm/delta/5x2"][batch.content_hashes[3]]
    assert spoilt not in pools.draws["arm/delta/5x2", None][0].owner
    assert pools.draws["arm/delta/5x2", None][0].episodes == 11


def test_worst_spans_join_near_runs_and_drop_short_ones():
    values = np.array([0, 5, 5, 0, 5, 0, 0, 0, 9, 0, 0, 0, 0, 1, 1, 1.0])
    spans = worst_spans(values, values > 0, "why")
    assert [(span.start, span.stop) for span in spans] == [(1, 5), (13, 16)]
    assert [(span.start, span.stop) for span in worst_spans(values, values > 0, "why", limit=1)] == [(1, 5)]
    assert worst_spans(values, values > 10, "why") == ()
