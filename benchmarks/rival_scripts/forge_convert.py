"""SOURCE OUT: frames a second of forge's conversion, LeRobot v3 to LeRobot v3; a first time as warm-up."""

import json
import sys
from pathlib import Path

import pyarrow.parquet  # noqa: F401  (else its import would count as work)
from figures import Work
from forge.convert import convert


def main() -> None:
    n = json.loads(Path(sys.argv[1], "meta/info.json").read_text())["total_frames"]
    seconds = []
    for name in ("first", "second"):
        work = Work()
        result = convert(sys.argv[1], Path(sys.argv[2], name), target_format="lerobot-v3", fail_on_error=True)
        if not result.success:
            raise SystemExit("; ".join(result.errors))
        seconds.append(work.seconds)
    work.report("forge-robotics 0.2.0", "convert", n, episodes=result.episodes_converted, warm_up_s=seconds[0])


if __name__ == "__main__":
    main()
