"""Measures and labels: one scorer, labeller or encoder a file.

Belongs here: what is measured of episodes and how. Numeric cores live in ``kernels/`` and import torch and numpy only.
Does not belong here: anything that reads or writes the lake. Imports ``data_engine`` only.
"""
