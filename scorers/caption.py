"""What happens in an episode, in one sentence, as a vision-language model sees it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from data_engine.asking import Dialogue, Question
from data_engine.labelling import Annotation, Labels, LabelSpec
from data_engine.model import TIMESTAMP
from data_engine.scoring import Metric, Needs, Resources, ScoreRow
from scorers.showing import Showing

__all__ = ["Caption"]

_SYSTEM = "You describe what robots do from pictures, soberly: what cannot be seen, you do not know."
_ASK = (
    "You see {count} pictures of one recording of a robot in the order of time. Say in one sentence what the robot "
    "does, in the form of an instruction that somebody could have given it, such as: put the red cup on the plate. "
    "Answer with that sentence alone."
)
_MOST = 1000  # characters of a caption


class Caption(Showing):
    """A sentence for each episode, annotation ``caption``; the recorded instruction is not shown to the model.

    Metric ``words`` of the caption.
    """

    spec: ClassVar[LabelSpec] = LabelSpec(
        name="caption",
        version="1",
        level="episode",
        metrics=(Metric("words", "words", "neither"),),
        needs=Needs(columns=(TIMESTAMP,)),
        kinds=("caption",),
        resources=Resources(cpus=1),
        learns=False,
    )

    def dialogue(self, episode: Mapping[str, Any]) -> Dialogue[Labels]:
        """Ask what an episode shows."""
        pictures = self.shown(episode)
        if not pictures:
            return Labels.undefined(self.spec.metrics, "no camera to look through")
        answer = yield Question((*pictures, _ASK.format(count=len(pictures))), _SYSTEM)
        said = " ".join((answer.text or "").split()).strip("\"' ")
        if not said:
            return Labels.undefined(self.spec.metrics, f"refused: {answer.refusal}" if answer.refusal else "no words")
        why = "cut off" if answer.cut or len(said) > _MOST else None
        caption = Annotation("caption", 0, episode["n_steps"], text=said[:_MOST], reason=why)
        return Labels((caption,), (ScoreRow("words", float(len(said[:_MOST].split())), reason=why),))
