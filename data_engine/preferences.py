"""Preferences: which of several pieces of behaviour is better at a task, as people and models say it.

One form for all of it. A preference is of *items*, each a step range of an episode (seen through one camera, or not):
a **pair** with the probability that the second is better (a tie is 0.5), a **ranking** with ties, or a **winner** whose
rivals are not ordered among themselves. What its author could not decide is kept, without ranks, with the reason.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal, TypeAlias

from data_engine.canonical import digest
from data_engine.errors import RequestError

__all__ = ["Comparison", "Item", "Preference", "Tally", "comparisons", "parse", "tally", "unknown_columns"]

Kind: TypeAlias = Literal["pair", "ranking", "winner"]

_ITEM = re.compile(r"(?P<episode>.+?)(?::(?P<start>\d{1,18})-(?P<stop>\d{1,18}))?(?:@(?P<camera>[^@:]+))?")
_VERDICTS: dict[Any, float | None] = {
    "first": 0.0, "0": 0.0, "second": 1.0, "1": 1.0, "tie": 0.5, "equal": 0.5, "unsure": None, "-1": None, "": None,
}  # fmt: skip
_FORMS = ("first", "second", "verdict", "probability", "items", "ranking", "winner")
_FACTS = ("id", "task", "annotator", "prompt", "answer", "reason")
_MOST_ITEMS = 1000


@dataclass(frozen=True)
class Item:
    """The steps [start, stop) of an episode, and the camera they were seen through, None where nothing was seen.

    ``stop`` None: to the episode's end. As text: ``EPISODE[:START-STOP][@CAMERA]``.
    """

    episode_id: str
    start: int = 0
    stop: int | None = None
    camera: str | None = None
    content_hash: str = ""

    @classmethod
    def parse(cls, text: str) -> Item:
        """The item that ``text`` names. Raises ``RequestError`` where it names none."""
        found = _ITEM.fullmatch(text.strip())
        if not found:
            raise RequestError(f"{text!r} names no item", code="bad_item", fix="EPISODE[:START-STOP][@CAMERA]")
        start, stop = (None if found[edge] is None else int(found[edge]) for edge in ("start", "stop"))
        if start is not None and stop is not None and start >= stop:
            raise RequestError(f"{text!r} has no steps", code="bad_item", fix="START is less than STOP")
        return cls(found["episode"], start or 0, stop, found["camera"])

    def __str__(self) -> str:
        steps = "" if self.stop is None else f":{self.start}-{self.stop}"
        return f"{self.episode_id}{steps}" + (f"@{self.camera}" if self.camera else "")


@dataclass(frozen=True)
class Preference:
    """What one annotator said of ``items``.

    ``ranks``: of the items, 0 the best, equal ones tie, None where undecided; of a winner 0, of its rivals 1.
    ``probability``: of a pair, that the second is better. ``collection``: what it was gathered for.
    ``flipped``: asked in both orders, the annotator chose by the place; None where it was not. ``reviews``: the
    preference that this one read again; ``contradicts``: and says the opposite of.
    """

    items: tuple[Item, ...]
    ranks: tuple[int, ...] | None
    kind: Kind = "pair"
    probability: float | None = None
    reason: str | None = None
    collection: str = "default"
    task: str | None = None
    annotator: str = "unknown"
    annotator_kind: Literal["human", "model"] = "human"
    model: str | None = None
    version: str | None = None
    prompt: str | None = None
    answer: str | None = None
    flipped: bool | None = None
    reviews: str | None = None
    contradicts: bool | None = None
    own_id: str | None = None

    @classmethod
    def pair(cls, first: Item, second: Item, probability: float | None, **facts: Any) -> Preference:
        """Of two items, with the probability that the second is better, None where undecided."""
        ranks = None if probability is None else (int(probability > 0.5), int(probability < 0.5))
        return cls((first, second), ranks, "pair", probability, **facts)

    @property
    def id(self) -> str:
        """Names what was said of what by whom, so that the same one is kept once."""
        said = {name: value for name, value in asdict(self).items() if name != "reason"}
        return "pf_" + digest("preference", said, length=20)

    def row(self) -> dict[str, Any]:
        """A row of the preferences table, without run and time."""
        row = {name: value for name, value in asdict(self).items() if name != "own_id"}
        return {"preference_id": self.id, **row, "items": [asdict(item) for item in self.items],
                "ranks": None if self.ranks is None else list(self.ranks)}  # fmt: skip

    @classmethod
    def of_row(cls, row: Mapping[str, Any]) -> Preference:
        """The way back of :meth:`row`."""
        fields = {name: row[name] for name in cls.__dataclass_fields__ if name in row}
        items = tuple(Item(**item) for item in row["items"])
        return cls(**{**fields, "items": items, "ranks": None if row["ranks"] is None else tuple(row["ranks"])})


def parse(row: Mapping[str, Any]) -> Preference:
    """The preference that one row of a file states, its items not yet looked up.

    Forms: ``first``, ``second`` and a ``verdict`` (first, second, tie, unsure; or 0, 1, -1) or a ``probability`` that
    the second is better; ``ranking``, best first, as ``a > b = c`` or as a list with lists of ties; ``winner`` and the
    ``items`` it was chosen from (a list, or text parted by ``;``). Beside them ``task``, ``annotator``, ``prompt``,
    ``answer``, ``reason`` and an ``id``. Raises ``RequestError`` with what is wrong.
    """
    given = {name: value for name, value in row.items() if value is not None and value != ""}
    facts: dict[str, Any] = {name: str(given[name]) for name in _FACTS if name in given}
    facts["own_id"] = facts.pop("id", None)
    if "first" in given and "second" in given:
        first, second = (Item.parse(str(given[name])) for name in ("first", "second"))
        _distinct((first, second))
        return Preference.pair(first, second, _verdict(given), **facts)
    if "ranking" in given:
        tiers = [[Item.parse(text) for text in tier] for tier in _tiers(given["ranking"])]
        items = tuple(item for tier in tiers for item in tier)
        ranks = tuple(rank for rank, tier in enumerate(tiers) for _ in tier)
        return Preference(_distinct(items), ranks, "ranking", **facts)
    if "winner" in given and "items" in given:
        winner = Item.parse(str(given["winner"]))
        items = tuple(Item.parse(text) for text in _listed(given["items"]))
        items = items if winner in items else (winner, *items)
        return Preference(_distinct(items), tuple(int(item != winner) for item in items), "winner", **facts)
    raise RequestError(
        f"it has {', '.join(sorted(given)) or 'nothing'}",
        code="bad_preference",
        fix="give first, second and verdict; or ranking; or winner and items",
    )


def unknown_columns(names: Iterable[str]) -> list[str]:
    """Those of ``names`` that :func:`parse` does not read, sorted."""
    return sorted(set(names) - {*_FORMS, *_FACTS})


@dataclass(frozen=True)
class Comparison:
    """Two items of a preference and the probability that ``second`` is better, which counts ``weight``."""

    first: Item
    second: Item
    probability: float
    weight: float
    task: str | None


def comparisons(preference: Preference) -> list[Comparison]:
    """The pairs that a preference says something of; none where it is undecided.

    A ranking is broken into all its pairs and a winner into those with its rivals, the breakings that estimate a
    Plackett-Luce model consistently (Azari Soufiani et al. 2013). Each item of either counts one altogether.
    """
    items, ranks = preference.items, preference.ranks
    if ranks is None:
        return []
    if preference.kind == "pair" and preference.probability is not None:
        return [Comparison(items[0], items[1], preference.probability, 1.0, preference.task)]
    found = []
    for i in range(len(items)):
        for j in range(i + 1, len(items)):
            if preference.kind == "winner" and ranks[i] == ranks[j]:
                continue
            better = 0.5 if ranks[i] == ranks[j] else float(ranks[j] < ranks[i])
            found.append(Comparison(items[i], items[j], better, 1.0 / (len(items) - 1), preference.task))
    return found


@dataclass(frozen=True)
class Tally:
    """What a collection holds. ``flip_rate``: of what was asked in both orders and answered twice, the share that was
    answered by the place; ``contradiction_rate``: of what a second judge decided again, the share it says the opposite
    of; both None where nothing was.
    """

    collection: str
    preferences: int
    decided: int
    ties: int
    undecided: int
    annotators: tuple[str, ...]
    flip_rate: float | None
    reviewed: int
    contradiction_rate: float | None


def tally(collection: str, preferences: Sequence[Preference]) -> Tally:
    """Counts of the preferences of one collection."""
    own = [one for one in preferences if one.reviews is None]
    twice = [one.flipped for one in preferences if one.flipped is not None]
    again = [one.contradicts for one in preferences if one.contradicts is not None]
    decided = [one for one in own if one.ranks is not None]
    return Tally(
        collection,
        len(own),
        len(decided),
        sum(len(set(one.ranks or ())) == 1 for one in decided),
        len(own) - len(decided),
        tuple(sorted({one.annotator for one in preferences})),
        sum(twice) / len(twice) if twice else None,
        len(preferences) - len(own),
        sum(again) / len(again) if again else None,
    )


def _verdict(given: Mapping[str, Any]) -> float | None:
    if "probability" in given:
        try:
            probability = float(given["probability"])
        except (TypeError, ValueError):
            probability = float("nan")
        if not 0.0 <= probability <= 1.0:
            raise RequestError(f"probability {given['probability']!r} is not from 0 to 1", code="bad_preference")
        return probability
    verdict = given.get("verdict", "")
    if isinstance(verdict, float) and verdict.is_integer():  # as tables hold whole numbers beside nulls
        verdict = int(verdict)
    word = str(verdict).strip().lower()
    if "verdict" not in given or word not in _VERDICTS:
        raise RequestError(
            f"verdict {verdict!r} is none", code="bad_preference", fix="first, second, tie or unsure; or 0, 1, -1"
        )
    return _VERDICTS[word]


def _tiers(value: Any) -> list[list[str]]:
    if isinstance(value, str):
        return [tier.split("=") for tier in value.split(">")]
    if not isinstance(value, Sequence):
        raise RequestError("ranking is no list", code="bad_preference", fix="best first, as in a > b = c")
    return [[str(x) for x in tier] if isinstance(tier, list | tuple) else [str(tier)] for tier in value]


def _listed(value: Any) -> list[str]:
    if isinstance(value, str):
        return [text for text in value.split(";") if text.strip()]
    if not isinstance(value, Sequence):
        raise RequestError("items is no list", code="bad_preference", fix="a list, or text parted by ;")
    return [str(text) for text in value]


def _distinct(items: tuple[Item, ...]) -> tuple[Item, ...]:
    if not 2 <= len(items) <= _MOST_ITEMS or len(set(items)) < len(items):
        raise RequestError(
            f"{len(items)} items, {len(set(items))} of them distinct",
            code="bad_preference",
            fix=f"2 to {_MOST_ITEMS} distinct items",
        )
    return items
