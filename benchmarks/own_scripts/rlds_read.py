"""SOURCE frames|values: episodes a second out of an RLDS set, with or without decoding the images; warmed up once."""

import sys

from benchmarks.rival_scripts.figures import Work
from data_engine.formats import Source, SourceEpisode
from data_engine.formats.rlds import RLDS


def read(uri: str, decode: bool) -> int:
    source, form = Source(uri), RLDS()
    probe = form.probe(source)
    assert probe is not None
    n = 0
    for episode in form.read(source, probe, [ref.key for ref in probe.episodes]):
        assert isinstance(episode, SourceEpisode)
        n += 1
        if decode:
            for camera in episode.cameras.values():
                for _ in camera.frames():
                    pass
    return n


def main() -> None:
    decode = sys.argv[2] == "frames"
    warm = Work()
    read(sys.argv[1], decode)
    warm_up = warm.seconds
    work = Work()
    n = read(sys.argv[1], decode)
    work.report("data-engine", f"read RLDS {sys.argv[2]}", n, warm_up_s=warm_up)


if __name__ == "__main__":
    main()
