"""What robomimic's ``env_args``, robosuite's ``env_info`` and LIBERO's ``problem_info`` say of robot and task."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from data_engine.formats.attributes import parse

__all__ = ["Environment"]

_ROBOT = re.compile(r"^(?:Sawyer|Baxter|Panda)|(?<=-)(?:Franka|GR1T2|G1|H1|UR10e?|UR5e?|Kuka|OpenArm|Agibot)(?=-)")
_INVERSE = re.compile(r"-IK-(Rel|Abs)(?:-|$)")


@dataclass(frozen=True)
class Environment:
    """An environment as a file describes it; what it does not state is None.

    ``control_mode`` is the controller's name in lower case, with ``_delta`` or ``_absolute`` where that is stated
    (``osc_pose_delta``): the two must never be mixed. ``control_hz`` is the rate of actions. Where there is a language
    instruction it is the task: an environment's name is often that of many tasks.
    """

    task: str | None = None
    embodiment: str | None = None
    control_mode: str | None = None
    control_hz: float | None = None
    language: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    @classmethod
    def of(cls, attributes: Mapping[str, Any]) -> Environment:
        """Read the attributes of the ``data`` group (plain values): ``env_args``, ``env_info`` or ``env``.

        robosuite before 1.0 and Isaac Lab put the robot into the environment's name (SawyerLift,
        Isaac-Stack-Cube-Franka-IK-Rel-v0); that is used, with a note. So is Isaac Lab's kind of control.
        """
        env = parse(attributes.get("env_args")) or parse(attributes.get("env_info"))
        stated = env.get("env_kwargs")
        kwargs = stated if isinstance(stated, dict) else env
        task = env.get("env_name") or attributes.get("env")
        robots = kwargs.get("robots")
        robots = [robots] if isinstance(robots, str) else robots
        embodiment = "+".join(map(str, robots)) if isinstance(robots, list) and robots else None
        notes = []
        name = task if isinstance(task, str) else ""
        legacy = _ROBOT.search(name) if embodiment is None else None
        if legacy:
            embodiment = legacy.group()
            notes.append(f"embodiment {embodiment} is read from the environment's name {task}")
        mode = _control_mode(kwargs.get("controller_configs"))
        inverse = _INVERSE.search(name) if mode is None else None
        if inverse:
            mode = "ik_delta" if inverse[1] == "Rel" else "ik_absolute"
            notes.append(f"control mode {mode} is read from the environment's name {task}")
        text = parse(attributes.get("problem_info")).get("language_instruction")
        language = "".join(text) if isinstance(text, list) and all(isinstance(part, str) for part in text) else text
        said = (language,) if isinstance(language, str) and language else ()
        return cls(
            task=said[0] if said else name or None,
            embodiment=embodiment,
            control_mode=mode,
            control_hz=_rate(kwargs.get("control_freq")) or _step_rate(env.get("sim_args")),
            language=said,
            notes=tuple(notes),
        )


def _rate(value: Any) -> float | None:
    return float(value) if isinstance(value, int | float) and 0 < value < 1e6 else None


def _step_rate(sim: Any) -> float | None:
    """The rate of Isaac Lab's actions: its physics takes ``decimation`` steps of ``dt`` seconds to each."""
    dt, decimation = (_rate(sim.get("dt")), _rate(sim.get("decimation"))) if isinstance(sim, dict) else (None, None)
    return _rate(float(f"{1 / (dt * decimation):.6g}")) if dt and decimation else None


def _control_mode(config: Any) -> str | None:
    """One name for a controller, or for the controllers of several robots or body parts joined with ``+``."""
    if isinstance(config, list):
        return "+".join(sorted({name for part in config if (name := _control_mode(part))})) or None
    if not isinstance(config, dict):
        return None
    if isinstance(config.get("body_parts"), dict):  # robosuite 1.5's composite controllers
        return _control_mode(list(config["body_parts"].values()))
    kind = config.get("type")
    if not isinstance(kind, str):
        return None
    reference = config.get("input_type")
    if isinstance(config.get("control_delta"), bool):
        reference = "delta" if config["control_delta"] else "absolute"
    return f"{kind}_{reference}".lower() if reference in ("delta", "absolute") else kind.lower()
