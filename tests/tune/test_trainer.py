"""Training runs: the same weights however they are interrupted, cut into passes, or run with or without a shared prefix."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from cotune.errors import CotuneError, DivergedError
from cotune.model.adapters.files import LoraSettings
from cotune.model.adapters.slots import BASE
from cotune.model.local import LocalModel
from cotune.prompt.prompt import Prompt
from cotune.prompt.render import shared_prefix
from cotune.tune.batches import TrainingRow, training_rows
from cotune.tune.settings import TuneSettings
from cotune.tune.trainer import TuningRun
from tiny import tiny_local

LABELS = ("place", "person", "number")
SETTINGS = TuneSettings(lora=LoraSettings(rank=4, alpha=8), learning_rate=5e-3, batch_size=4, warmup=2)
PROMPT = Prompt(instruction="Name the kind of the question: {labels}", input_template="Question: {text}", cue="Answer:")
OTHER = Prompt(input_template="{text}", cue="It asks for a")


@pytest.fixture(scope="module")
def model() -> LocalModel:
    found: LocalModel = tiny_local()
    assert found.shared
    return found


def rows_of(model: LocalModel, prompt: Prompt = PROMPT, count: int = 11) -> list[TrainingRow]:
    texts = [f"{'Who is the one in the old tower by the river'[: 6 + 7 * (i % 5)]} {i}?" for i in range(count)]
    rendered = model.renderer.render(prompt, [{"text": text} for text in texts], LABELS)
    return training_rows(rendered, [i % len(LABELS) for i in range(count)])


def run_of(
    model: LocalModel,
    folder: Path,
    *,
    prompt: Prompt = PROMPT,
    settings: TuneSettings = SETTINGS,
    seed: int = 0,
    start: str = BASE,
) -> TuningRun:
    return TuningRun(model, rows_of(model, prompt), settings, seed=seed, folder=folder, start=start)


def same(left: dict[str, Tensor], right: dict[str, Tensor]) -> bool:
    return left.keys() == right.keys() and all(torch.equal(left[name], right[name]) for name in left)


def furthest(left: dict[str, Tensor], right: dict[str, Tensor]) -> float:
    assert left.keys() == right.keys()
    return max(float((left[name] - right[name]).abs().max()) for name in left)


def trained(run: TuningRun, steps: int, **how: object) -> dict[str, Tensor]:
    run.advance(steps, **how)  # type: ignore[arg-type]
    return run.weights()


# Interrupting -----------------------------------------------------------------------------------------------------


def test_training_moves_the_weights_and_lowers_the_loss(model: LocalModel, tmp_path: Path) -> None:
    run = run_of(model, tmp_path)
    fresh = run.weights()
    run.advance(30)
    assert furthest(fresh, run.weights()) > 1e-3
    assert sum(run.losses[-5:]) < 0.8 * sum(run.losses[:5])
    assert run.step == len(run.losses) == 30


@pytest.mark.parametrize("at", [1, 4, 9])
def test_resume_is_bit_equal(model: LocalModel, tmp_path: Path, at: int) -> None:
    whole = run_of(model, tmp_path / "a")
    expected = trained(whole, 10)
    run_of(model, tmp_path / "b").advance(at)
    later = run_of(model, tmp_path / "b")
    assert later.resume()
    assert (later.step, later.losses) == (at, whole.losses[:at])
    assert same(trained(later, 10), expected)
    assert (later.losses, later.tokens) == (whole.losses, whole.tokens)


@pytest.mark.parametrize("killed_at", [7, 8, 10])
def test_resume_inside_the_decay_is_bit_equal(model: LocalModel, tmp_path: Path, killed_at: int) -> None:
    whole = run_of(model, tmp_path / "a")
    whole.advance(6)
    expected = trained(whole, 12, decay_from=6, branch="decay-6-12", checkpoint_every=1)

    def killed(step: int, loss: float, tokens: int) -> None:
        if step == killed_at:
            raise KeyboardInterrupt

    torn = run_of(model, tmp_path / "b")
    torn.advance(6)
    with pytest.raises(KeyboardInterrupt):
        torn.advance(12, decay_from=6, branch="decay-6-12", checkpoint_every=1, report=killed)
    later = run_of(model, tmp_path / "b")
    if killed_at == 7:
        # The kill came before the branch's first checkpoint.
        assert not later.resume("decay-6-12")
        assert later.resume()
    else:
        assert later.resume("decay-6-12")
        assert later.step == killed_at - 1
    assert same(trained(later, 12, decay_from=6, branch="decay-6-12", checkpoint_every=1), expected)
    assert later.losses == whole.losses


def test_the_decay_does_not_touch_the_steady_checkpoint(model: LocalModel, tmp_path: Path) -> None:
    expected = trained(run_of(model, tmp_path / "a"), 9)
    run = run_of(model, tmp_path / "b")
    run.advance(6)
    run.advance(8, decay_from=6, branch="decay-6-8")
    later = run_of(model, tmp_path / "b")
    assert later.resume()
    assert later.step == 6
    assert same(trained(later, 9), expected)


def test_nothing_to_resume_is_said(model: LocalModel, tmp_path: Path) -> None:
    run = run_of(model, tmp_path)
    assert not run.resume()
    assert not run.resume("decay-6-12")
    assert run.step == 0


@pytest.mark.parametrize("keep", [0, 9, 4_000])
def test_a_damaged_checkpoint_is_made_anew(model: LocalModel, tmp_path: Path, keep: int) -> None:
    whole = run_of(model, tmp_path / "a")
    expected = trained(whole, 8)
    run_of(model, tmp_path / "b").advance(4)
    later = run_of(model, tmp_path / "b")
    path = later.folder / "steady.safetensors"
    path.write_bytes(path.read_bytes()[:keep])
    assert not later.resume() and later.step == 0 and not path.exists()
    assert same(trained(later, 8), expected) and later.losses == whole.losses


def test_a_parked_run_whose_checkpoint_is_damaged_trains_again_but_saves_no_fresh_weights(
    model: LocalModel, tmp_path: Path
) -> None:
    expected = trained(run_of(model, tmp_path / "a"), 5)
    run = run_of(model, tmp_path / "b")
    run.advance(3)
    (run.folder / "steady.safetensors").write_bytes(b"")
    run_of(model, tmp_path / "b", prompt=OTHER).advance(1)
    with pytest.raises(CotuneError, match=r"checkpoint of step 3 .* damaged"):
        run.save(tmp_path / "adapters")
    assert same(trained(run, 5), expected) and len(run.losses) == 5


def test_a_checkpoint_of_other_weights_is_made_anew(model: LocalModel, tmp_path: Path) -> None:
    expected = trained(run_of(model, tmp_path / "a"), 5)
    run_of(model, tmp_path / "b").advance(4)
    later = run_of(model, tmp_path / "b")
    path = later.folder / "steady.safetensors"
    tensors = load_file(path)
    last = max(name for name in tensors if name.startswith("weight/"))
    del tensors[last]
    save_file(tensors, path, metadata={"about": json.dumps({"step": 4, "losses": [1.0] * 4, "tokens": 9})})
    # The others stand in the weights by then.
    assert not later.resume()
    assert same(trained(later, 5), expected)


def test_two_runs_take_turns_in_one_model(model: LocalModel, tmp_path: Path) -> None:
    alone, other_alone = run_of(model, tmp_path / "a"), run_of(model, tmp_path / "a", prompt=OTHER)
    expected, other_expected = trained(alone, 8), trained(other_alone, 8)
    first, second = run_of(model, tmp_path / "b"), run_of(model, tmp_path / "b", prompt=OTHER)
    assert first.folder != second.folder
    for step in (3, 5, 8):
        first.advance(step)
        second.advance(step)
    assert same(first.weights(), expected)
    assert same(second.weights(), other_expected)


def test_a_run_left_before_its_first_checkpoint_starts_afresh(model: LocalModel, tmp_path: Path) -> None:
    expected = trained(run_of(model, tmp_path / "a"), 4)
    run = run_of(model, tmp_path / "b")

    def killed(step: int, loss: float, tokens: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run.advance(4, report=killed)
    run_of(model, tmp_path / "b", prompt=OTHER).advance(2)
    assert same(trained(run, 4), expected)
    assert len(run.losses) == 4


def test_scoring_between_steps_changes_nothing(model: LocalModel, tmp_path: Path) -> None:
    expected = trained(run_of(model, tmp_path / "a"), 6)
    run = run_of(model, tmp_path / "b")
    run.advance(3)
    adapter = model.adapters.save(run.weights(), tmp_path / "adapters")
    for weights in (adapter, BASE):
        model.score(PROMPT, [{"text": "Where is it?"}], LABELS, adapter=weights)
    assert same(trained(run, 6), expected)


def test_a_kill_while_a_checkpoint_is_written_leaves_the_one_before(
    model: LocalModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = trained(run_of(model, tmp_path / "a"), 6)
    run = run_of(model, tmp_path / "b")
    run.advance(3)

    def killed(self: Path, target: Path) -> Path:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Path, "replace", killed)
        run.advance(5)
    later = run_of(model, tmp_path / "b")
    assert later.resume()
    assert later.step == 3
    assert same(trained(later, 6), expected)


# The schedule and the order ---------------------------------------------------------------------------------------


def test_a_short_run_is_an_exact_prefix_of_a_longer_one(model: LocalModel, tmp_path: Path) -> None:
    short, long = run_of(model, tmp_path / "a"), run_of(model, tmp_path / "b")
    at_five = trained(short, 5)
    seen: list[dict[str, Tensor]] = []
    long.advance(12, report=lambda step, loss, tokens: seen.append(model.adapters.weights()) if step == 5 else None)
    assert same(at_five, seen[0])
    assert short.losses == long.losses[:5]


def test_warm_up_and_decay_change_what_is_learnt(model: LocalModel, tmp_path: Path) -> None:
    steady, decayed = run_of(model, tmp_path / "a"), run_of(model, tmp_path / "b")
    steady.advance(8)
    decayed.advance(5)
    decayed.advance(8, decay_from=5, branch="decay-5-8")
    assert steady.losses[:6] == decayed.losses[:6]
    assert not same(steady.weights(), decayed.weights())
    assert furthest(run_of(model, tmp_path / "c").weights(), steady.weights()) > 0


def test_an_adapter_is_gone_on_with(model: LocalModel, tmp_path: Path) -> None:
    first = run_of(model, tmp_path)
    weights = trained(first, 6)
    adapter = model.adapters.save(weights, tmp_path / "adapters")
    warm = run_of(model, tmp_path, prompt=OTHER, start=adapter)
    assert same(warm.weights(), weights)
    warm.advance(3)
    assert not same(warm.weights(), weights)


@pytest.mark.parametrize(
    "change", [{"learning_rate": 1e-3}, {"batch_size": 5}, {"clip": 0.5}, {"lora": LoraSettings(rank=4, alpha=16)}]
)
def test_a_run_of_other_settings_has_other_checkpoints(model: LocalModel, tmp_path: Path, change: dict[str, object]) -> None:
    keys = {run_of(model, tmp_path).key, run_of(model, tmp_path, settings=replace(SETTINGS, **change)).key}  # type: ignore[arg-type]
    keys |= {run_of(model, tmp_path, seed=1).key, run_of(model, tmp_path, prompt=OTHER).key}
    assert len(keys) == 4


def test_a_run_that_is_restarted_reaches_each_step_again(model: LocalModel, tmp_path: Path) -> None:
    expected = trained(run_of(model, tmp_path / "a"), 3)
    run = run_of(model, tmp_path / "b")
    run.advance(6)
    run.restart()
    assert run.step == 0
    assert same(trained(run, 3), expected)


def test_no_rows_are_refused(model: LocalModel, tmp_path: Path) -> None:
    with pytest.raises(CotuneError, match="no rows"):
        TuningRun(model, [], SETTINGS, seed=0, folder=tmp_path)


# Passes -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shared", [True, False])
@pytest.mark.parametrize("limit", [1, 25, 60])
def test_accumulated_passes_equal_one(model: LocalModel, tmp_path: Path, limit: int, shared: bool) -> None:
    whole = replace(SETTINGS, batch_size=8, shared_prefix=shared)
    one, many = run_of(model, tmp_path, settings=whole), run_of(model, tmp_path, settings=replace(whole, micro_tokens=limit))
    expected, found = trained(one, 3), trained(many, 3)
    assert furthest(expected, found) < 1e-5
    assert many.losses == pytest.approx(one.losses, abs=1e-5)
    if limit == 1 and shared:
        assert many.tokens > one.tokens  # the prefix ran once a pass


def test_no_pass_is_larger_than_it_may_be_with_its_prefix(model: LocalModel, tmp_path: Path) -> None:
    one = run_of(model, tmp_path, settings=replace(SETTINGS, batch_size=8))
    one.advance(1)
    prefix = shared_prefix([row.prompt_ids for row in rows_of(model)])
    # Room for the prefix and half of the rows' own tokens: three passes at most, and two prefixes more.
    half = prefix + (one.tokens - prefix) // 2 + 1
    cut = run_of(model, tmp_path, settings=replace(SETTINGS, batch_size=8, micro_tokens=half))
    cut.advance(1)
    assert prefix > 10 and (cut.tokens - one.tokens) / prefix in (1, 2)


def test_shared_prefix_trains_as_plain_batches_do(model: LocalModel, tmp_path: Path) -> None:
    shared = run_of(model, tmp_path)
    plain = run_of(model, tmp_path, settings=replace(SETTINGS, shared_prefix=False))
    fresh, left, right = plain.weights(), trained(shared, 3), trained(plain, 3)
    assert furthest(left, right) < 1e-4
    assert furthest(fresh, right) > 1e-3
    assert shared.losses == pytest.approx(plain.losses, abs=1e-4)
    assert shared.tokens < 0.7 * plain.tokens


@pytest.mark.parametrize("shared", [True, False])
def test_tokens_of_a_step_are_foreseen(model: LocalModel, tmp_path: Path, shared: bool) -> None:
    run = run_of(model, tmp_path, settings=replace(SETTINGS, shared_prefix=shared))
    run.advance(11)  # four epochs of eleven rows, four a step
    assert run.steps_per_epoch == 3
    assert run.tokens / 11 == pytest.approx(run.tokens_per_step, rel=1e-9)


def test_memory_that_runs_out_halves_the_passes(model: LocalModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = replace(SETTINGS, batch_size=8)
    expected = trained(run_of(model, tmp_path, settings=settings), 3)
    run = run_of(model, tmp_path / "b", settings=settings)
    real, refused = run._loss, []

    def small_machine(rows: list[TrainingRow]) -> tuple[Tensor, int]:
        if len(rows) > 3:
            refused.append(len(rows))
            raise torch.OutOfMemoryError("out of memory")
        return real(rows)

    monkeypatch.setattr(run, "_loss", small_machine)
    found = trained(run, 3)
    assert refused
    assert furthest(expected, found) < 1e-5


# Failures ---------------------------------------------------------------------------------------------------------


def test_a_loss_that_is_not_finite_stops_the_run(model: LocalModel, tmp_path: Path) -> None:
    run = run_of(model, tmp_path)
    run.advance(4)
    kept = run.weights()
    with torch.no_grad():
        next(p for name, p in run._parameters if ".lora_B." in name).fill_(float("nan"))
    with pytest.raises(DivergedError, match="step 5"):
        run.advance(8)
    assert run.step == len(run.losses) == 4
    later = run_of(model, tmp_path)
    assert later.resume()
    assert later.step == 4
    assert same(later.weights(), kept)


def test_one_diverged_run_does_not_spoil_the_next(model: LocalModel, tmp_path: Path) -> None:
    expected = trained(run_of(model, tmp_path / "a"), 3)
    broken = run_of(model, tmp_path / "b", prompt=OTHER)
    broken.weights()
    with torch.no_grad():
        next(p for name, p in broken._parameters if ".lora_A." in name).fill_(float("inf"))
    with pytest.raises(DivergedError):
        broken.advance(2)
    assert same(trained(run_of(model, tmp_path / "b"), 3), expected)


# Answers of unequal length ----------------------------------------------------------------------------------------

FREE = Prompt(instruction="Say what is asked for.", input_template="Question: {text}", cue="Answer:")
GOLD = ["yes", "a tall tower by the river, where the old city begins", "", "no", "the book and the card of the person", "x y"]


def free_rows(model: LocalModel, prompt: Prompt = FREE) -> list[TrainingRow]:
    rows = [{"text": f"Who is {'the one ' * (i % 3)}{i}?"} for i in range(len(GOLD))]
    return training_rows(model.renderer.render_answers(prompt, rows, GOLD))


def gradient_of(run: TuningRun, batch: list[int]) -> Tensor:
    """The gradient of a step on these rows, before it is clipped or taken."""
    run._enter()
    assert run._optimizer is not None
    kept = {}

    def keep(parameters: list[Tensor], _: float) -> Tensor:
        kept["gradient"] = torch.cat([p.grad.flatten() for p in parameters if p.grad is not None])
        return torch.tensor(0.0)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.nn.utils, "clip_grad_norm_", keep)
        patch.setattr(run._optimizer, "step", lambda: None)
        run._one_step(batch)
    return kept["gradient"]


@pytest.mark.parametrize("shared", [True, False])
def test_a_row_counts_the_same_beside_long_answers_and_short_ones(model: LocalModel, tmp_path: Path, shared: bool) -> None:
    rows = free_rows(model)
    assert len({len(row.answer_ids) for row in rows}) > 3
    run = TuningRun(model, rows, replace(SETTINGS, shared_prefix=shared), seed=0, folder=tmp_path)
    run.advance(1)  # both LoRA factors away from zero
    single = [gradient_of(run, [i]) for i in range(len(rows))]
    for picked in ([0, 1], [0, 2], [1, 3, 4, 5]):
        together = gradient_of(run, picked)
        torch.testing.assert_close(together, torch.stack([single[i] for i in picked]).mean(0), rtol=1e-3, atol=1e-6)
    # The mean answer's token has the weight that it has among answers of one length.
    mean = sum(len(row.answer_ids) for row in rows) / len(rows)
    loss, _ = run._loss([rows[1]])
    direct = torch.autograd.grad(loss / mean, [p for _, p in run._parameters])
    torch.testing.assert_close(single[1], torch.cat([g.flatten() for g in direct]), rtol=1e-3, atol=1e-6)


def test_training_on_free_answers_lowers_the_loss_that_prompts_are_raced_by(model: LocalModel, tmp_path: Path) -> None:
    rows = [{"text": f"Who is {'the one ' * (i % 3)}{i}?"} for i in range(len(GOLD))]
    before = model.answer_losses(FREE, rows, GOLD)
    run = TuningRun(model, free_rows(model), SETTINGS, seed=0, folder=tmp_path)
    run.advance(12)
    adapter = run.save(tmp_path / "adapters")
    after = model.answer_losses(FREE, rows, GOLD, adapter=adapter)
    assert after.losses.sum() < 0.8 * before.losses.sum()
    assert after.lengths.tolist() == [len(row.answer_ids) for row in free_rows(model)]
    model.adapters.use(BASE)
