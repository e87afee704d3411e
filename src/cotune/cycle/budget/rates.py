"""What steps will cost, in the budget's own unit, learnt from what they did cost."""

from __future__ import annotations

from dataclasses import dataclass, replace

from cotune.cycle.budget.budget import Budget

_TRUSTED_SECONDS = 20.0
_TELLING_SECONDS = 5.0
_LATELY = 5.0
"""Seconds of passes after which what was seen before counts half for how slow a machine is now."""
_WRITING = 5.0
"""About how much longer a token takes that is written: one at a time, each reads all weights."""
_FULL = 1000
"""Tokens scored at once below which more of them would take hardly longer."""
_MANY = 32
"""Rows answered at once from which their pace is that of hundreds."""
_WRONG = 2.0
"""Times slower than planned from which a machine is slow: a guess may be off by so many."""
_PRODUCTS = 0.9
"""Of the measured rate of matrix products that a pass's own reach."""
_REST_SCORING, _REST_TRAINING = 0.0026, 0.010
"""Seconds that one thread takes for all that is no matrix product (norms, rotary embedding, attention, copies), for 1e9
operations of products, in a model as wide as the bundled one. What is left of a pass as products grow faster."""
_WIDTH = 576
"""The bundled model's: products grow with its square, the rest with the width itself."""


Pace = tuple[float, tuple[float, float], tuple[float, float]]
"""How fast scoring went, in all and lately."""


@dataclass
class CostModel:
    """Turns tokens into budget.

    Under a token budget a token costs one, whatever is done with it, so that the run is deterministic. Under a budget of money
    it costs what the tokens of answers have cost so far, under a time budget seconds at the measured rates; both start as a
    guess.

    Attributes:
        budget: the run's budget.
        score_rate: tokens a second in scoring.
        train_rate: tokens a second in training.
        write_rate: tokens a second in writing answers, those of their prompts, which are read as fast as in scoring, apart.
        token_price: US dollars for a token of an endpoint's, questions and answers mixed as they were so far.
        slots: workers among which scoring is spread.
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
        """From the measured rate of matrix products and the number of weights in them.

        Args:
            budget: the run's budget.
            gflops: matrix products, in 1e9 operations a second.
            parameters: weights in matrix products.
            threads: of the processor; None on an accelerator, where scoring is taken to reach 0.7 of the rate of products and
                training 0.5.
            width: of the model's hidden states.
        """
        if threads is None:
            scoring, training = 0.7 * gflops, 0.5 * gflops
        else:
            rest = _WIDTH / width / threads
            scoring, training = (1 / (1 / (_PRODUCTS * gflops) + seconds * rest) for seconds in (_REST_SCORING, _REST_TRAINING))
        # Two products a weight in training: frozen weights have no gradient.
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
        """The same where so many workers score side by side; one tuning is still done by one of them."""
        faster = {name: slots * getattr(self, name) for name in ("score_rate", "_slowest", "_guessed")}
        return replace(self, slots=slots, **faster)

    @property
    def alone(self) -> CostModel:
        """The same for what the run itself scores beside its workers."""
        return self if self.slots == 1 else replace(self, score_rate=self.score_rate / self.slots, slots=1)

    def scoring(self, tokens: float) -> float:
        """Cost of scoring so many tokens."""
        if self.budget.kind == "money":
            return tokens * self.token_price
        return tokens if self.budget.kind == "tokens" else tokens / self.score_rate

    def writing(self, read: float, written: float) -> float:
        """Cost of answers of so many written tokens to prompts of so many."""
        if self.budget.kind == "tokens":
            return read + written
        return self.scoring(read) + written / (self.write_rate or self.score_rate / _WRITING)

    def training(self, tokens: float) -> float:
        """Cost of training on so many tokens."""
        if self.budget.kind == "tokens":
            return tokens
        # A rate of training that is still a guess is as wrong as that of scoring was.
        wrong = self.slowdown if not self.training_measured and self.slowdown >= _WRONG else 1.0
        return wrong * tokens / self.train_rate

    @property
    def training_measured(self) -> bool:
        """Whether the rate of training is measured and no longer guessed."""
        return self._trained[1] > 1.0

    @property
    def slowdown(self) -> float:
        """How many times slower scoring on processors goes than was planned, lately if that is known; 1 until it is."""
        tokens, seconds = self._lately if self._lately[1] > _TELLING_SECONDS else self._scored
        return self._guessed * seconds / tokens if self._guessed and tokens and seconds > _TELLING_SECONDS else 1.0

    @property
    def slowness(self) -> float:
        """The same in the last passes, from the first one on, when memory is still touched for the first time."""
        tokens, seconds = self._lately
        return self._guessed * seconds / tokens if self._guessed and tokens else 1.0

    @property
    def lag(self) -> float:
        """How many times longer than :meth:`scoring` says the last passes took: it learns late, and a guess favours it."""
        tokens, seconds = self._lately
        return max(1.0, self.score_rate * seconds / tokens) if tokens else 1.0

    def look_anew(self) -> Pace:
        """Forget how fast scoring went, so that the next passes tell it; returns what :meth:`recall` takes."""
        before = (self.score_rate, self._scored, self._lately)
        self.score_rate, self._scored, self._lately = self._guessed or self.score_rate, (0.0, 0.0), (0.0, 0.0)
        return before

    def recall(self, before: Pace) -> None:
        """Go back to what was known before :meth:`look_anew`."""
        self.score_rate, self._scored, self._lately = before

    def saw_scoring(self, tokens: int, seconds: float) -> None:
        """Learn from a scoring step; the recent ones count most, and those that fill no batch not once others are known."""
        if tokens >= _FULL / 4 or not self._lately[0]:
            keep = 0.5 ** (seconds / _LATELY)
            self._lately = (self._lately[0] * keep + tokens, self._lately[1] * keep + seconds)
        if tokens < _FULL and self._scored[1] > 1.0:
            return
        self._scored = self._mixed(self._scored, tokens, seconds)
        if self._scored[1] > 1.0:
            rate = self._scored[0] / self._scored[1]
            # A process's first seconds are slow (memory is touched for the first time); they must not refuse a run.
            self.score_rate = max(rate, self._slowest) if self._scored[1] < _TRUSTED_SECONDS else rate

    def saw_writing(self, read: int, written: int, rows: int, seconds: float) -> None:
        """Learn from a step that wrote answers to so many rows.

        A token that is written costs a pass over all weights however many rows wait for it, so that a few rows, answered only
        to see how long answers get, say nothing about the pace of many.
        """
        if rows < _MANY and self._written[1] > 1.0:
            return
        # Where the estimate of reading takes nearly all, some of the time went into writing even so.
        own = max(0.1 * seconds, seconds - read / self.score_rate)
        self._written = self._mixed(self._written, written, own)
        if self._written[1] > 1.0:
            self.write_rate = self._written[0] / self._written[1]

    def saw_paying(self, tokens: int, dollars: float) -> None:
        """Learn from answers that were paid for."""
        self._paid = (self._paid[0] + tokens, self._paid[1] + dollars)
        if self._paid[0] > 0:
            self.token_price = self._paid[1] / self._paid[0]

    def saw_training(self, tokens: int, seconds: float) -> None:
        """Learn from a training step."""
        self._trained = self._mixed(self._trained, tokens, seconds)
        if self.training_measured:
            self.train_rate = self._trained[0] / self._trained[1]

    @staticmethod
    def _mixed(before: tuple[float, float], tokens: int, seconds: float) -> tuple[float, float]:
        keep = 0.5 ** (seconds / 240.0)
        return before[0] * keep + tokens, before[1] * keep + seconds
