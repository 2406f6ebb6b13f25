"""Splits that never part siblings: an episode, its parent, its other ranges and the same recording under another name.

An episode's split depends on content alone, so it stays where it was when a mixture grows, and what was validation once
is never trained on later.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from data_engine.sampling import hash_key, uniform

__all__ = ["assign"]


def assign(
    episode_ids: Sequence[str],
    parents: Sequence[str | None],
    content_hashes: Sequence[str],
    fractions: Mapping[str, float],
) -> list[str]:
    """The split of each row. ``fractions`` sum to 1; each family lands in a split with that probability.

    A family's lot is drawn by the smallest content hash in it.
    """
    family: dict[str, str] = {}

    def find(name: str) -> str:
        root = name
        while family.setdefault(root, root) != root:
            root = family[root]
        while family[name] != root:
            family[name], name = root, family[name]
        return root

    for episode, parent, content in zip(episode_ids, parents, content_hashes, strict=True):
        for relative in (f"content:{content}", *([f"episode:{parent}"] if parent else [])):
            family[find(relative)] = find(f"episode:{episode}")
    eldest: dict[str, str] = {}
    roots = [find(f"episode:{episode}") for episode in episode_ids]
    for root, content in zip(roots, content_hashes, strict=True):
        eldest[root] = min(eldest.get(root, content), content)
    names = sorted(fractions)
    edges = np.cumsum([fractions[name] for name in names])[:-1]
    split = {
        root: names[int(np.searchsorted(edges, uniform(hash_key("split", content), np.zeros(1))[0], side="right"))]
        for root, content in eldest.items()
    }
    return [split[root] for root in roots]
