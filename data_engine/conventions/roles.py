"""What a component is, by its name: a joint, a gripper, a position, a rotation, ...

Names come as ``main_shoulder_pan``, ``shoulder_pan.pos``, ``kLeftElbow``, ``robot0_eef_quat.3`` or ``ee_x``: they are
cut into words, and the first kind of part that a word speaks of counts. A joint that is called roll is a joint.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

from data_engine.model import Feature

__all__ = ["Part", "Role", "parts", "vocabulary", "words"]

Role = Literal["joint", "hand", "gripper", "position", "rotation", "quaternion", "rate", "other"]


def vocabulary(text: str) -> frozenset[str]:
    """The words of ``text``."""
    return frozenset(text.split())


_RATE = vocabulary("vel velocity velocities speed torque torques effort force forces current qvel acceleration")
_GRIPPER = vocabulary("gripper grippers grip claw jaw jaws grasp pincer aperture finger fingers")
_HAND = vocabulary("hand thumb pinky ring middle index palm")
_JOINT = vocabulary(
    "arm joint joints shoulder elbow forearm upperarm waist hip knee ankle wrist flex pan lift motor servo qpos torso"
    " spine"
)
_QUATERNION = vocabulary("quat quats quaternion qx qy qz qw")
_ROTATION = vocabulary(
    "roll pitch yaw euler rpy rotvec axisangle rot rotation rot6d orientation angle theta heading rx ry rz droll dpitch"
    " dyaw drx dry drz"
)
_POSITION = vocabulary("pos position positions xyz translation cartesian eef ee tcp pose")
_AXES = {axis: axis[-1] for axis in ("x", "y", "z", "w", "dx", "dy", "dz", "qx", "qy", "qz", "qw", "px", "py", "pz")}
_NUMBERED_JOINT = re.compile(r"(?:j|q|dof|joint)\d+")
_WORD = re.compile(r"[A-Z]?[a-z]+\d*[a-z]*|[A-Z]+\d*(?![a-z])|\d+")


@dataclass(frozen=True)
class Part:
    """A run of components of one role and one owner (``robot0_eef_quat``): ``components`` int, in order.

    ``axes``: the letter that each is named by (x, y, z, w), or its number in the run as text; ``words``: those that all
    of them share.
    """

    role: Role
    components: tuple[int, ...]
    axes: tuple[str, ...]
    words: frozenset[str]


def words(name: str) -> tuple[str, ...]:
    """The lower-case words of a name: ``kLeftShoulderPitch`` -> k, left, shoulder, pitch."""
    return tuple(word.lower() for word in _WORD.findall(name))


def parts(feature: Feature) -> tuple[Part, ...]:
    """The named parts of a column, in order; none where its components have no names or the names only number them."""
    found: list[tuple[Role, str, str, frozenset[str]]] = []
    for name in feature.components or ():
        said = words(name)
        axis = said[-1] if said and (said[-1] in _AXES or said[-1].isdigit()) else ""
        owner = re.sub(r"[._ \[]?[dqp]?(?:[xyzw]|\d+)\]?$", "", name) if axis else ""
        found.append((_role(said, axis), owner, _AXES.get(axis, axis), frozenset(said)))
    runs: list[list[int]] = []
    for i, (role, owner, axis, _) in enumerate(found):
        joins = runs and found[i - 1][0] == role and role != "gripper"
        if joins and role in ("position", "rotation", "quaternion"):
            joins = found[i - 1][1] == owner and axis not in {found[k][2] for k in runs[-1]} - {""}
        if joins:
            runs[-1].append(i)
        else:
            runs.append([i])
    return tuple(
        Part(
            found[run[0]][0],
            tuple(run),
            tuple(found[i][2] for i in run),
            frozenset.intersection(*(found[i][3] for i in run)),
        )
        for run in runs
        if found[run[0]][0] != "other"
    )


def _role(said: tuple[str, ...], axis: str) -> Role:
    """The role that the words of a name speak of."""
    spoken = set(said)
    if spoken & _RATE:
        return "rate"
    moves = (axis in _AXES and axis != "w") or ("pos" in spoken and axis.isdigit() and int(axis) <= 2)
    if spoken & _QUATERNION:
        return "quaternion"
    if spoken & _GRIPPER and not ({"x", "y", "z"} & spoken):
        return "gripper"
    if spoken & _JOINT or any(_NUMBERED_JOINT.fullmatch(word) for word in said):
        return "joint" if axis not in ("x", "y", "z") else "position"
    if spoken & _HAND and not moves:
        return "hand"
    if spoken & _ROTATION:
        return "rotation"
    if axis in ("x", "y", "z", "dx", "dy", "dz", "px", "py", "pz") or (moves and spoken & _POSITION):
        return "position"
    return "other"
