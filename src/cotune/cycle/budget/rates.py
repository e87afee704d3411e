"""Prices of steps in the budget's unit, by guessed and then measured rates."""

from __future__ import annotations

from dataclasses import dataclass, replace

from cotune.cycle.budget.budget import Budget

_TRUSTED_SECONDS = 20.0
_TELLING_SECONDS = 5.0
_NOTICED_SECONDS = 0.5
"""Seconds of passes below which their pace says nothing: a process's first pass allocates memory, whatever the machine."""
_LATELY = 5.0
"""Half-life, in seconds of passes, of measurements of how slow the machine is now."""
_WRITING = 5.0
"""Assumed cost of a written token relative to a scored one; written tokens come one at a time, and each reads all weights."""
_FULL = 1000
"""Number of tokens scored at once below which more would take hardly longer."""
_MANY = 32
"""Number of rows answered at once from which the pace is that of hundreds."""
_WRONG = 2.0
"""Slowdown from which a machine counts as slow; a guess may be off by this factor."""
_PRODUCTS = 0.9
"""Share of the measured rate of matrix products that those of a pass reach."""
_REST_SCORING, _REST_TRAINING = 0.0026, 0.010
"""Seconds of one thread for everything except matrix products (norms, rotary embedding, attention, copies), per 1e9 operations
of products, in a model of the bundled one's width.
"""
_WIDTH = 576
"""Width of the bundled model. The cost of products grows with the square of the width, and that of the rest with the width."""


Pace = tuple[float, tuple[float, float], tuple[float, float]]
"""Rate of scoring, with totals and recent measurements."""


