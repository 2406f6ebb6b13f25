from __future__ import annotations

import numpy as np

from benchmarks.uplift_arms import ALL, Arm, Found, Settings
from benchmarks.uplift_report import report


def found(**shares: list[float]) -> Found:
    """Success by method at a half of the budget, as trainings of one task."""
    result = Found()
    for method, values in shares.items():
        arm = Arm(ALL, 1.0) if method == "everything" else Arm(method, 0.5)
        result.success[arm], result.kept_good[arm] = [np.array(values)], [0.5]
    return result


def test_the_report_says_what_helps_what_does_not_and_what_was_not_measured():
    made = found(everything=[0.4, 0.5, 0.45, 0.5], oracle=[0.9, 0.95, 1.0, 0.9], fine=[0.8, 0.95, 1.0, 0.95],
                 idle=[0.5, 0.4, 0.5, 0.45], bad=[0.1, 0.2, 0.1, 0.1])  # fmt: skip
    made.missing["absent"] = "not installed"
    lines = report("mixed", made, ["fine", "idle", "bad", "absent", "oracle"], Settings(tasks=("t",), seeds=4))
    text = "\n".join(lines)
    assert "not measured: not installed" in text
    table = text[: text.index("at 50%")]
    rows = {line.split()[0]: line for line in table.splitlines() if "%" in line}
    assert rows["fine"].endswith("helps") and rows["oracle"].endswith("helps")
    assert rows["idle"].endswith("no help shown")
    assert rows["bad"].endswith("HARMS")
    reach = text[text.index("at 50%") :]
    assert [line.split()[0] for line in reach.splitlines() if line.endswith("reached")] == ["fine"]


def test_do_no_harm_is_missed_only_by_a_loss_that_would_have_shown():
    made = found(everything=[1.0, 0.9, 1.0, 0.95], slight=[0.9, 1.0, 0.9, 1.0], bad=[0.3, 0.4, 0.2, 0.3])
    how = Settings(tasks=("t",), seeds=4)
    lines = report("clean", made, ["slight", "bad"], how)
    assert any(line.endswith("MISSED by bad (-66.2%)") for line in lines)
    del made.success[Arm("bad", 0.5)]
    lines = report("clean", made, ["slight"], how)
    at = next(i for i, line in enumerate(lines) if line.endswith("held"))
    assert lines[at + 1].startswith("  the largest loss that an interval leaves room for: -")
    assert lines[at + 1].endswith("(slight)")


def test_budgets_are_in_order_and_the_summary_holds_what_was_measured():
    made = found(everything=[0.4, 0.5, 0.45, 0.5], fine=[0.8, 0.95, 1.0, 0.95])
    made.success[Arm("fine", 0.1)], made.kept_good[Arm("fine", 0.1)] = [np.array([0.5, 0.6, 0.5, 0.5])], [0.5]
    made.open = [Arm("fine", 0.25)]
    lines = report("mixed", made, ["fine"], Settings(tasks=("t",), seeds=4))
    budgets = [line.split()[1] for line in lines if line.startswith("  fine")]
    assert budgets == ["10%", "50%"]
    assert "  not measured: fine 25%" in lines
    assert any(line.startswith("  2 arms:") for line in lines)
    table = [line for line in lines if line.startswith("|")]
    assert table[0] == "| gain over all data (46.2%) | 10% kept | 50% kept |"
    assert table[2].startswith("| fine | +6.2 (") and "| +46.2 (" in table[2]


def test_scores_that_are_told_labels_stand_apart():
    made = found(everything=[0.4, 0.5], influence=[0.8, 0.9], composite=[0.8, 0.9])
    lines = report("mixed", made, ["influence", "composite"], Settings(tasks=("t",), seeds=2))
    at = {word: next(i for i, line in enumerate(lines) if line.strip().startswith(word))
          for word in ("label-free", "label-using", "influence", "composite")}  # fmt: skip
    assert at["label-free"] < at["composite"] < at["label-using"] < at["influence"]


def test_what_random_gains_as_well_is_no_merit():
    made = found(everything=[0.1, 0.2, 0.15, 0.2], random=[0.6, 0.65, 0.7, 0.6], same=[0.65, 0.6, 0.7, 0.6],
                 more=[0.9, 0.95, 1.0, 0.9], less=[0.3, 0.35, 0.4, 0.3])  # fmt: skip
    lines = report("mixed", made, ["random", "same", "more", "less"], Settings(tasks=("t",), seeds=4))
    ends = {line.split()[0]: line for line in lines if line.startswith("  ") and "50%" in line}
    assert ends["random"].endswith("%  helps") and ends["same"].endswith("%  helps")
    assert ends["more"].endswith("helps, better than random")
    assert ends["less"].endswith("helps, worse than random")
    assert [line.split()[1] for line in lines if "**" in line] == ["more"]


def test_a_loss_below_what_is_detectable_is_said():
    made = found(everything=[1.0] * 5, slight=[0.9, 0.98, 0.88, 0.97, 0.95])
    line = next(
        line for line in report("strategies", made, ["slight"], Settings(tasks=("t",))) if line[2:8] == "slight"
    )
    assert line.endswith("loses, by less than is detectable")


def test_where_the_oracle_gains_nothing_nobody_reaches_it():
    made = found(everything=[0.4, 0.5, 0.45, 0.5], oracle=[0.5, 0.4, 0.45, 0.5], fine=[0.8, 0.95, 1.0, 0.95])
    lines = report("pusht", made, ["fine", "oracle"], Settings(tasks=("t",), seeds=4))
    assert any(line.endswith("there is nothing to reach") for line in lines)
    assert not any(line.endswith("reached") for line in lines)
