"""The prompts of a cycle: generated, embedded, without near-duplicates, ordered and cut to size."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from cotune.config.sections import SearchConfig
from cotune.cycle.context import RunContext
from cotune.embed import centred, farthest_first, whole_texts, without_near_duplicates
from cotune.errors import InputError
from cotune.prompt.prompt import Prompt
from cotune.refine import Proposal, diverse, first_pool, fixed, not_shown, with_demonstrations
from cotune.refine.demonstrations import default_count, fits, showable, strata
from cotune.refine.mutate import DemonstrationPool, mutate
from cotune.task.example import Example

NEAR = 0.02
"""Cosine distance below which two prompts are near-duplicates."""
_EMBEDDED_ROWS = 96


def demonstration_pool(context: RunContext) -> DemonstrationPool:
    """Draw demonstrations from train: half of the time diverse rows by the model's embedding, otherwise random rows."""
    rows = showable(context.train_sample, context.task)[:_EMBEDDED_ROWS]

    def draw(rng: np.random.Generator) -> Sequence[Example]:
        if not rows:
            return ()
        if rng.random() < 0.5:
            return fixed(context.task, rng)
        vectors, tokens = context.vectors.of(rows)
        # Drawing is not a step of the journal: a resumed run repeats it and counts it again.
        context.spending.account.counts["tokens_embedded"] += tokens
        chosen = diverse(centred(vectors), strata(context.task, rows), default_count(len(context.task.labels)), rng)
        return [rows[i] for i in chosen]

    return draw


def nearest_variant(context: RunContext, prompt: Prompt) -> Proposal | None:
    """A variant that shows each row its nearest train rows; None if the prompt already does or there are too few rows."""
    rows = [row for row in context.train_sample if fits(row)][:_EMBEDDED_ROWS]
    stock = with_demonstrations(prompt, rows, most_characters=sum(len(row.text) for row in rows)).demonstrations
    count = min(default_count(len(context.task.labels)), len(stock) - 1)
    if prompt.nearest or count < 1:
        return None
    variant = prompt.edit(demonstrations=stock, nearest=count)
    if not has_room(context, variant):
        return None
    if context.can.hidden_states and context.vectors.pay_for_stock():
        rendered = context.model.renderer.render(variant, [dict(shown.fields) for shown in stock], context.task.labels)
        context.spending.account.counts["tokens_embedded"] += sum(row.looked_up for row in rendered)
    return Proposal(variant, "demonstrations", (prompt.id,), "demonstrations_nearest")


def nearest_cost(context: RunContext, search: SearchConfig, seed: Prompt, own: float) -> float:
    """Additional tokens of a row of ``own`` tokens that is shown its nearest demonstrations; 0 if pools hold no such prompt."""
    variant = nearest_variant(context, seed) if search.demonstrations and search.nearest_demonstrations else None
    return 0.0 if variant is None else max(0.0, context.spending.rows.counted(variant.prompt)[0] - own)


