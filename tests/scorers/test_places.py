import numpy as np

from scorers.consistency import Consistency

SCORER = Consistency()


def driven(draw, mud: bool, wrong: bool = False):
    """A point that goes where it is told, over 60 steps; in mud, from a place on, hardly at all."""
    at, states, actions = draw.normal([0.0, 5.0 if mud else 0.0], 0.05), [], []
    told = np.array([0.3, 0.0])
    for _ in range(60):
        told = [0.3, 0.0] + 0.9 * (told - [0.3, 0.0]) + draw.normal(0, 0.1, 2)
        states.append(at.copy())
        actions.append(told)
        stuck = mud and at[0] > 0.4
        goes = 0.2 * told if stuck else (-told if wrong else told)
        at = at + 0.1 * goes
    return np.array(states), np.array(actions)


def values(batch_of, made, tasks):
    batch = batch_of([s for s, _ in made], [a for _, a in made], tasks, fps=20.0)
    return np.array([row[0].value for row in SCORER.score(batch, SCORER.fit([batch]))])


def test_mud_that_several_meet_is_no_fault_of_most_of_them_and_of_one_alone_it_is(batch_of):
    draw = np.random.default_rng(0)
    made = [driven(draw, mud=False) for _ in range(32)] + [driven(draw, mud=True) for _ in range(16)]
    together = values(batch_of, made, ["go"] * 48)
    alone = np.array([values(batch_of, [*made[:32], stuck], ["go"] * 33)[-1] for stuck in made[32:]])
    assert (together[:32] < 0.6).all()
    assert (alone >= 0.6).all() and (together[32:] < 0.6).mean() >= 0.75


def test_who_does_the_opposite_where_others_follow_is_at_fault(batch_of):
    draw = np.random.default_rng(1)
    made = [driven(draw, mud=False) for _ in range(24)] + [driven(draw, mud=False, wrong=True) for _ in range(4)]
    found = values(batch_of, made, ["go"] * 28)
    assert (found[24:] >= 1).all() and (found[:24] < 0.6).all()


def test_other_tasks_show_nothing_of_a_place(batch_of):
    draw = np.random.default_rng(2)
    made = [driven(draw, mud=False) for _ in range(24)] + [driven(draw, mud=True) for _ in range(4)]
    found = values(batch_of, made, ["go"] * 24 + ["a", "b", "c", "d"])
    assert (found[24:] >= 0.6).all()
