"""Numeric cores of the scorers: torch and numpy only, so that they run on a machine that has nothing else."""
