"""The report of ``quality.py``: tables of what each score found, and the bars, each reached or missed."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np

from benchmarks import cases
from benchmarks.measures import BASELINES
from benchmarks.planting import CONSISTENCY, INTEGRITY

__all__ = ["grid", "report"]

SHARE = 0.2
TOLD = BASELINES[:2]
BEHAVIOUR_GAIN = 0.03
_COPY = "duplicated"  # as good as its original: a matter of precision and recall, not of AUC


def report(outcomes: Sequence[Any], rivals: Sequence[Any], notes: Sequence[str]) -> str:
    """All of it as text. ``outcomes`` and ``rivals``: ``quality.Outcome``, the rivals' of a few sets."""
    parts = [*_defects(outcomes, rivals), *_shares(outcomes), *_magnitudes(outcomes), *_further(outcomes)]
    parts += [
        *_tiers(outcomes),
        "\n".join(["Bars", "", *_bars(outcomes, rivals)]),
        _facts([*outcomes, *rivals]),
        _costs(outcomes),
    ]
    failed = sorted({f"{name}: {why}" for o in [*outcomes, *rivals] for name, why in o.failed.items()})
    parts += ["\n".join(["Not measured", "", *failed])] if failed else []
    return "\n\n".join([*parts, *notes])


def grid(title: str, columns: Sequence[str], rows: Iterable[tuple[str, Sequence[float]]], form: str = "{:.3f}") -> str:
    """A table of numbers; blank where there is none."""
    lines = [["", *columns]]
    lines += [[name, *("" if v is None or np.isnan(v) else form.format(v) for v in values)] for name, values in rows]
    widths = [max(len(line[i]) for line in lines) for i in range(len(lines[0]))]
    text = [
        "  ".join([line[0].ljust(widths[0]), *(c.rjust(w) for c, w in zip(line[1:], widths[1:], strict=True))]).rstrip()
        for line in lines
    ]
    return "\n".join([title, "", text[0], "-" * len(text[0]), *text[1:]])


def _names(outcomes: Sequence[Any], *, headline: bool = True) -> list[str]:
    """Measures in the order of the tables: composite, the scorers by name, the baselines."""
    found = {name for o in outcomes for name in o.auc if "/" not in name}
    some = sorted(name for name in found if name not in BASELINES and ("." not in name) == headline)
    some.sort(key=lambda name: name != "composite")
    return [*some, *(name for name in BASELINES if name in found and headline)]


def _mean(values: Iterable[float]) -> float:
    known = [value for value in values if value is not None and not np.isnan(value)]
    return float(np.mean(known)) if known else float("nan")


def _of(outcomes: Sequence[Any], set_: str, kind: str, view: str, share: float = SHARE) -> list[Any]:
    key = (set_, kind, view, share)
    return [o for o in outcomes if (o.job.set, o.job.kind, o.job.view, o.job.share) == key and o.auc]


def _found(
    outcomes: Sequence[Any], name: str, set_: str, kind: str, view: str, share: float = SHARE, what: str = "auc"
) -> float:
    """The mean over seeds."""
    return _mean(getattr(o, what).get(name, np.nan) for o in _of(outcomes, set_, kind, view, share))


def _defects(outcomes: Sequence[Any], rivals: Sequence[Any]) -> list[str]:
    parts = []
    for set_, kinds in cases.SETS.items():
        for view in ("state", "proprioception"):
            there = [kind for kind in kinds if kind != _COPY and _of(outcomes, set_, kind, view)]
            if not there:
                continue
            some = [o for kind in there for o in _of(outcomes, set_, kind, view)]
            counts = f"{len({o.job.seed for o in some})} seeds, {_counts(some)}"
            for what, label in (("auc", "AUC"), ("spearman", "Spearman")):
                rows = []
                for name in _names(outcomes):
                    values = [_found(outcomes, name, set_, kind, view, what=what) for kind in there]
                    rows.append((name, [*values, _mean(values)]))
                for name in sorted({n for o in rivals for n in o.auc}):
                    values = [_found(rivals, name, set_, kind, view, what=what) for kind in there]
                    if not all(np.isnan(values)):
                        rows.append((f"{name} (rival)", [*values, _mean(values)]))
                shown = {"state": "object state", "proprioception": "proprioception only"}[view]
                parts.append(grid(f"{label}: {set_}, {shown}, {SHARE:.0%} bad ({counts})", [*there, "mean"], rows))
    return parts