def opening_pool(
    context: RunContext,
    own: Sequence[Prompt],
    count: int,
    *,
    demonstrations: bool,
    previous: Proposal | None = None,
    nearest: bool = False,
) -> list[Proposal]:
    """The first cycle's pool: the user's prompts or the drafted one, an earlier bundle's, the bare input, then others.

    With ``nearest`` the pool also holds the seed prompt with each row's nearest train rows as demonstrations.
    """
    rng = np.random.default_rng([context.seed, 10])
    shown = demonstration_pool(context) if demonstrations else None
    proposals = first_pool(context.task, list(own), count + max(4, count // 3), rng, demonstration_pool=shown)
    kept = max(2, len(own) + 1)
    if previous is not None and previous.prompt.id not in {prompt.id for prompt in own}:
        others = [p for p in proposals if p.prompt.id != previous.prompt.id]
        proposals = [*others[: len(own)], previous, *others[len(own) :]]
        kept += 1
    if nearest and (variant := nearest_variant(context, own[0])):
        proposals.insert(kept, variant)
        kept += 1
    return _record(context, 1, proposals, count, keep=range(min(kept, len(proposals))))


def next_pool(
    context: RunContext,
    cycle: int,
    survivors: Sequence[Prompt],
    count: int,
    seen: set[str],
    *,
    demonstrations: bool,
    rewrites: Sequence[Proposal] = (),
    nearest: bool = False,
) -> list[Proposal]:
    """A later cycle's pool: new children of this run's survivors, and ``rewrites`` by a language model.

    With ``nearest`` the pool also holds the first survivor with each row's nearest train rows as demonstrations.
    """
    rng = np.random.default_rng([context.seed, 10, cycle])
    shown = demonstration_pool(context) if demonstrations else None
    added = [p for p in rewrites if has_room(context, p.prompt)][:count]
    variant = nearest_variant(context, survivors[0]) if nearest else None
    if variant is not None and variant.prompt.id not in seen:
        added = [variant, *added][:count]
    known = seen | {p.prompt.id for p in added}
    mutated = mutate(survivors, context.task, count + max(2, count // 3), rng, demonstration_pool=shown, seen=known)
    return _record(context, cycle, [*added, *mutated], count, keep=range(len(added)))


def _record(context: RunContext, cycle: int, proposals: list[Proposal], count: int, keep: Sequence[int]) -> list[Proposal]:
    """Drop prompts without room for a row, or that show repeated rows; embed, drop near-duplicates, order and cut; a step."""

    def races(prompt: Prompt) -> bool:
        labels = bool(context.task.labels) and context.can.tune
        return leaves_rows(prompt, context.task.train, labels=labels) and has_room(context, prompt)

    proposals = [p for i, p in enumerate(proposals) if i in keep or races(p.prompt)]
    if not proposals:
        return []

    def effect() -> object:
        told: list[int] = []
        with context.spending.stopwatch:
            vectors = centred(whole_texts(context.vectors.embedder(told.append), [shown_text(p.prompt) for p in proposals]))
        order, near = thinned(vectors, count, keep=keep)
        return {
            "cycle": cycle,
            "proposals": [proposals[i].to_json() for i in order],
            "near_duplicates": near,
            "left_out": len(proposals) - near - len(order),
            "tokens": sum(told),
            **context.spending.stopwatch.taken(),
            "places": [[round(float(x), 4) for x in row] for row in _plane(vectors[order])],
        }

    value = context.journal.step("pool", [cycle, [p.prompt.id for p in proposals], count], effect)
    context.spending.account.counts["tokens_embedded"] += int(value["tokens"])
    return [Proposal.from_json(item) for item in value["proposals"]]


def thinned(vectors: NDArray[np.float32], count: int, *, keep: Sequence[int] = ()) -> tuple[list[int], int]:
    """At most ``count`` points of a pool in their order, and the number of near-duplicates that were dropped.

    The points ``keep`` come first and are never dropped, even if there are more of them.
    """
    staying = without_near_duplicates(vectors, NEAR, keep=keep)
    first = [staying.index(i) for i in keep] or [0]
    order = [staying[i] for i in farthest_first(vectors[staying], start=first, count=max(count, len(first)))]
    return order, len(vectors) - len(staying)


def has_room(context: RunContext, prompt: Prompt) -> bool:
    """Whether a prompt leaves at least an eighth of the model's context to the row; always true for endpoints."""
    if not context.can.hidden_states:
        return True
    renderer = context.model.renderer
    if prompt.nearest:
        # The nearest rows are at most as long as the longest ones. Characters do not tell, and answers may be longer than rows.
        texts = [" ".join((*(text for _, text in d.fields), prompt.word(d.output))) for d in prompt.demonstrations]
        tokens = [len(ids) for ids in renderer.tokenizer(texts, add_special_tokens=False)["input_ids"]]
        longest = np.argsort(tokens, kind="stable")[-prompt.nearest :]
        prompt = prompt.edit(demonstrations=tuple(prompt.demonstrations[i] for i in longest), nearest=0)
    try:
        row = context.answering.render(prompt, [Example("", dict.fromkeys(context.task.input_fields, "x"), "")])[0]
    except InputError:
        return False
    return len(row.prompt_ids) <= renderer.max_tokens * 7 // 8


def leaves_rows(prompt: Prompt, train: Sequence[Example], *, labels: bool = False) -> bool:
    """Whether a prompt's demonstrations have few copies among the train rows, and leave a row of each label.

    A row that a prompt shows counts neither in the race nor in training, and no copy of it does. A prompt that shows rows that
    occur often would be judged on other rows than the rest of the pool, or have none to learn from; one that shows all rows of
    a label could not learn it, and would win the race by not being judged on it. ``labels`` says whether outputs are labels.
    """
    left = not_shown(prompt, train)
    if len(train) - len(left) > 2 * len(prompt.demonstrations):
        return False
    return not labels or {row.output for row in left} == {row.output for row in train}


def shown_text(prompt: Prompt) -> str:
    """A prompt's text with its demonstrations, for embedding; only the first few of a stock of nearest demonstrations."""
    shown = "\n".join(
        f"{' '.join(text for _, text in d.fields)} {d.output}" for d in prompt.demonstrations[: prompt.nearest or None]
    )
    return "\n".join(part for part in (prompt.system or "", prompt.text, shown) if part)


def _plane(vectors: NDArray[np.float32]) -> NDArray[np.float64]:
    """Coordinates on the first two principal components, for a map."""
    moved = (vectors - vectors.mean(axis=0)).astype(np.float64)
    if len(moved) < 3:
        return np.zeros((len(moved), 2))
    u, s, _ = np.linalg.svd(moved, full_matrices=False)
    places: NDArray[np.float64] = u[:, :2] * s[:2]
    return places
