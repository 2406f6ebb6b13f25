"""Whether an episode succeeded, as a vision-language model sees it: verdict, reason and raw answer, beside the record.

Du et al., "Vision-Language Models as Success Detectors" (2023). What the source itself says of success is not shown to
the model and not changed by it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, ClassVar

from data_engine.asking import Answer, Dialogue, Picture, Question, instruction
from data_engine.labelling import Annotation, Labels, LabelSpec
from data_engine.model import TIMESTAMP
from data_engine.scoring import Metric, Needs, Resources, ScoreRow
from scorers.showing import Showing

__all__ = ["Success"]

_SYSTEM = "You judge the behaviour of robots from pictures, soberly: what cannot be seen, you do not know."
_ASK = (
    'The task of the robot is: "{task}".\n'
    "You see {count} pictures of one attempt in the order of time; the last one is its end.\n"
    "Say in one or two sentences what shows whether the task is achieved at the end. The last line is a single word: "
    "SUCCESS if it is achieved, FAILURE if it is not, UNSURE if the pictures do not tell."
)
_WORDS = {"success": True, "failure": False, "unsure": None}
_WORD = re.compile(r"\b(success|failure|unsure)\b", re.IGNORECASE)


class Success(Showing):
    """A verdict on each episode: annotation ``success`` with label ``true``, ``false`` or ``unsure``, the reason, and
    the raw answer as its text.

    Metric ``success``: 1 or 0, undefined where it is unsure.
    """

    spec: ClassVar[LabelSpec] = LabelSpec(
        name="success",
        version="1",
        level="episode",
        metrics=(Metric("success", "verdict", "higher"),),
        needs=Needs(columns=(TIMESTAMP,)),
        kinds=("success",),
        resources=Resources(cpus=1),
        learns=False,
    )

    def dialogue(self, episode: Mapping[str, Any]) -> Dialogue[Labels]:
        """Ask whether an episode succeeded."""
        pictures = self.shown(episode)
        task = instruction(episode)
        if task is None or not pictures:
            return Labels.undefined(self.spec.metrics, "no camera to look through" if task else "no instruction")
        task = " ".join(task.replace('"', "'").split())
        answer = yield Question((*pictures, _ASK.format(task=task, count=len(pictures))), _SYSTEM)
        return self._labels(answer, pictures, episode["n_steps"])

    def _labels(self, answer: Answer, pictures: tuple[Picture, ...], n_steps: int) -> Labels:
        if answer.text is None:
            return Labels.undefined(self.spec.metrics, f"refused: {answer.refusal}")
        lines = [line.strip() for line in answer.text.splitlines() if line.strip()]
        words = {word.lower() for word in _WORD.findall(lines[-1] if lines else "")}
        reason = " ".join(lines[:-1] if len(lines) > 1 else lines)[:500] or None
        if len(words) != 1:
            why = "the answer was cut off before its verdict" if answer.cut else "no verdict in the answer"
            said = Annotation("success", 0, n_steps, "unsure", answer.text, reason=why)
            return Labels((said,), (ScoreRow("success", None, "undefined", why),))
        verdict = _WORDS[words.pop()]
        label = "unsure" if verdict is None else str(verdict).lower()
        said = Annotation(
            "success", 0, n_steps, label, answer.text, None if verdict is None else float(verdict), reason=reason
        )
        status = ScoreRow("success", None, "undefined", f"unsure: {reason}") if verdict is None else ScoreRow(
            "success", float(verdict), reason=reason
        )  # fmt: skip
        return Labels((said,), (status,))