def _counts(outcomes: Sequence[Any]) -> str:
    """Episodes of the smallest set, and the standard error of an AUC of one half there, as of a rank-sum."""
    bad, all_ = min((o.facts["bad"], o.facts["episodes"]) for o in outcomes)
    error = np.sqrt((all_ + 1) / (12 * bad * (all_ - bad)))
    return f"{bad} of {all_} bad a set: standard error up to {error:.2f} a set"


def _shares(outcomes: Sequence[Any]) -> list[str]:
    shares = sorted(
        {o.job.share for o in outcomes if o.job.set in cases.SETS and o.auc and o.job.kind in cases.SETS[o.job.set]}
    )
    if len(shares) < 2:
        return []
    columns = [f"{set_.split()[0]} {set_.split()[1]} {share:.0%}" for set_ in cases.SETS for share in shares]
    rows = []
    for name in _names(outcomes):
        values = [
            _mean(_found(outcomes, name, set_, kind, "state", share) for kind in kinds if kind != _COPY)
            for set_, kinds in cases.SETS.items()
            for share in shares
        ]
        rows.append((name, values))
    return [grid("Mean AUC over kinds by the share of bad episodes, object state", columns, rows)]


def _magnitudes(outcomes: Sequence[Any]) -> list[str]:
    parts = []
    for set_ in ("pusht acted", "metaworld acted"):
        kinds = [kind for kind in cases.SETS[set_] if _of(outcomes, set_, kind, "state")]
        if kinds:
            rows = []
            for name in _names(outcomes):
                values = []
                for kind in kinds:
                    thirds = [
                        o.by_magnitude[name] for o in _of(outcomes, set_, kind, "state") if name in o.by_magnitude
                    ]
                    values += [_mean(third) for third in zip(*thirds, strict=True)] if thirds else [np.nan] * 3
                rows.append((name, values))
            columns = [f"{kind} {third}" for kind in kinds for third in ("mild", "mid", "worst")]
            parts.append(grid(f"AUC against magnitude: {set_}, object state", columns, rows, "{:.2f}"))
    return parts


def _further(outcomes: Sequence[Any]) -> list[str]:
    """The metrics beside the headlines, by kind over all sets with object state."""
    kinds = list(dict.fromkeys(kind for some in cases.SETS.values() for kind in some if kind != _COPY))
    rows = []
    for name in _names(outcomes, headline=False):
        values = [
            _mean(_found(outcomes, name, set_, kind, "state") for set_, some in cases.SETS.items() if kind in some)
            for kind in kinds
        ]
        rows.append((name, values))
    title = f"AUC of the metrics beside the headlines, all sets, object state, {SHARE:.0%} bad"
    return [grid(title, kinds, rows, "{:.2f}")] if rows else []


def _tiers(outcomes: Sequence[Any]) -> list[str]:
    found = [o for o in outcomes if o.job.set == "metaworld tiers" and o.auc]
    if not found:
        return []
    (outcome,) = found
    tasks = sorted({name.split(" / ")[1] for name in outcome.auc})
    rows = []
    for name in outcome.spearman:
        values: list[float] = [outcome.spearman[name]]
        for task in tasks:
            values += [outcome.auc[f"{name} / {task}"], outcome.facts[f"{name} / {task}"][0]]
        rows.append((name, values))
    columns = ["Spearman", *(label for task in tasks for label in (task, "of like length"))]
    return [grid("Tiers: Spearman of three tiers by task; AUC expert against okay", columns, rows)]


def _bars(outcomes: Sequence[Any], rivals: Sequence[Any]) -> list[str]:
    lines: list[str] = []
    for bars in (_integrity_bar, _consistency_bar, _behaviour_bar, _mean_bar, _tier_bar, _mode_bar, _overlap_bar):
        lines += bars(outcomes, rivals)
    for outcome in outcomes:
        if outcome.job.set == "leak":
            lines += [
                _bar(f"{name}: largest relative change when nothing that matters changes", value, lambda v: v < 1e-4,
                     "under 0.0001", "{:.1e}")
                for name, value in sorted(outcome.facts.items())
            ]  # fmt: skip
    return lines


