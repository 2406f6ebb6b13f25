"""The tables of ``uplift``: gains over all data, and over as many episodes at random, with their intervals.

Fewer episodes may do better than all of them whatever they are, so a method is worth something where it gains over all
data and over ``random`` at its budget.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from benchmarks import uplift_sets as sets
from benchmarks.uplift_arms import ALL, HARMLESS, LABEL_USING, ORACLE, Arm, Found, Settings
from data_engine.outcomes import Difference, paired_difference, wilson

__all__ = ["report"]


def report(part: str, found: Found, methods: Sequence[str], how: Settings) -> list[str]:
    """The tables of a set, as lines."""
    everything = found.success.get(Arm(ALL, 1.0))
    if everything is None:
        return [f"{part}: nothing was measured"]
    trials = len(how.tasks) * how.seeds * how.rollouts
    low, high = wilson(round(_mean(everything) * trials), trials)
    what = "coverage of the goal"
    if part != sets.PUSHT:
        what = f"success (Wilson {low:.1%} to {high:.1%} for these very policies)"
    lines = [
        f"{part}: {len(how.tasks)} tasks x {how.seeds} seeds x {how.rollouts} rollouts = {trials} an arm, of "
        f"{how.candidates} candidates a task",
        f"  all data: {_mean(everything):.1%} {what}; "
        f"{np.mean(found.kept_good[Arm(ALL, 1.0)]):.0%} of the episodes succeeded",
    ]
    if len(how.tasks) > 1:
        each = zip(how.tasks, everything, strict=True)
        lines.append("    " + ", ".join(f"{task} {np.mean(row):.1%}" for task, row in each))
    for title, uses_labels in (("label-free", False), ("label-using", True)):
        lines += ["", f"  {title:<20} budget  success  gain over all data          detectable  over random"
                      "                 good kept"]  # fmt: skip
        for name in methods:
            if _told_labels(name) == uses_labels:
                lines += [_line(arm, found, everything, part) for arm in _by_budget(found, name)]
                if name in found.missing:
                    lines.append(f"  {name:<20} not measured: {found.missing[name]}")
    if found.open:
        lines += ["", f"  not measured: {', '.join(f'{arm.method} {arm.budget:.0%}' for arm in found.open)}"]
    count = sum(arm.method != ALL for arm in found.success)
    lines += [
        "",
        f"  {count} arms: of as many intervals of 95 % about {count / 20:.1f} miss the true difference by chance",
    ]
    return [*lines, "", *_verdicts(part, found, methods, everything), "", *_summary(found, methods, everything), ""]


def _told_labels(method: str) -> bool:
    return method.partition(".")[0] in (*LABEL_USING, ORACLE)


def _by_budget(found: Found, method: str) -> list[Arm]:
    return sorted((arm for arm in found.success if arm.method == method), key=lambda arm: arm.budget)


def _line(arm: Arm, found: Found, everything: Sequence[np.ndarray], part: str) -> str:
    gain, gap = paired_difference(found.success[arm], everything), _over_random(arm, found)
    verdict, least = _verdict(gain, part), f"{gain.detectable:.1%}" if gain.detectable else "no spread"
    if gap is not None and (gap.low > 0 or gap.high < 0):
        verdict += ", better than random" if gap.low > 0 else ", worse than random"
    return (
        f"  {arm.method:<20} {arm.budget:>5.0%}  {_mean(found.success[arm]):>7.1%}  {_span(gain):<26}  "
        f"{least:>9}   {_span(gap) if gap else '':<26}  {np.mean(found.kept_good[arm]):>8.0%}  {verdict}"
    )


def _over_random(arm: Arm, found: Found) -> Difference | None:
    """The gain over as many episodes at random; None where those were not measured."""
    rows = found.success.get(Arm("random", arm.budget))
    return None if rows is None or arm.method == "random" else paired_difference(found.success[arm], rows)


def _span(gain: Difference) -> str:
    return f"{gain.mean:+7.1%} ({gain.low:+.1%} to {gain.high:+.1%})"


def _verdict(gain: Difference, part: str) -> str:
    if gain.low > 0:
        return "helps"
    if part in HARMLESS:
        if gain.mean < -gain.detectable:
            return "HARMS"
        return "loses, by less than is detectable" if gain.high < 0 else "no harm shown"
    return "HARMS" if gain.high < 0 else "no help shown"


def _verdicts(part: str, found: Found, methods: Sequence[str], everything: Sequence[np.ndarray]) -> Iterator[str]:
    if part in HARMLESS:
        gains = {arm: paired_difference(rows, everything) for arm, rows in found.success.items() if arm.method != ALL}
        lost = [f"{arm.method} ({gain.mean:+.1%})" for arm, gain in gains.items() if _verdict(gain, part) == "HARMS"]
        verdict = f"MISSED by {', '.join(lost)}" if lost else "held"
        yield f"  do no harm (none may lose more than is detectable): {verdict}"
        if gains:  # that no harm was shown shows no harmlessness
            arm, worst = min(gains.items(), key=lambda pair: pair[1].low)
            yield f"  the largest loss that an interval leaves room for: {worst.low:+.1%} ({arm.method})"
        return
    for arm in _by_budget(found, ORACLE):
        best, budget = found.success[arm], arm.budget
        gain = paired_difference(best, everything)
        if gain.low <= 0:
            yield f"  at {budget:.0%} the oracle shows no gain {_span(gain)}: there is nothing to reach"
            continue
        yield f"  at {budget:.0%} the oracle gains {_span(gain)}; within its reach (interval of the gap to it holds 0):"
        for name in methods:
            rows = found.success.get(Arm(name, budget))
            if rows is not None and name != ORACLE:
                gap = paired_difference(rows, best)
                share = f", {(_mean(rows) - _mean(everything)) / gain.mean:.0%} of its gain"
                yield f"    {name:<20} {_span(gap)}{share}{': reached' if gap.high >= 0 else ''}"


def _summary(found: Found, methods: Sequence[str], everything: Sequence[np.ndarray]) -> Iterator[str]:
    """Gains in percentage points as a Markdown table, methods by budgets; bold where random does not gain as much."""
    budgets = sorted({arm.budget for arm in found.success if arm.method != ALL})
    yield f"| gain over all data ({_mean(everything):.1%}) | " + " | ".join(f"{b:.0%} kept" for b in budgets) + " |"
    yield "| --- |" + " --- |" * len(budgets)
    for name in methods:
        if _by_budget(found, name):
            label = " (told labels)" if _told_labels(name) else ""
            cells = (_cell(Arm(name, budget), found, everything) for budget in budgets)
            yield f"| {name}{label} | " + " | ".join(cells) + " |"


def _cell(arm: Arm, found: Found, everything: Sequence[np.ndarray]) -> str:
    if arm not in found.success:
        return ""
    gain, gap = paired_difference(found.success[arm], everything), _over_random(arm, found)
    text = f"{100 * gain.mean:+.1f} ({100 * gain.low:+.1f} to {100 * gain.high:+.1f})"
    return f"**{text}**" if gain.low > 0 and gap is not None and gap.low > 0 else text


def _mean(rows: Sequence[np.ndarray]) -> float:
    return float(np.mean([row.mean() for row in rows]))
