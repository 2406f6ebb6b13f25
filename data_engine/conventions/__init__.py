"""Conventions of columns: what their numbers mean, inferred with evidence, held against each other, and converted.

Kinds of a :class:`~data_engine.model.Finding` and their values (``unknown`` is a legal answer to each):

- ``unit``: ``deg``, ``rad``, ``m``, ``mm``, ``px``, ``ticks`` (0 to 4095 a turn), ``range_m100_100`` (a share of each
  joint's calibrated range), ``range_m1_1``, ``range_0_1``;
- ``action_mode``: ``absolute`` or ``delta``; ``latency``: steps until the state is where the action asked, ms in the
  evidence; ``frame`` of commanded translations: ``world``, ``base``, ``end_effector``;
- ``wraps``: the period of an angle that wraps; ``quaternion``: ``xyzw`` or ``wxyz``; ``quaternion_sign``:
  ``continuous`` or ``flips``; ``rotation``: ``euler``, ``rotation_vector``, ``rot6d``;
- ``gripper``: ``discrete`` or ``continuous``; ``gripper_range``: ``low..high``; ``gripper_polarity``: ``larger_opens``
  or ``larger_closes``.

Nothing is ever rescaled because of a finding: a mixture of datasets that disagree is refused (``agreement``) unless its
recipe names the conversion (``convert``).
Numpy, pydantic and Arrow only; pure.
"""

from data_engine.conventions.infer import CONFIDENT, infer
from data_engine.model import Finding

__all__ = ["CONFIDENT", "Finding", "infer"]
