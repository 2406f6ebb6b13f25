"""Re-Mix: how much of each dataset a policy should see, by group DRO on the engine's own small policy.

Hejna et al. 2024, "Re-Mix: Optimizing Data Mixtures for Large Scale Imitation Learning"; the algorithm is in
``scorers.kernels.group_dro``. A weigher, registered as one; torch is imported when it weighs.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
import pyarrow as pa
from pydantic import Field

from data_engine.errors import RequestError
from data_engine.reference import Reference
from data_engine.scoring import EpisodeBatch
from data_engine.view import fit_views
from data_engine.weighers import Drawn, Weigher, Weights

__all__ = ["Remix"]

_STEPS = 60_000  # of a task that the policies learn from


class Remix(Weigher):
    """Draw each domain ``over`` (dataset, task, operator) by its Re-Mix share; in it, as the selection's weights do.

    States and actions are those of the engine's view, one for all domains, so all must be of one embodiment and control
    mode, with as many state and action dimensions. ``rate`` is how fast the shares follow the excess loss and
    ``smoothing`` how far they are drawn back to the domains' sizes; the answer is their mean over ``iterations`` of the
    proxy. Policies predict ``chunk`` actions from each step.

    The report has each domain's ``initial`` and final ``share``, and the mean loss of the reference and the proxy.
    """

    name = "remix"
    needs_steps = True

    over: Literal["dataset", "task", "operator"] = "dataset"
    rate: float = Field(0.2, gt=0, le=10)
    smoothing: float = Field(0.05, ge=0, lt=1)
    chunk: int = Field(4, ge=1, le=64)
    iterations: int = Field(2000, ge=1, le=1_000_000)
    reference_iterations: int = Field(3000, ge=1, le=1_000_000)
    hidden: int = Field(128, ge=4, le=4096)

    def weigh(self, drawn: Drawn) -> Weights:
        """Raises ``RequestError`` for unlike robots, for a domain that nothing can be learned from, and where the
        mixture draws datasets.
        """
        from scorers.kernels.group_dro import remix
        from scorers.kernels.policy import action_chunks

        names, group = drawn.groups(self.over)
        drawn.share_out(group, np.ones(len(names)))  # refused before hours of training, if it is
        reference, domain_of = self._read(drawn, group)
        if len(reference.groups) != 1:
            raise RequestError(
                f"remix trains one policy, but these are {len(reference.groups)} kinds of robot or layout: "
                f"{', '.join(sorted(reference.groups)) or 'none with states and actions'}",
                code="unlike_robots",
                fix="make an entry for each embodiment and control mode",
            )
        ((key, raw),) = reference.groups.items()
        view = fit_views(reference)[key]
        views = [view.measure(episode) for episode in raw]
        owner = np.repeat(np.arange(len(views)), [len(one.state) for one in views])
        time = np.concatenate([np.flatnonzero(one.valid) for one in views])
        state, action = (np.concatenate([getattr(one, part) for one in views]) for part in ("state", "action"))
        domain = np.array([domain_of[one.content_hash] for one in views])
        lacking = [name for number, name in enumerate(names) if number not in set(domain[owner].tolist())]
        if lacking or not action.shape[1]:
            raise RequestError(
                f"remix finds no step with states and actions to learn from in {', '.join(lacking) or 'any domain'}",
                code="nothing_to_learn",
                fix="leave it out, or use another weigher",
            )
        chunk, known = action_chunks(action, owner, time, self.chunk)
        found = remix(
            state, chunk, known, owner, domain, seed=drawn.seed, rate=self.rate, smoothing=self.smoothing,
            iterations=self.iterations, reference_iterations=self.reference_iterations, hidden=self.hidden,
        )  # fmt: skip
        initial = np.bincount(domain[owner], minlength=len(names)) / len(owner)
        columns = (found.alpha, initial, found.reference, found.proxy)
        report = {
            name: dict(zip(("share", "initial", "reference_loss", "proxy_loss"), map(float, row), strict=True))
            for name, row in zip(names, np.stack(columns, axis=1), strict=True)
        }
        return Weights(drawn.share_out(group, found.alpha), {"domains": report, "steps": len(owner)})

    def _read(self, drawn: Drawn, group: np.ndarray) -> tuple[Reference, dict[str, int]]:
        """The episodes to learn from, and the domain of each content hash."""
        assert drawn.steps is not None
        domain_of: dict[str, int] = {}

        def batches():  # type: ignore[no-untyped-def]
            for i, table in drawn.steps():
                content = f"{drawn.content_hashes[i]}:{i}"
                domain_of[content] = int(group[i])
                embodiment, _, mode = drawn.kinds[i].partition("/")
                row = {
                    "content_hash": content, "embodiment": embodiment, "control_mode": mode, "task": drawn.tasks[i],
                }  # fmt: skip
                dataset = drawn.described[drawn.datasets[i]]
                yield EpisodeBatch(dataset, pa.Table.from_pylist([row]), table, np.array([0, table.num_rows]))

        return Reference(batches(), seed=drawn.seed, budget=_STEPS), domain_of
