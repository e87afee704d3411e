"""The numeric constants of the search by probes, each with its source."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class SearchHeuristics:
    """Constants of the search by probes.

    Measured constants say so, with figures in ``docs/probe-measurements.md``. The others are guesses that no experiment has
    contradicted.

    Attributes:
        loading: expected seconds of loading the model on a machine as fast as planned.
        slow: slowdown against the plan from which the first race is cut to keep a time budget; plans are off by less.
        slowest: slowdown against the plan up to which no step may take minutes by surprise.
        warm_share: share of a time budget that a race's first rows may cost on such a machine; otherwise a few are read first.
        warm_rows: number of these few rows.
        slow_chunk: number of rows that a slow machine reads between two checks of the clock.
        look_share: share of the rest after a cut race that a few further rows may cost, to see whether passes are fast again.
        least_look: minimum number of these rows.
        least_rows: minimum number of labelled rows of a cut race; probes on fewer rows say little.
        least_test: minimum number of test rows.
        slow_test_share: share of the budget that a slow machine leaves for two frozen arms on the test.
        closing: share of the reserve for saving and the report that they take on a machine as fast as planned.
        enough_epochs: share of the wanted epochs below which the seed prompt is not tuned, so that the winner gets more.
            Leaving it out only where no final tuning fits gained 1.5 points of accuracy (one minute, 16 pairs of runs on six
            sets, standard error 0.9); this share was seen on six runs.
        seed_margin: multiple of its cost that must be left for a tuning of the seed prompt that the plan left out.
        few_rows: number of labelled rows below which every row is held out once, because dev alone would be too small.
        few_folds: number of splits of so few rows.
        race_share: share of the budget for the first race; frozen probes are most of a short run's result.
        race_seconds: maximum seconds of the first race's passes under a time budget, because a user waits for the first
            verdict.
        verdict_seconds: seconds from the start of a run by which a first race should end that is slower than planned; fewer
            prompts continue then.
        most_race_share: share of the budget for a first race of the smallest pool over all labelled rows.
        mostly_raced: share of the labelled rows below which such a race sees too few of them.
        whole_rows: number of rows of which one epoch is enough for a trial to ship without a final tuning.
        sampled_race_share: its share of the budget then, which leaves time for tuning on rows that were not raced.
        frozen_rows: multiple of the rows that a tuning has room for from which frozen probes on more rows are preferred
            (BANKING77: 3,600 frozen, 0.878 and 0.842, and 1,200 tuned, 0.848 and 0.838; SNIPS: 1,613 frozen, 0.895, and 513
            tuned, 0.840; but TREC-6: 408 frozen, 0.860 and 0.888, and 250 tuned, 0.872 and 0.892).
        further_care: factor on the expected cost of learning from rows that were not raced, since reading them is not cut short
            on a machine that becomes slower.
        probe_numbers: maximum of the numbers in the states of all rows that a probe is fitted to, of which a fit has a few
            copies of eight bytes: 20,000 rows of width 2 x 576.
        most_test_share: share of the budget for two frozen arms on the test; if there are more test rows, some are drawn.
        row_lengths: numbers of tokens up to which long rows are read, tried in this order (docs/probe-measurements.md, "Long
            rows").
        length_share: share of the budget that a small run may take at a length.
        length_errors: standard errors by which the held-out log-loss must fall for rows to be read further.
        tuning_gain: share by which it must fall if tuning has room at the shorter length only.
        race_over: multiple of the first race's budget above which fewer prompts continue if passes are slower than planned.
        least_pool: minimum number of prompts of a race.
        first_rows: number of labelled rows of a race's first round.
        first_rows_a_label: the same per label, if that gives more rows.
        finalists: number of prompts that see all rows of a race, besides the seed prompt, which always does.
        full_fits: prompts whose probes are fitted at all folds and layers in the only round of a race of few rows, besides
            those that always continue; the others are fitted once, at two layers.
        alpha: maximum share of races in which the test drops the best prompt; shown by simulation.
        layer_margin: number of layers of interest above the deepest one of the leading prompts that later passes still run.
        early_layers: number of layers that are fitted before a race's last round.
        most_words: number of labels above which words are not a read-out, because their first tokens hardly ever all differ.
        patience: number of cycles without a better winner after which the search ends.
        least_steps: number of steps of the shortest tuning, which is less than an epoch if there is no room for a whole one.
        epochs_few: epochs in all for up to 100 rows (four draws of TREC-6: no gain beyond 4).
        epochs_some: epochs in all for up to 300 rows.
        epochs_many: epochs in all for more rows (two draws of TREC-6, 500 rows: accuracy is constant from 2 epochs on, log-loss
            from 5).
        more_epochs: epochs in all of a final tuning, as a multiple of the usual number, if the budget would be left over
            otherwise; no plan counts on them.
        window_share: depth of the tuned window as a share of the model's layers; ten of thirty were better than all below the
            probe.
        tuned_depth: depth, as a share of the model's layers, near which states tuned on few rows are read best (SmolLM2-135M,
            64 rows of three sets, two draws: log-loss 0.45 at layer 24 of 30, 0.65 at the lowest layer as good as the best).
        tuned_errors: standard errors by which the frozen probe at that layer may be worse than at its best (CLINC150 with 20
            labels, 64 rows: 24 was within 1.5 in four draws, and tuned states had 0.951 there instead of 0.868 at layer 18).
        field_errors: the same for several fields. Layers differ more for numbers than for labels (STS-B, 64 rows, one draw:
            R² 0.450 at the layer within one error, 0.206 within two).
        head_strength: strength of the head that tuning starts from, as a multiple of the frozen probe's. The frozen probe gives
            the right labels of its own rows nearly all probability, which leaves next to no gradient for the weights below.
        contrast: share of the contrastive term in the loss of tuning, see :mod:`cotune.tune.window`. Several fields are tuned
            without it, as it moves rows together that differ in other fields (docs/probe-measurements.md).
        contrast_temperature: temperature of its softmax.
        paired_rate: learning rate of a window as a multiple of the config's if rows come in pairs and are not few (BANKING77,
            500 to 2,000 rows: accuracy 0.6 to 1.6 points higher, log-loss lower by 0.004 to 0.03; CLINC150 with 20 labels and
            64 rows lost 2 points).
        refit_strength: strength of a probe on tuned states, as a multiple of the frozen probe's. The weights were tuned on
            these rows, so their states separate these labels better than those of unseen rows.
        few_temperature: factor on the temperature of weights that are tuned further after their trial, with few rows: the
            held-out rows were answered after the trial's steps, and further steps make probabilities more extreme
            (docs/probe-measurements.md).
        sure_errors: share of wrong held-out answers below which that factor is 1. There a temperature is fitted to a handful of
            errors and two added rows, which makes it too high rather than too low (six runs on 64 or 160 rows of CLINC150 with
            8 and 20 labels: the best factor was 0.5 to 1.1, geometric mean 0.85).
        credit: standard errors by which a trial, which is half of a tuning, may be worse than the best frozen probe and still
            win if it is tuned further. The frozen probe is the best of many prompts, layers and penalties on the same rows,
            which flatters it (64 rows, 23 runs with a worse trial: 21 were better on unseen rows after the last tuning; a
            trial that was worse by 2.3 standard errors was at last better by 5 points and 0.18 nats).
        dev_credit: the same if the trial is judged on dev, a part of the rows, whether or not it is tuned further (13 trials on
            180 to 2,700 rows of TREC-6 and BANKING77: all were better on unseen rows, by 0.01 to 0.22 nats, though four were
            worse on dev, by up to 1.6 standard errors).
        few_errors: number of held-out errors of the best frozen probe below which a trial must be better by a standard error
            (CLINC150 with 20 labels, 500 rows, 4 minutes: what shipped went from 0.972 and log-loss 0.107 to 0.992 and 0.053).
        guess: slowdown of steps against their price up to which a tuning is not cut short for the test. The price of a first
            tuning is a guess, while test rows have been timed by then.
        care: factor on the expected cost of the end, because test rows differ from the labelled ones.
        other_prompts: mean cost of a row under a pool's prompts, as a multiple of the seed prompt's; some have no shared
            prefix.
        race_fits: cost of cross-fitting the probes of a race, in fits to all rows (BANKING77, 2,000 rows).
        fit_seconds: seconds of cross-fitting a probe per row, state dimension and label: about fifteen iterations of two
            products in double precision.
        single_fit_seconds: the same for a single fit with a known penalty (8,000 rows, width 1,152, 77 labels: 3 to 13 s).
        tag_depths: depths, as shares of the model's layers, of the layers that are tried for tags of words
            (docs/probe-measurements.md).
        tag_numbers: maximum of the numbers in all words' states of a layer, of which a fit has a few copies of eight bytes:
            60,000 words of width 576.
        tag_fit_seconds: like ``fit_seconds``, for each word and tag.
        tag_strengths: inverse penalties that are tried for tags. There are many words, so that the penalty hardly matters.
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
    closing: float = 0.45
    enough_epochs: float = 0.75
    seed_margin: float = 1.3
    few_rows: int = 200
    few_folds: int = 3
    race_share: float = 0.15
    race_seconds: float = 38.0
    verdict_seconds: float = 54.0
    most_race_share: float = 0.35
    mostly_raced: float = 0.5
    whole_rows: int = 2000
    sampled_race_share: float = 0.2
    frozen_rows: float = 3.0
    further_care: float = 1.15
    probe_numbers: int = 23_040_000
    most_test_share: float = 0.45
    row_lengths: tuple[int, ...] = (128, 256, 512)
    length_share: float = 0.9
    length_errors: float = 0.5
    tuning_gain: float = 0.3
    race_over: float = 1.3
    least_pool: int = 4
    first_rows: int = 96
    first_rows_a_label: int = 4
    finalists: int = 2
    full_fits: int = 5
    alpha: float = 0.05
    layer_margin: int = 2
    early_layers: int = 2
    most_words: int = 50
    patience: int = 2
    least_steps: int = 12
    epochs_few: float = 6.0
    epochs_some: float = 5.0
    epochs_many: float = 4.0
    more_epochs: float = 1.5
    window_share: float = 1 / 3
    tuned_depth: float = 0.8
    tuned_errors: float = 2.0
    field_errors: float = 1.0
    head_strength: float = 0.03
    contrast: float = 0.9
    contrast_temperature: float = 0.1
    paired_rate: float = 2.0
    refit_strength: float = 0.3
    few_temperature: float = 1.3
    sure_errors: float = 0.1
    credit: float = 3.0
    dev_credit: float = 2.0
    few_errors: int = 2
    guess: float = 1.5
    care: float = 1.06
    other_prompts: float = 1.25
    race_fits: float = 7.0
    fit_seconds: float = 6e-8
    single_fit_seconds: float = 1.2e-8
    tag_depths: tuple[float, ...] = (0.53, 0.67)
    tag_strengths: tuple[float, ...] = (0.01, 0.03, 0.1)
    tag_numbers: int = 35_000_000
    tag_fit_seconds: float = 2.5e-8

    def word_layers(self, depth: int) -> tuple[int, ...]:
        """Layers that are tried for tags of words, each of which has as many states as the labelled rows have words."""
        return tuple(sorted({max(1, round(share * depth)) for share in self.tag_depths}))

    def layer_errors(self, *, fields: bool) -> float:
        """Standard errors by which the frozen probe at the tuned layer may be worse than at its best."""
        return self.field_errors if fields else self.tuned_errors

    def most_epochs(self, rows: int, most: float, *, smooths: bool) -> float:
        """Epochs in all if budget would be left over, at most ``most``.

        Tuning without smoothing grows overconfident with further epochs, except on few rows (docs/probe-measurements.md).
        """
        more = self.more_epochs if smooths or rows < self.few_rows else 1.0
        return min(most, more * self.epochs(rows, most))

    def refit(self, *, fields: bool) -> float:
        """Strength of a probe on tuned states, as a multiple of the frozen probe's; ``fields``: of several fields."""
        return 1.0 if fields else self.refit_strength

    def temperature_factor(self, errors: float) -> float:
        """Factor on the temperature of weights tuned further, with few rows, for a trial's share of wrong held-out answers."""
        return 1.0 if errors < self.sure_errors else self.few_temperature

    def whole(self, rows: int) -> bool:
        """Whether one epoch of so many rows is enough for a trial to ship without a final tuning."""
        return rows >= self.whole_rows

    def least_epochs(self, rows: int, batch: int) -> float:
        """Epochs of the shortest tuning on a number of rows, in steps of ``batch`` rows."""
        return min(1.0, max(0.25, self.least_steps * batch / rows))

    def opening_rows(self, labels: int) -> int:
        """Number of labelled rows of a race's first round for a number of labels."""
        return max(self.first_rows, self.first_rows_a_label * labels)

    def rate_factor(self, rows: int, *, pairs: bool) -> float:
        """Learning rate of a window as a multiple of the config's, for a number of labelled rows."""
        return self.paired_rate if pairs and rows >= self.few_rows else 1.0

    def epochs(self, rows: int, most: float) -> float:
        """Epochs in all for a number of labelled rows, at most ``most``: half in the trial, half at the end.

        Fewer rows need more epochs: tuning is limited by the number of steps at first, and by the information in the rows
        later.
        """
        wanted = self.epochs_few if rows <= 100 else self.epochs_some if rows <= 300 else self.epochs_many
        return min(wanted, most)


HEURISTICS = SearchHeuristics()
