"""SOURCE OUT FORMAT [DIALECT ...]: a lake of SOURCE with a mixture of all of it, exported as LeRobot v3 to OUT/export,
and in each DIALECT to OUT/<dialect>.
"""

import sys
from pathlib import Path

from benchmarks.own_scripts.lake import frozen, ingested
from benchmarks.rival_scripts.figures import Work
from flows.export import export


def main() -> None:
    source, out, form = Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3]
    work = Work()
    mixture = frozen(ingested(source, out / "lake", form))
    export(mixture["uri"], "lerobot_v3", str(out / "export"))
    for dialect in sys.argv[4:]:
        export(mixture["uri"], dialect, str(out / dialect))
    work.report("data-engine", "prepare", mixture["steps"], uri=mixture["uri"])


if __name__ == "__main__":
    main()
