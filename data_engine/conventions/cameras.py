"""What a camera looks from, by its name: the wrist (it moves with the gripper), outside, or not to be told.

Names are people's own: 3,230 public SO-101 datasets have 298 of them. A word counts, not a letter: ``left`` says where,
not on what, ``realsense`` what and not where, and both are ``other``.
"""

from __future__ import annotations

import re
from typing import Literal

from data_engine.conventions.roles import vocabulary
from data_engine.model import IMAGES

__all__ = ["CameraClass", "camera_class"]

CameraClass = Literal["wrist", "external", "other"]

_WRIST = vocabulary("wrist wristview gripper hand handeye endeff endeffector effector pincer jaw")
_EXTERNAL = vocabulary(
    "above aerial agentview back base bird birds bottom ceiling context corner env environment exo ext exterior"
    " external extside fix fixed front frontview global head high iphone laptop lateral low overhead overview phone"
    " profil profile rd rear scene sence side sideview stand static third top topdown topview tower tripod up workarea"
    " workspace worm"
)
_NO_VIEW = vocabulary("tactile spectrogram digit gelsight anyskin")  # sensors that are stored as pictures
_WORD = re.compile(r"[A-Z]?[a-z]+|[A-Z]+(?![a-z])")


def camera_class(name: str) -> CameraClass:
    """``wrist``, ``external`` or ``other`` of a camera's name, with or without the ``observation.images.`` prefix.

    A wrist camera that says on which side it sits (``wrist.top``, ``left_wrist``) is a wrist camera.
    """
    words = {word.lower() for word in _WORD.findall(name.removeprefix(IMAGES))}
    if words & _NO_VIEW:
        return "other"
    if words & _WRIST:
        return "wrist"
    return "external" if words & _EXTERNAL else "other"
