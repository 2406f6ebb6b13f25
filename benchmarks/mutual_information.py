"""Mutual information of 30,000 steps against scikit-learn, and both headline scorers together.

    python benchmarks/mutual_information.py [--quick] [--json]

Three problems on the 180 Meta-World episodes. The kernel's: the pointwise KSG estimate of 12 state and 4 action numbers
in the batches of the method, one pass of 1,024 shuffled steps each, by our kernel and on scikit-learn's trees; and the
estimate over all steps at once, which is what one would write with scikit-learn. The scorers': fit and score of
action_divergence and mutual_information from step tables to rows, each step judged against four batches. And DemInf's
recipe with its VAEs, trained for as many steps on either side (ours ends sooner where its held-out loss does), against
the recipe in plain torch, which judges each step against four batches too.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

from benchmarks import rivals
from benchmarks.table import Machine, Row, Table, options, ratio, rounds, show

OWN = Path(__file__).parent / "own_scripts"
TARGET_S = 5.0


def main() -> int:
    asked = options(__doc__)
    source = asked.data / "metaworld_tiers/lerobot_v3"
    if not source.exists():
        print(f"{source} is not there; give --data", file=sys.stderr)
        return 2
    machine = Machine()
    with tempfile.TemporaryDirectory(prefix="benchmark-") as folder:
        work = Path(folder)
        tiers = rivals.tiers_slice(asked.data, work / "tiers.npz", 180)
        arrays = rivals.codes(tiers, work / "codes.npz")
        training = 400 if asked.quick else 4000
        coded = f'mutual_information={{"codes": "vae", "vae_steps": {training}}}'
        measures = {
            "kernel": lambda _: rivals.measure(None, OWN / "ksg_kernel.py", arrays, 1),
            "batches": lambda _: rivals.ksg(arrays, passes=1),
            "information": lambda _: rivals.measure(None, OWN / "fit_and_score.py", source, "mutual_information"),
            "both": lambda _: rivals.measure(
                None, OWN / "fit_and_score.py", source, "action_divergence", "mutual_information"
            ),
            "coded": lambda _: rivals.measure(None, OWN / "fit_and_score.py", source, coded),
            "plain": lambda _: rivals.deminf(tiers, training),
        }
        if not asked.quick:
            measures["whole"] = lambda _: rivals.ksg(arrays)
        found = rounds(measures, 1 if asked.quick else 3)
    kernel = Row.of("data-engine: kernel, batches of 1,024", found["kernel"])
    batches = Row.of("scikit-learn: the same batches", found["batches"])
    scorer = Row.of("data-engine: mutual_information, fit and score", found["information"])
    both = Row.of("data-engine: action_divergence as well, fit and score", found["both"])
    whole = [Row.of("scikit-learn: all steps at once", found["whole"])] if "whole" in found else []
    ours = Row.of(f"data-engine: mutual_information on VAE codes, {training:,} training steps", found["coded"])
    plain = Row.of("DemInf's recipe in plain torch, as many", found["plain"])
    lines = [f"kernel against scikit-learn on the same batches: {ratio(kernel, batches) or 0:.2f}x"]
    lines += [
        f"scorer, fit and score, against scikit-learn on all steps: {ratio(scorer, row) or 0:.2f}x" for row in whole
    ]
    lines.append(f"recipe with VAE codes against plain torch: {ratio(ours, plain) or 0:.2f}x")
    seconds = both.median("seconds")
    if seconds is not None:
        verdict = "reached" if seconds < TARGET_S else "MISSED"
        lines.append(f"both scorers, fit and score: {seconds:.2f} s, under {TARGET_S:g} s is aimed at: {verdict}")
    table = Table("Mutual information of 30,568 steps", "steps", [kernel, batches, *whole, scorer, both])
    recipe = Table("DemInf's recipe with VAE codes, 30,568 steps", "steps", [ours, plain])
    show([table, recipe], lines, machine, as_json=asked.json)
    return 0


if __name__ == "__main__":
    sys.exit(main())
