"""The ground floor: what an episode is and what becomes of it.

Belongs here: the model (dataset, episode, step), the container formats it arrives in (``formats/``, the only place
that imports container libraries, and those lazily), how a set of episodes is chosen (``selection/``), weighed
(``weighers/``), frozen into a mixture, loaded by a trainer and exported (``exports/``). Arrow and arrays in, Arrow and
arrays out.

Does not belong here: anything that knows the lake's tables, Prefect, Ray, a server or a scorer. This package imports
none of ``scorers``, ``storage``, ``flows`` and ``api``, and a trainer installs it alone.
"""

__version__ = "0.1.0"
