"""The numeric constants of the search by probes, in one place, each with where it comes from."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class SearchHeuristics:
    """Constants of the search by probes.

    Those that were measured say so; the figures stand in ``docs/probes.md``. The others are guesses that no trial has
    contradicted.

    Attributes:
        loading: seconds that loading the model takes on a machine that keeps to its plan, about.
        slow: times slower than planned from which a time budget is kept by cutting the first race; a plan is off by less.
        slowest: times slower than planned that a machine may be without a surprise of minutes.
        warm_share: of a time budget, what a race's first rows may cost on such a machine; else a few are read first.
        warm_rows: so many.
        slow_chunk: rows that a slow machine reads between two looks at the clock.
        look_share: of what is left behind a cut race, what a few further rows may cost that show whether passes are fast again.
        least_look: so many rows at least.
        least_rows: labelled rows that a cut race reads in any case: a probe of fewer says little.
        least_test: test rows that are scored in any case.
        slow_test_share: of the budget, what a slow machine leaves for two frozen arms on the test.
        closing: of what saving and the report are given, what they take on a machine that keeps to its plan.
        few_rows: labelled rows below which every row is held out once, since dev alone would be too few to decide anything by.
        few_folds: splits of so few rows.
        race_share: of the budget, what the first race may take: frozen probes are most of what a short run finds.
        race_seconds: what a first race may take of a time budget at most: a user waits for the first verdict.
        most_race_share: of the budget, what a first race of the smallest pool may take; of more labelled rows some are drawn.
        most_test_share: of the budget, what two frozen arms may take on the test; of more test rows some are drawn.
        race_over: multiple of what a first race may take beyond which fewer prompts go on, where passes are slower than priced.
        least_pool: prompts of a race at least.
        first_rows: labelled rows of a race's first round.
        first_rows_a_label: the same for each label, where that is more.
        finalists: prompts that see all rows of a race, the seed prompt not counted, which always does.
        alpha: in at most so many races the best prompt is dropped by the test; shown by simulation.
        layer_margin: layers of interest above the deepest one that a leading prompt was read from, which later passes
            still run.
        early_layers: layers that are fitted before a race's last round, which only halves the field.
        most_words: labels above which words are no read-out: their first tokens hardly ever all differ.
        patience: cycles without a better winner after which the search ends.
        many_rows: labelled rows from which a part of an epoch is tuned on, where the budget has no room for a whole one.
        epochs_few: how often tuned weights meet each labelled row in all, up to 100 rows (four draws of TREC-6: no gain
            beyond 4).
        epochs_some: the same up to 300 rows.
        epochs_many: the same for more rows (two draws of TREC-6, 500 rows: accuracy is level from 2 epochs on, log-loss
            from 5).
        window_share: depth of the tuned window as a share of the model's layers: ten of thirty were better than all below
            the probe.
        head_strength: strength of the head that tuning starts from, as a multiple of the frozen probe's. The frozen probe
            itself gives its own rows nearly all probability, so that next to no gradient would be left for the weights below.
        contrast: share of the contrastive term in the loss of tuning, see :mod:`cotune.tune.window`.
        contrast_temperature: of its softmax.
        refit_strength: strength of a probe on tuned states, as a multiple of the frozen probe's. Tuned weights have met
            these rows already, so their states tell them apart better than they tell unseen rows apart.
        credit: standard errors by which a trial, which is half of a tuning, may be worse than its frozen probe and win.
        few_errors: held-out errors of the best frozen probe below which a trial must be better by a standard error instead
            (CLINC150 with 20 labels, 500 rows, 4 minutes: what shipped went from 0.972 and log-loss 0.107 to 0.992 and 0.053).
        guess: times slower than priced that steps may be before a tuning is cut short for the test, whose rows were timed by
            then; a first tuning is priced by a guess.
        care: what the end is priced at for each unit that it should cost: rows of the test are not quite the labelled ones.
        other_prompts: what a row costs on average under a pool's prompts, as a multiple of the seed prompt's: some share
            no prefix.
        race_fits: cross-fitting the probes of a race takes as long as so many fits to all rows (BANKING77, 2,000 rows).
        fit_seconds: of a probe, for each row, number of its state and label: about fifteen rounds of two products in double
            precision.
    """

    loading: float = 10.0
    slow: float = 2.0
    slowest: float = 7.0
    warm_share: float = 0.25
    warm_rows: int = 16
    slow_chunk: int = 32
    look_share: float = 0.1
    least_look: int = 2
    least_rows: int = 48
    least_test: int = 30
    slow_test_share: float = 0.25
    closing: float = 0.4
    few_rows: int = 200
    few_folds: int = 3
    race_share: float = 0.15
    race_seconds: float = 45.0
    most_race_share: float = 0.35
    most_test_share: float = 0.45
    race_over: float = 1.3
    least_pool: int = 4
    first_rows: int = 96
    first_rows_a_label: int = 4
    finalists: int = 2
    alpha: float = 0.05
    layer_margin: int = 2
    early_layers: int = 2
    most_words: int = 50
    patience: int = 2
    many_rows: int = 1000
    epochs_few: float = 6.0
    epochs_some: float = 5.0
    epochs_many: float = 4.0
    window_share: float = 1 / 3
    head_strength: float = 0.03
    contrast: float = 0.9
    contrast_temperature: float = 0.1
    refit_strength: float = 0.3
    credit: float = 1.0
    few_errors: int = 2
    guess: float = 1.5
    care: float = 1.06
    other_prompts: float = 1.25
    race_fits: float = 7.0
    fit_seconds: float = 6e-8

    def opening_rows(self, labels: int) -> int:
        """Labelled rows of a race's first round with so many labels."""
        return max(self.first_rows, self.first_rows_a_label * labels)

    def epochs(self, rows: int, most: float) -> float:
        """Epochs in all for so many labelled rows, ``most`` at most: half in the trial, half at the end.

        Fewer rows are met more often: what limits tuning is the number of steps at first, and what the rows hold later.
        """
        wanted = self.epochs_few if rows <= 100 else self.epochs_some if rows <= 300 else self.epochs_many
        return min(wanted, most)


HEURISTICS = SearchHeuristics()