@dataclass
class CostModel:
    """Converts tokens into budget.

    Under a token budget every token costs one, so that the run is deterministic. Under a money budget a token costs the mean
    price of answers so far, and under a time budget it costs seconds at the measured rates; both start as a guess.

    Attributes:
        score_rate: tokens per second in scoring.
        train_rate: tokens per second in training.
        write_rate: tokens per second in writing answers, without those of their prompts, which are read as fast as in scoring.
        token_price: mean price of an endpoint's tokens so far, questions and answers together, in US dollars.
        slots: number of workers that share the scoring.
    """

    budget: Budget
    score_rate: float
    train_rate: float
    write_rate: float = 0.0
    token_price: float = 0.0
    slots: int = 1
    _slowest: float = 0.0
    _guessed: float = 0.0
    _scored: tuple[float, float] = (0.0, 0.0)
    _lately: tuple[float, float] = (0.0, 0.0)
    _trained: tuple[float, float] = (0.0, 0.0)
    _written: tuple[float, float] = (0.0, 0.0)
    _paid: tuple[float, float] = (0.0, 0.0)

    @classmethod
    def guess(cls, budget: Budget, *, gflops: float, parameters: int, threads: int | None, width: int) -> CostModel:
        """Guess the rates by the measured rate of matrix products and the number of weights.

        Args:
            gflops: rate of matrix products, in 1e9 operations per second.
            parameters: number of weights in matrix products.
            threads: threads of the processor; None on an accelerator, where scoring is assumed to reach 0.7 of the rate of
                products and training 0.5.
        """
        if threads is None:
            scoring, training = 0.7 * gflops, 0.5 * gflops
        else:
            rest = _WIDTH / width / threads
            scoring, training = (1 / (1 / (_PRODUCTS * gflops) + seconds * rest) for seconds in (_REST_SCORING, _REST_TRAINING))
        # Training takes two products per weight, because frozen weights have no gradient.
        per_token = 2 * parameters / 1e9
        rate = scoring / per_token
        return cls(
            budget,
            rate,
            training / per_token / 2,
            rate / _WRITING,
            _slowest=0.5 * rate,
            _guessed=0.0 if threads is None else rate,
        )

    def spread(self, slots: int) -> CostModel:
        """The prices if ``slots`` workers score in parallel; a single tuning is still done by one worker."""
        faster = {name: slots * getattr(self, name) for name in ("score_rate", "_slowest", "_guessed")}
        return replace(self, slots=slots, **faster)

    @property
    def alone(self) -> CostModel:
        """The prices of scoring in the run's own process, beside its workers."""
        return self if self.slots == 1 else replace(self, score_rate=self.score_rate / self.slots, slots=1)

    def scoring(self, tokens: float) -> float:
        """Cost of scoring a number of tokens."""
        if self.budget.kind == "money":
            return tokens * self.token_price
        return tokens if self.budget.kind == "tokens" else tokens / self.score_rate

    def writing(self, read: float, written: float) -> float:
        """Cost of answers with ``written`` tokens to prompts with ``read`` tokens."""
        if self.budget.kind == "tokens":
            return read + written
        return self.scoring(read) + written / (self.write_rate or self.score_rate / _WRITING)

    def training(self, tokens: float) -> float:
        """Cost of training on a number of tokens."""
        if self.budget.kind == "tokens":
            return tokens
        # A guessed rate of training is assumed to be as wrong as the guessed rate of scoring was.
        wrong = self.slowdown if not self.training_measured and self.slowdown >= _WRONG else 1.0
        return wrong * tokens / self.train_rate

    @property
    def training_measured(self) -> bool:
        """Whether the rate of training has been measured."""
        return self._trained[1] > 1.0

    @property
    def slowdown(self) -> float:
        """Slowdown of scoring on processors against the plan, by recent passes if possible; 1 until it is known."""
        tokens, seconds = self._lately if self._lately[1] > _TELLING_SECONDS else self._scored
        return self._guessed * seconds / tokens if self._guessed and tokens and seconds > _TELLING_SECONDS else 1.0

    @property
    def slowness(self) -> float:
        """Slowdown of the last passes against the plan, including a process's slow first passes; 1 until they took a while."""
        tokens, seconds = self._lately
        return self._guessed * seconds / tokens if self._guessed and seconds > _NOTICED_SECONDS else 1.0

    @property
    def lag(self) -> float:
        """Ratio of the last passes' time to their price by :meth:`scoring`, which adapts slowly; at least 1."""
        tokens, seconds = self._lately
        return max(1.0, self.score_rate * seconds / tokens) if seconds > _NOTICED_SECONDS else 1.0

    def look_anew(self) -> Pace:
        """Forget the rate of scoring, so that the next passes decide; returns the argument of :meth:`recall`."""
        before = (self.score_rate, self._scored, self._lately)
        self.score_rate, self._scored, self._lately = self._guessed or self.score_rate, (0.0, 0.0), (0.0, 0.0)
        return before

    def recall(self, before: Pace) -> None:
        """Restore the rate from before :meth:`look_anew`."""
        self.score_rate, self._scored, self._lately = before

    def saw_scoring(self, tokens: int, seconds: float) -> None:
        """Learn from a scoring step; recent steps count most, and small ones count only until there are larger ones."""
        if tokens >= _FULL / 4 or not self._lately[0]:
            self._lately = self._mixed(self._lately, tokens, seconds, half_life=_LATELY)
        if tokens < _FULL and self._scored[1] > 1.0:
            return
        self._scored = self._mixed(self._scored, tokens, seconds)
        if self._scored[1] > 1.0:
            rate = self._scored[0] / self._scored[1]
            # The first seconds of a process are slow (memory is allocated); they must not make a run impossible.
            self.score_rate = max(rate, self._slowest) if self._scored[1] < _TRUSTED_SECONDS else rate

    def saw_writing(self, read: int, written: int, rows: int, seconds: float) -> None:
        """Learn from a step that wrote answers to ``rows`` rows.

        A written token costs a pass over all weights for any number of rows, so a few rows say nothing about the pace of many.
        """
        if rows < _MANY and self._written[1] > 1.0:
            return
        # Even if the estimate for reading takes nearly all of the time, some of it was writing.
        own = max(0.1 * seconds, seconds - read / self.score_rate)
        self._written = self._mixed(self._written, written, own)
        if self._written[1] > 1.0:
            self.write_rate = self._written[0] / self._written[1]

    def saw_paying(self, tokens: int, dollars: float) -> None:
        """Learn from the cost of answers."""
        self._paid = (self._paid[0] + tokens, self._paid[1] + dollars)
        if self._paid[0] > 0:
            self.token_price = self._paid[1] / self._paid[0]

    def saw_training(self, tokens: int, seconds: float) -> None:
        """Learn from a training step."""
        self._trained = self._mixed(self._trained, tokens, seconds)
        if self.training_measured:
            self.train_rate = self._trained[0] / self._trained[1]

    @staticmethod
    def _mixed(before: tuple[float, float], tokens: int, seconds: float, half_life: float = 240.0) -> tuple[float, float]:
        keep = 0.5 ** (seconds / half_life)
        return before[0] * keep + tokens, before[1] * keep + seconds
