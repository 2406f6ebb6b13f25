"""What robomimic's ``env_args`` and robosuite's ``env_info`` say of the robot, its controller and its clock."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from data_engine.formats.attributes import parse

__all__ = ["Environment"]


@dataclass(frozen=True)
class Environment:
    """An environment as a file describes it; what it does not state is None.

    ``control_mode`` is the controller's name in lower case, with ``_delta`` or ``_absolute`` where that is stated
    (``osc_pose_delta``): the two must never be mixed. ``control_hz`` is the rate of actions.
    """

    task: str | None = None
    embodiment: str | None = None
    control_mode: str | None = None
    control_hz: float | None = None
    notes: tuple[str, ...] = ()

    @classmethod
    def of(cls, attributes: Mapping[str, Any]) -> Environment:
        """Read the attributes of the ``data`` group (plain values): ``env_args``, ``env_info`` or ``env``.

        robosuite before 1.0 puts the robot into the environment's name (SawyerLift); that is used, with a note.
        """
        env = parse(attributes.get("env_args")) or parse(attributes.get("env_info"))
        stated = env.get("env_kwargs")
        kwargs = stated if isinstance(stated, dict) else env
        task = env.get("env_name") or attributes.get("env")
        robots = kwargs.get("robots")
        robots = [robots] if isinstance(robots, str) else robots
        embodiment = "+".join(map(str, robots)) if isinstance(robots, list) and robots else None
        notes = []
        legacy = re.match(r"Sawyer|Baxter|Panda", task) if isinstance(task, str) and embodiment is None else None
        if legacy:
            embodiment = legacy.group()
            notes.append(f"embodiment {embodiment} is read from the environment's name {task}")
        rate = kwargs.get("control_freq")
        return cls(
            task=task if isinstance(task, str) else None,
            embodiment=embodiment,
            control_mode=_control_mode(kwargs.get("controller_configs")),
            control_hz=float(rate) if isinstance(rate, int | float) and 0 < rate < 1e6 else None,
            notes=tuple(notes),
        )


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