def _bar(what: str, value: float, holds: Callable[[float], bool], bar: str, form: str = "{:.3f}") -> str:
    if value is None or np.isnan(value):
        return f"{what}: not measured ({bar})"
    return f"{what}: {form.format(value)} ({bar}): {'holds' if holds(value) else 'misses'}"


def _integrity_bar(outcomes: Sequence[Any], _: Any) -> list[str]:
    lines = []
    for kind in INTEGRITY:
        counts = [o.facts["flagged"] for o in outcomes if o.job.kind == kind and "flagged" in o.facts]
        if counts:
            hit, wrong, missed = np.sum(counts, axis=0)
            lines += [
                _bar(f"integrity, {kind}: precision", hit / max(hit + wrong, 1), lambda v: v >= 0.98, "at least 0.98"),
                _bar(f"integrity, {kind}: recall", hit / max(hit + missed, 1), lambda v: v == 1.0, "1.0"),
            ]
    return lines


def _consistency_bar(outcomes: Sequence[Any], _: Any) -> list[str]:
    lines = []
    for set_ in ("pusht planted", "metaworld planted"):
        for kind in CONSISTENCY:
            if _of(outcomes, set_, kind, "state"):
                for name in ("consistency", "composite"):
                    if name in _names(outcomes):
                        value = _found(outcomes, name, set_, kind, "state")
                        lines.append(_bar(f"{name}, {kind}, {set_}", value, lambda v: v >= 0.95, "at least 0.95"))
    if "mislabelled" in {o.job.kind for o in outcomes}:
        for name in ("task_match", "composite"):
            if name in _names(outcomes):
                value = _found(outcomes, name, "metaworld planted", "mislabelled", "state")
                lines.append(
                    _bar(f"{name}, mislabelled, metaworld planted", value, lambda v: v >= 0.95, "at least 0.95")
                )
    return lines


def _behaviour_bar(outcomes: Sequence[Any], _: Any) -> list[str]:
    """Composite over the better of the two baselines that are told the direction."""
    lines = []
    for set_ in ("pusht acted", "metaworld acted"):
        for kind in cases.SETS[set_]:
            for view in ("state", "proprioception"):
                found = [o for o in _of(outcomes, set_, kind, view) if "composite" in o.boot]
                if not found:
                    continue
                what = f"composite, {kind}, {set_}, {view}"
                best = max(TOLD, key=lambda name: _mean(o.auc[name] for o in found))
                least = _mean(o.auc[best] for o in found)
                if least >= 0.97:
                    lines.append(f"{what}: waived, {best} alone has {least:.3f}")
                    continue
                gain = np.mean([np.subtract(o.boot["composite"], o.boot[best]) for o in found], axis=0)
                low = float(np.nanquantile(gain, 0.025))
                mean = _mean(o.auc["composite"] for o in found) - least
                bar = f"at least {BEHAVIOUR_GAIN} over {best}'s {least:.3f}, interval above 0"
                verdict = "holds" if mean >= BEHAVIOUR_GAIN and low > 0 else "misses"
                lines.append(f"{what}: {mean:+.3f}, 2.5 % at {low:+.3f} ({bar}): {verdict}")
    return lines


def _mean_bar(outcomes: Sequence[Any], rivals: Sequence[Any]) -> list[str]:
    if "composite" not in _names(outcomes):
        return ["composite: not registered, nothing to hold against its bars"]
    both = [
        (set_, kind)
        for set_, kinds in cases.SETS.items()
        for kind in kinds
        if _of(outcomes, set_, kind, "state") and kind != _COPY
    ]
    ours = _mean(_found(outcomes, "composite", *pair, "state") for pair in both)
    lines = [_bar("composite, mean over all kinds", ours, lambda v: v >= 0.95, "at least 0.95")]
    for name in sorted({n for o in rivals for n in o.auc}):
        shared = [pair for pair in both if _of(rivals, *pair, "state")]
        theirs = _mean(_found(rivals, name, *pair, "state") for pair in shared)
        mine = _mean(_found(outcomes, "composite", *pair, "state") for pair in shared)
        lines.append(
            _bar(f"composite over {name}, mean of {len(shared)} kinds", mine - theirs, lambda v: v > 0,
                 f"above its {theirs:.3f}", "{:+.3f}")
        )  # fmt: skip
    return lines


