"""The pool of prompts of a cycle: from bank and edits in the first cycle, mutated from the survivors in later ones."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import numpy as np

from cotune.prompt.bank import bare_prompt, seed_prompt, starting_bank
from cotune.prompt.prompt import Prompt
from cotune.refine.demonstrations import with_demonstrations
from cotune.refine.edits import operators, sound, with_words
from cotune.refine.proposal import Proposal, Source
from cotune.task.example import Example
from cotune.task.task import Task

DemonstrationPool = Callable[[np.random.Generator], Sequence[Example]]
"""A function that draws train rows to show, by ``fixed`` or ``diverse``, or by both in turn."""

# Parts that are exchanged together in a crossover: field names and cue share a style.
_PARTS: tuple[tuple[str, ...], ...] = (
    ("instruction",),
    ("input_template", "cue"),
    ("cue",),
    ("system",),
    ("label_words",),
    ("order", "separator"),
    ("demonstrations", "nearest"),
)
_TRIES = 40

_Made = tuple[Prompt, str]


def mutate(
    survivors: Sequence[Prompt],
    task: Task,
    n: int,
    rng: np.random.Generator,
    *,
    demonstration_pool: DemonstrationPool | None = None,
    seen: Iterable[str] = (),
) -> list[Proposal]:
    """Generate children of the survivors by one or two edits, by demonstrations, or by crossover of two survivors.

    The survivors take turns in order, and each gets a child even if ``n`` is smaller than their number. No child equals a
    survivor, a prompt in ``seen`` or another child. Fewer are returned only if many tries find no unseen child.

    Args:
        demonstration_pool: draws train rows to show; None leaves demonstrations unchanged.

    Raises:
        ValueError: the pool drew a row that is not in ``task.train``.
    """
    known = {*seen, *(survivor.id for survivor in survivors)}
    children: list[Proposal] = []
    for turn in range(max(n, len(survivors)) if survivors and n > 0 else 0):
        child = _child(survivors, turn % len(survivors), task, rng, demonstration_pool, known)
        if child is not None:
            known.add(child.prompt.id)
            children.append(child)
    return children


def first_pool(
    task: Task,
    user_prompts: Sequence[Prompt],
    n: int,
    rng: np.random.Generator,
    *,
    demonstration_pool: DemonstrationPool | None = None,
) -> list[Proposal]:
    """The pool of the first cycle.

    The user's prompts (or the drafted seed prompt) and the bare prompt come first, whatever ``n`` is. Of the rest, a fifth, at
    least one, have demonstrations if there is a demonstration pool, and a fifth are edits of the user's prompts if there are
    any. Then come the bank's prompts and, if ``n`` is larger, edits of all these.

    Args:
        user_prompts: the user's prompts, the seed prompt first.
        n: number of prompts, all different.
        demonstration_pool: draws train rows to show; None shows none.

    Raises:
        ValueError: the pool drew a row that is not in ``task.train``.
    """
    seeds = [Proposal(prompt, "user") for prompt in user_prompts] or [Proposal(seed_prompt(task), "seed")]
    pool = {proposal.prompt.id: proposal for proposal in seeds}
    bare = bare_prompt(task)
    pool.setdefault(bare.id, Proposal(bare, "bare"))
    roots = [proposal.prompt for proposal in seeds]
    rest = max(0, n - len(pool))
    share = -(-rest // 5)
    for_demonstrations = share if demonstration_pool is not None else 0
    for_edits = share if user_prompts else 0
    for prompt in starting_bank(task):
        if len(pool) < n - for_demonstrations - for_edits:
            pool.setdefault(prompt.id, Proposal(prompt, "bank"))
    parents = [proposal.prompt for proposal in pool.values()]
    for place in range(for_demonstrations):
        # The seed prompt comes first: its scores with and without demonstrations show their worth best.
        parent = roots[0] if place == 0 else parents[int(rng.integers(len(parents)))]
        _keep(pool, parent, _shown(parent, task, rng, demonstration_pool), "demonstrations", n)
    for turn in range(_TRIES * n):
        if len(pool) >= n:
            break
        near = roots if turn < for_edits else parents
        parent = near[turn % len(near)] if turn < for_edits else near[int(rng.integers(len(near)))]
        _keep(pool, parent, _edited(parent, task, rng), "edit", n)
    return list(pool.values())


def _keep(pool: dict[str, Proposal], parent: Prompt, made: _Made | None, source: Source, n: int) -> None:
    if made is not None and len(pool) < n:
        pool.setdefault(made[0].id, Proposal(made[0], source, (parent.id,), made[1]))


def _child(
    survivors: Sequence[Prompt],
    turn: int,
    task: Task,
    rng: np.random.Generator,
    demonstration_pool: DemonstrationPool | None,
    known: set[str],
) -> Proposal | None:
    parent = survivors[turn]
    others = [other for other in survivors if other != parent]
    for attempt in range(_TRIES):
        source: Source = "edit"
        parents: tuple[str, ...] = (parent.id,)
        draw = rng.random()
        if draw < 0.25 and (demonstration_pool is not None or parent.demonstrations):
            made, source = _shown(parent, task, rng, demonstration_pool), "demonstrations"
        elif draw < 0.5 and others:
            other = others[int(rng.integers(len(others)))]
            made, source, parents = _crossed(parent, other, task, rng), "crossover", (parent.id, other.id)
        else:
            # If all prompts nearby have been seen, apply more edits.
            made = _edited(parent, task, rng, extra=attempt // 10)
        if made is not None and made[0].id not in known:
            return Proposal(made[0], source, parents, made[1])
    return None


def _edited(prompt: Prompt, task: Task, rng: np.random.Generator, extra: int = 0) -> _Made | None:
    """Apply one or two different edits, plus ``extra``."""
    wanted = int(rng.integers(1, 3)) + extra
    known = operators()
    names = list(known)
    child, used = prompt, list[str]()
    for place in rng.permutation(len(names)):
        changed = known[names[place]](child, task, rng)
        if changed is not None:
            child = changed
            used.append(names[place])
        if len(used) == wanted:
            break
    return (child, "+".join(used)) if used and child != prompt else None


def _shown(prompt: Prompt, task: Task, rng: np.random.Generator, pool: DemonstrationPool | None) -> _Made | None:
    """Add demonstrations if there are none; otherwise remove (all or half) or exchange (all or one) of them."""
    now = prompt.demonstrations
    if now and (pool is None or rng.random() < 0.4):
        kept = [now[place] for place in sorted(rng.permutation(len(now))[: len(now) // 2])] if rng.random() < 0.5 else []
        if prompt.nearest:
            # Half of a stock of nearest demonstrations does not make the prompt shorter.
            kept = []
        return prompt.edit(demonstrations=tuple(kept), nearest=prompt.nearest if kept else 0), "demonstrations_removed"
    if pool is None:
        return None
    rows = tuple(pool(rng))
    train = {row.id for row in task.train}
    if foreign := [row.id for row in rows if row.id not in train]:
        raise ValueError(f"demonstrations must be train rows, but {foreign[0]!r} is not one")
    fresh = with_demonstrations(prompt, rows)
    if not fresh.demonstrations:
        return None
    if not now:
        return fresh, "demonstrations_added"
    new = [shown for shown in fresh.demonstrations if shown not in now]
    if new and not prompt.nearest and rng.random() < 0.5:
        place = int(rng.integers(len(now)))
        fresh = prompt.edit(demonstrations=(*now[:place], new[0], *now[place + 1 :]))
    return fresh, "demonstrations_exchanged"


def _crossed(prompt: Prompt, other: Prompt, task: Task, rng: np.random.Generator) -> _Made | None:
    """A copy with one to three parts of another prompt."""
    differing = [parts for parts in _PARTS if any(getattr(prompt, part) != getattr(other, part) for part in parts)]
    if not differing:
        return None
    count = int(rng.integers(1, min(3, len(differing)) + 1))
    taken = sorted({part for place in rng.permutation(len(differing))[:count] for part in differing[place]})
    # Update a text that names label words to the words of the prompt that it is put into.
    words = other.label_words if "label_words" in taken else prompt.label_words
    mine, theirs = with_words(prompt, words, task), with_words(other, words, task)
    if mine is None or theirs is None:
        return None
    child = mine.edit(**{part: getattr(theirs, part) for part in taken})
    if not sound(child, task, [prompt, other]):
        return None
    return child, "+".join(f"crossover_{part}" for part in taken)
