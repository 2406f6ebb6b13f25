"""SOURCE OUT FRAMES: frames a second of forge's conversion to LeRobot v3; a first time as warm-up."""

import sys
from pathlib import Path

import pyarrow.parquet  # noqa: F401  (else its import would count as work)
from figures import Work
from forge.convert import convert


def main() -> None:
    seconds = []
    for name in ("first", "second"):
        work = Work()
        result = convert(sys.argv[1], Path(sys.argv[2], name), target_format="lerobot-v3", fail_on_error=True)
        if not result.success:
            raise SystemExit("; ".join(result.errors))
        seconds.append(work.seconds)
    work.report(
        "forge-robotics 0.2.0", "convert", int(sys.argv[3]), episodes=result.episodes_converted, warm_up_s=seconds[0]
    )


if __name__ == "__main__":
    main()