def _tier_bar(outcomes: Sequence[Any], _: Any) -> list[str]:
    lines = []
    for outcome in outcomes:
        if outcome.job.set == "metaworld tiers" and "composite" in outcome.spearman:
            best = max(BASELINES, key=lambda name: outcome.spearman[name])
            bar = f"at least 0.90 and over {best}'s {outcome.spearman[best]:.3f}"
            beaten = outcome.spearman["composite"] > outcome.spearman[best]
            value = outcome.spearman["composite"]
            lines.append(_bar("composite, tiers, Spearman", value, lambda v, b=beaten: v >= 0.90 and b, bar))
            for name in (name for name in outcome.auc if name.startswith("composite / ")):
                task = name.split(" / ")[1]
                like, count = outcome.facts[name]
                bar = f"at least 0.90; all pairs {outcome.auc[name]:.3f}, length {outcome.auc[f'length / {task}']:.3f}"
                what = f"composite, tiers, expert against okay, {task}, {count} pairs of like length"
                lines.append(_bar(what, like, lambda v: v >= 0.90, bar))
    return lines


def _mode_bar(outcomes: Sequence[Any], _: Any) -> list[str]:
    lines = []
    for view in ("state", "proprioception"):
        found = [o for o in outcomes if o.job.kind == "strategy" and o.job.view == view and o.auc]
        if found:
            ami = _mean(o.facts.get("AMI", np.nan) for o in found)
            lines.append(_bar(f"mode_id, two strategies, {view}: adjusted mutual information", ami, lambda v: v >= 0.8,
                              "at least 0.8"))  # fmt: skip
            value = _mean(o.auc.get("composite", np.nan) for o in found)
            lines.append(_bar(f"composite, two strategies, {view}: AUC", value, lambda v: 0.35 <= v <= 0.65,
                              "0.35 to 0.65"))  # fmt: skip
    found = [o for o in outcomes if o.job.kind == "slower" and o.auc]
    for name in ("composite", "consistency", "action_divergence", "mutual_information") if found else ():
        value = _mean(o.auc.get(name, np.nan) for o in found)
        lines.append(
            _bar(f"{name}, nothing but slower, pusht acted: AUC", value, lambda v: 0.35 <= v <= 0.65, "0.35 to 0.65")
        )
    return lines


def _overlap_bar(outcomes: Sequence[Any], _: Any) -> list[str]:
    lines = []
    for set_ in ("pusht acted", "metaworld acted"):
        for kind in ("pause", "detour"):
            found = [o.facts for o in _of(outcomes, set_, kind, "state") if "IoU" in o.facts]
            if found:
                lost = _mean(facts["lost"] for facts in found)
                lines.append(
                    _bar(f"extraneous, {kind}, {set_}: overlap (good ones lose {lost:.0%})",
                         _mean(facts["IoU"] for facts in found), lambda v: v >= 0.7, "at least 0.7")
                )  # fmt: skip
    return lines


def _facts(outcomes: Sequence[Any]) -> str:
    lines = ["False alarms: clean episodes with a finding", ""]
    for set_ in ("metaworld clean", "pusht clean"):
        for outcome in outcomes:
            if outcome.job.set == set_:
                for name, value in outcome.facts.items():
                    if name.endswith(", clean"):
                        lines.append(f"{set_}: {name.split()[0]} {value[0]} of {value[1]}")
    nulls = {}
    for o in outcomes:
        for name, share in o.nulls.items():
            if share > 0 and "." not in name:
                nulls.setdefault((name, o.job.set), []).append(share)
    lines += ["", "Nulls: share of episodes that a score says nothing of", ""]
    lines += [f"{name}, {set_}: {np.mean(v):.1%}, at most {max(v):.1%}" for (name, set_), v in sorted(nulls.items())]
    return "\n".join(lines)


def _costs(outcomes: Sequence[Any]) -> str:
    names = sorted({name for o in outcomes for name in o.seconds})
    rows = [(name, [_mean(o.seconds.get(name, np.nan) for o in outcomes)]) for name in names]
    return grid("CPU seconds a set, fit and score", ["mean"], rows, "{:.1f}")
