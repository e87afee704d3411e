"""The numeric constants of the search by answers, each with its reason."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class RaceBounds:
    """Bounds of the first race.

    Attributes:
        shares: shares of the budget without the end that the race may cost; the next one is used if tuning is short of steps.
        least_pool: minimum number of prompts, including the seed prompt and the bare input.
        rows_first: number of dev rows down to which rows are left out before prompts are.
        pool_last: number of prompts from which rows are left out again.
    """

    shares: tuple[float, ...]
    least_pool: int
    rows_first: int
    pool_last: int


@dataclass(frozen=True)
class AnswerHeuristics:
    """Constants of the search by answers.

    Measured constants say so, with the page of the figures. The others are guesses that no experiment has contradicted.
    "Untuned" constants hold for models that cannot be tuned, such as those behind endpoints.
    """

    # The plan -----------------------------------------------------------------------------------------------------

    race: RaceBounds = RaceBounds(shares=(0.12, 0.06), least_pool=6, rows_first=48, pool_last=12)
    """The first race before tuning. Its shares are small because scores before tuning say little about scores after tuning
    (docs/tuning.md). The other bounds are guesses.
    """
    untuned_race: RaceBounds = RaceBounds(shares=(0.4,), least_pool=4, rows_first=64, pool_last=8)
    """The first race of an untuned search. Its share is large because races are all that such a search does; a later one needs
    as much again. Rows are kept longer than prompts, because no tuning corrects the ranking. Guesses.
    """
    most_race_rows: int = 128
    """Maximum number of dev rows of the first race, at which races were compared (docs/search.md)."""
    least_race_rows: int = 32
    """Minimum number of dev rows of a race: on 32 rows, an accuracy of one half has a standard error of 0.09."""
    fewer_rows: float = 0.85
    """Factor by which a race that is too expensive gets fewer rows at a time. A guess."""
    short: float = 0.2
    """Length of the short runs of the first cycle as a share of a whole run. A guess."""
    epochs: int = 4
    """Epochs that the winner should have before more prompts are raced: up to these each further step improved the
    score on unseen rows (350 rows; docs/benchmarks.md).
    """
    enough: int = 180
    """Number of steps that suffice instead of these epochs: as many as those 350 rows took; of thousands of rows many need not
    be used.
    """
    least_steps: int = 40
    """Minimum number of steps that a winner should have if its epochs are short. A guess."""
    writing_half: float = 0.5
    """Share of the budget left at planning that training should get if answers are written. A guess."""
    other_than_steps: float = 0.1
    """Approximate share of a longer budget for races and checks instead of steps. A guess."""
    least_test: int = 30
    """Minimum number of test rows that is advised; the interval of an accuracy is 0.3 wide there."""
    timed_answers: tuple[int, int] = (16, 48)
    """Number of rows that are answered to measure the time; the second number holds for a long budget. Large batches take far
    less time per row, and the test is answered in large batches.
    """
    long_budget: float = 600.0
    """Seconds from which a budget is long. A guess."""

    # The next step ------------------------------------------------------------------------------------------------

    patience: int = 3
    """Number of cycles without a better dev score after which the loop stops; a single bad score may be noise. A guess."""
    untuned_patience: int = 2
    """The same of an untuned search, whose scores on dev do not oscillate as those of weights in training do. A guess."""
    later_race_share: float = 0.2
    """Share of the remaining budget that a race of mutated prompts may cost before one has shown its value. A guess."""
    mutated_share: float = 0.5
    """Share of the budget for steps that mutated prompts, their races and short runs take. A guess."""
    light: float = 1.5
    """Cost of a prompt's step, as a multiple of the seed prompt's, that is always accepted; with demonstrations it is two or
    three.
    """
    later_pool: float = 2 / 3
    """Size of a later pool as a share of the first one, because its parents are raced too. A guess."""
    least_later_pool: int = 8
    """Minimum number of prompts of a later pool. A guess."""
    untuned_least_later_pool: int = 4
    """The same of an untuned search, where each answer costs money. A guess."""
    untuned_parents: int = 2
    """Number of parents in an untuned search that lead on dev. The others lead in the last race. A guess."""
    race_care: float = 1.2
    """Factor on the expected cost of a later race, because mutated prompts may be longer. A guess."""
    finish_care: float = 1.06
    """Factor on the expected cost of decaying the learning rates, because batches differ in length. A guess."""
    finishes: int = 4
    """Maximum number of times that the learning rates decay, if budget is left each time. A guess."""

    # The end ------------------------------------------------------------------------------------------------------

    end_care: float = 1.04
    """Factor on the expected cost of the end, because test rows differ from dev rows. A guess."""
    untuned_end_care: float = 1.05
    """The same of an untuned search, whose tokens are estimated by the length of texts. A guess."""
    nearest_care: float = 1.05
    """Factor on the expected cost of nearest demonstrations at the end, whose length is that on a few train rows. A guess."""
    answered: int = 16
    """Maximum number of rows that are answered to measure the length of answers. A guess."""
    answered_share: int = 8
    """Minimum ratio of rows answered at the end to rows answered for this measurement. A guess."""
    grown: int = 2
    """Growth of the number of steps after which the length of tuned answers is measured again. A guess."""

    def later_pool_size(self, pool: int, *, tunes: bool) -> int:
        """Number of prompts that a later cycle generates, by the size of the first pool."""
        return max(self.least_later_pool if tunes else self.untuned_least_later_pool, int(pool * self.later_pool))


HEURISTICS = AnswerHeuristics()
