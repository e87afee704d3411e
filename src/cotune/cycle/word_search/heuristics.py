"""The numeric constants of the search by words, in one place, each with where it comes from."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class WordHeuristics:
    """Constants of the search by label words and written answers.

    Those that were measured say so, with the page that holds the figures. The others are guesses that no trial has
    contradicted.
    """

    # The plan -----------------------------------------------------------------------------------------------------

    race_shares: tuple[float, ...] = (0.12, 0.06)
    """Of what the end leaves of the budget: for the first race, and for it where training runs short. Kept small, since what
    prompts are worth before tuning says little about what they are worth after (docs/tuning.md)."""
    most_race_rows: int = 128
    """Dev rows of the longest first race at most: what races were compared at (docs/search.md)."""
    least_race_rows: int = 32
    """Dev rows below which a race says nothing: so few give an accuracy of one half a standard error of 0.09."""
    least_pool: int = 6
    """Prompts of a first race at least, the seed prompt and the bare input among them. A guess."""
    short: float = 0.2
    """Length of an entrant's short run, as a share of the winner's whole one. A guess."""
    epochs: int = 4
    """Times that the winner should meet its rows before more prompts are raced or tuned: up to there each further step gained
    something on rows that no run had seen (350 rows; docs/tuning.md)."""
    enough: int = 180
    """Steps after which it need not have met them so often: as many as those 350 rows took, and of thousands of rows many need
    not be met at all."""
    least_steps: int = 40
    """Steps that a winner is wanted to have where its epochs are shorter. A guess."""
    second_look: int = 100
    """Steps of a whole run from which a second look at the two best entrants costs little of it. A guess."""
    writing_half: float = 0.5
    """Of what is left of the budget when it is planned: what training should get where answers are written. A guess."""
    other_than_steps: float = 0.1
    """Of a longer budget, about what goes into races and checks instead of steps. A guess."""
    least_test: int = 30
    """Test rows below which none are advised: the interval of an accuracy is 0.3 wide there."""
    timed_answers: tuple[int, int] = (16, 48)
    """Rows that are answered to see how long that takes, the second number under a long budget: many at once take far less
    time a row, and the test is answered many at once."""
    long_budget: float = 600.0
    """Seconds from which a budget is long in that sense. A guess."""

    # The next step ------------------------------------------------------------------------------------------------

    patience: int = 3
    """Steps of the loop without a better dev score after which it stops: one bad look may be noise. A guess."""
    later_race_share: float = 0.2
    """Of the budget that is left: what a race of mutated prompts may cost before one has shown what it is worth. A guess."""
    mutated_share: float = 0.5
    """Of what steps could have: what goes to prompts that are mutated, raced and tuned a little on the way. A guess."""
    light: float = 1.5
    """Times the seed prompt's step that another prompt's may cost in any case: with demonstrations it costs two or three."""
    later_pool: float = 2 / 3
    """Size of a later pool as a share of the first one's: its parents are raced as well. A guess."""
    least_later_pool: int = 8
    """Prompts of a later pool at least. A guess."""
    race_care: float = 1.2
    """What a later race is priced at for each unit that it should cost: mutated prompts may be longer. A guess."""
    finish_care: float = 1.06
    """The same for letting the learning rates fall: no batch is quite as long as the mean one. A guess."""
    finishes: int = 4
    """How often the learning rates may fall, where budget turns out to be left each time. A guess."""

    # The end ------------------------------------------------------------------------------------------------------

    end_care: float = 1.04
    """What the end is priced at for each unit that it should cost: rows of the test are not quite those of dev. A guess."""
    answered: int = 16
    """Rows that are answered to see how long answers get, at most. A guess."""
    answered_share: int = 8
    """Rows that will be answered at the end for each row that is answered now, at least. A guess."""
    grown: int = 2
    """Times as many steps as when tuned answers were last looked at, after which they are looked at again. A guess."""

    # Heads --------------------------------------------------------------------------------------------------------

    head_share: float = 0.1
    """Of the whole budget: what the rows that are read for one head may cost, those of dev included. A guess."""
    head_rows: int = 3
    """Rows for each label, in all, from which a head is tried. A guess."""
    head_care: float = 1.05
    """What its rows are priced at for each unit that they should cost: those that were counted are a sample. A guess."""
    head_size: int = 5 * 10**8
    """Rows times width times labels at most: a fit of some seconds, and of some hundred megabytes."""
    head_reach: float = 1.96
    """Standard errors of a difference that chance hardly reaches: the 95% quantile of a normal one."""
    head_seconds: float = 2e-8
    """Seconds of a fit for each row, number of its state and label: about the time that fits took on a machine of two cores."""

    def later_pool_size(self, pool: int) -> int:
        """Prompts that a later cycle generates, by the size of the first pool."""
        return max(self.least_later_pool, int(pool * self.later_pool))


HEURISTICS = WordHeuristics()
