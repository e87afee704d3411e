"""A window's steps are those of a plain full pass through the same model, and a run that was left ends in the same weights."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save
from torch.nn.functional import cross_entropy

from cotune.errors import CotuneError, DivergedError
from cotune.model.adapters.files import CONFIG, LoraSettings
from cotune.model.engine.attention import use_plain_attention
from cotune.model.engine.settings import EngineSettings
from cotune.model.layers.cut import layers_of, norm_epsilon, unit_rms
from cotune.model.layers.lora_binding import layer_number
from cotune.model.local import LocalModel
from cotune.prompt.reads import Read, by_words
from cotune.tune.settings import WindowSettings
from cotune.tune.window import StartHead, WindowRun, WindowStates, _rate, contrastive_loss
from tiny import tiny_local, tiny_model, widen_lora

DEPTH, CLASSES, WIDTH = 4, 3, 32
_DRAW = np.random.default_rng(0)
PREFIX = _DRAW.integers(3, 440, 9).tolist()
SEQUENCES = [[*PREFIX, 3 + i, *_DRAW.integers(3, 440, 1 + 3 * (i % 4)).tolist()] for i in range(10)]
LABELS = [i % CLASSES for i in range(10)]
SETTINGS = WindowSettings(lora=LoraSettings(rank=4, alpha=8), batch_size=4, learning_rate=5e-3, head_rate=2e-3, contrast=0.5)


def local_of(kind: Any = "llama", **more: Any) -> LocalModel:
    found: LocalModel = tiny_local(kind, num_hidden_layers=DEPTH, **more)
    return found


def head_of(seed: int = 1, scale: float = 0.3, width: int = WIDTH) -> StartHead:
    rng = np.random.default_rng(seed)
    weight, bias, mean = rng.normal(size=(CLASSES, width)) * scale, rng.normal(size=CLASSES), rng.normal(size=width) * 0.1
    return StartHead(weight, bias, mean, rng.uniform(0.5, 1.5, width))


def run_of(local: LocalModel, folder: Path, first: int = 1, last: int = 3, steps: int = 6, **more: Any) -> WindowRun:
    states = more.pop("states", None) or WindowStates(local, SEQUENCES, first)
    given = {"settings": SETTINGS, "seed": 0, "folder": folder / "checkpoints"} | more
    settings = given.pop("settings")
    words = states.reads is not None and by_words(states.reads)
    head = head_of(width=WIDTH if states.reads is None or words else 2 * WIDTH)
    labels = [[[label], [(label + 1) % CLASSES]] for label in LABELS] if words else LABELS
    return WindowRun(local, states, range(10), labels, last, head, settings, steps=steps, **given)


def plain_loss(
    local: LocalModel,
    rows: list[int],
    last: int,
    smoothing: float,
    reads: list[Read] | None = None,
    contrast: float = 0.0,
) -> torch.Tensor:
    """By autograd alone: whole prompts one by one through peft's own layers and transformers' own attention."""
    use_plain_attention(local.model)
    words = reads is not None and by_words(reads)
    head = head_of(width=WIDTH if reads is None or words else 2 * WIDTH)
    labels = [label for i in rows for label in ((LABELS[i], (LABELS[i] + 1) % CLASSES) if words else (LABELS[i],))]
    decoder, states, epsilon = local.model.get_decoder(), [], norm_epsilon(local.model)
    seen: list[torch.Tensor] = []
    hook = layers_of(decoder)[last - 1].register_forward_hook(
        lambda _, __, out: seen.append(out[0] if isinstance(out, tuple) else out)
    )
    with local.adapters.unfused():
        for row in rows:
            decoder(torch.tensor([SEQUENCES[row]]), use_cache=False)
            unit = unit_rms(seen[-1][0], epsilon)
            read = None if reads is None else reads[row]
            if isinstance(read, tuple):
                states += [unit[start:end].mean(0) for start, end in read]
            else:
                states.append(unit[-1] if read is None else torch.cat([unit[-1], unit[read:].mean(0)]))
    hook.remove()
    hidden = torch.stack(states).double()
    mean, spread, weight, bias = (torch.from_numpy(part) for part in (head.mean, head.spread, head.weight, head.bias))
    features = (hidden - mean) / spread
    loss = cross_entropy(features @ weight.T + bias, torch.tensor(labels), reduction="sum", label_smoothing=smoothing)
    return (1 - contrast) * loss + contrast * plain_contrast(features, labels)


def plain_contrast(features: torch.Tensor, labels: list[int], temperature: float = 0.1) -> torch.Tensor:
    """The contrastive loss row by row, as its formula stands."""
    total = torch.zeros(())
    for row, label in enumerate(labels):
        cosines = torch.cosine_similarity(features[row], features, dim=-1) / temperature
        others = [i for i in range(len(labels)) if i != row]
        alike = [i for i in others if labels[i] == label]
        for one in alike:
            total = total - torch.log(cosines[one].exp() / cosines[others].exp().sum()) / len(alike)
    return total


def test_contrast_is_that_of_its_formula_and_single_rows_have_none() -> None:
    features = torch.randn(6, 5, dtype=torch.double, generator=torch.Generator().manual_seed(1), requires_grad=True)
    for labels in ([0, 1, 0, 1, 1, 2], [0, 0, 0, 0, 0, 0], [0, 1, 2, 3, 4, 5]):
        found = contrastive_loss(features, torch.tensor(labels), 0.1)
        assert found.item() == pytest.approx(float(plain_contrast(features, labels)))
        assert bool(torch.isfinite(torch.autograd.grad(found, features)[0]).all())
    alone = contrastive_loss(features[:1], torch.tensor([2]), 0.1)
    assert alone.item() == 0 and not torch.autograd.grad(alone, features)[0].any()


@pytest.mark.parametrize("kind", ["llama", "qwen3", "gemma3", "gpt2", "gpt_oss"])
@pytest.mark.parametrize(
    ("first", "last", "read", "parts"),
    [
        (0, 3, "last", [[1, 4, 7, 2]]),
        (2, 4, "last", [[1, 4], [7, 2]]),
        (1, 4, "row", [[1], [4, 7, 2]]),
        (1, 3, "words", [[1, 4], [7, 2]]),
    ],
)
def test_loss_and_gradients_are_those_of_a_plain_full_pass(
    tmp_path: Path, kind: Any, first: int, last: int, read: str, parts: list[list[int]]
) -> None:
    local = local_of(kind)
    reads: list[Read] | None = None
    if read != "last":
        own = [len(PREFIX) - row % 3 for row in range(10)]
        # Two words a row, of which the second ends before the row does.
        words = [((start, start + 1), (start, len(SEQUENCES[row]) - 1)) for row, start in enumerate(own)]
        reads = [*words] if read == "words" else [*own]
    lora = LoraSettings(rank=4, alpha=8, target="q_proj,v_proj") if kind == "gpt_oss" else SETTINGS.lora
    states = WindowStates(local, SEQUENCES, first, reads=reads)
    run = run_of(
        local, tmp_path, first, last, settings=replace(SETTINGS, smoothing=0.1, contrast=0.6, lora=lora), states=states
    )
    run._enter()
    adapter = [(name, p) for name, p in run._parameters if not name.startswith("head.")]
    widen_lora(adapter)
    rows = [row for part in parts for row in part]
    found, count, tokens = run._backward(parts)
    gradients = {name: p.grad.clone() for name, p in adapter if p.grad is not None}
    assert {layer_number(name) for name, _ in adapter} == set(range(first, last))
    assert len(gradients) == len(adapter) and all(bool(grad.any()) for grad in gradients.values())
    for _, parameter in adapter:
        parameter.grad = None
    head = run._weight.grad
    wanted = plain_loss(local, rows, last, 0.1, reads, contrast=0.6) / (2 if read == "words" else 1)
    (wanted / len(rows)).backward()  # type: ignore[no-untyped-call]
    assert head is not None and bool(head.any())
    assert found == pytest.approx(wanted.item(), rel=1e-4) and count == len(rows)
    for name, parameter in adapter:
        assert parameter.grad is not None
        scale = float(parameter.grad.abs().max())
        torch.testing.assert_close(gradients[name], parameter.grad, atol=1e-3 * scale + 1e-6, rtol=1e-3, msg=name)
    shared = states.length
    own = sum(len(SEQUENCES[row]) - shared for row in rows)
    assert tokens == (own + len(parts) * shared if local.shared else sum(len(SEQUENCES[row]) for row in rows))


def test_no_layer_outside_of_the_window_runs(tmp_path: Path) -> None:
    local = local_of()
    run = run_of(local, tmp_path, 1, 3)
    run._enter()
    ran: list[int] = []
    for number, layer in enumerate(layers_of(local.runner._decoder)):
        layer.register_forward_hook(lambda *_, number=number: ran.append(number))  # type: ignore[misc]
    run._backward([[0, 1]])
    assert set(ran) == {1, 2}
    assert run.states.tokens == len(PREFIX) + sum(len(ids) - len(PREFIX) for ids in SEQUENCES)


@pytest.mark.parametrize("batch_tokens", [1, 4096])
def test_states_at_the_edge_are_those_of_the_rows_alone(batch_tokens: int) -> None:
    local = local_of("gemma3", settings=EngineSettings(batch_tokens=batch_tokens))
    told: list[int] = []
    states = WindowStates(local, SEQUENCES, 2, progress=told.append)
    found = states.of([5, 2])
    lengths = [len(SEQUENCES[i]) - len(PREFIX) for i in (5, 2)]
    assert states.length == len(PREFIX) and found.shape == (len(PREFIX) + sum(lengths), WIDTH)
    decoder = tiny_model("gemma3", num_hidden_layers=DEPTH).get_decoder()
    with torch.no_grad():
        whole = [decoder(torch.tensor([SEQUENCES[i]]), output_hidden_states=True).hidden_states[2][0] for i in (5, 2)]
    wanted = torch.cat([whole[0][: len(PREFIX)], *(one[len(PREFIX) :] for one in whole)])
    torch.testing.assert_close(found, wanted, atol=1e-4, rtol=1e-4)
    assert sum(told) == states.tokens - len(PREFIX) and not found.requires_grad
    # What does not fit into memory is computed anew.
    few = WindowStates(local, SEQUENCES, 2, most_bytes=3000)
    assert len(few._rows) < len(states._rows) == 10
    torch.testing.assert_close(few.of([5, 2, 9]), states.of([5, 2, 9]), atol=1e-4, rtol=1e-4)


def test_a_window_from_the_bottom_keeps_no_states() -> None:
    states = WindowStates(local_of(), SEQUENCES, 0)
    assert not states._rows and states.tokens == 0 and states.length == len(PREFIX)


def test_tuning_learns_and_its_adapter_gives_the_tuned_states(tmp_path: Path) -> None:
    local = local_of()
    run = run_of(local, tmp_path, steps=30, settings=replace(SETTINGS, batch_size=10, learning_rate=1e-2, contrast=0.0))
    told: list[tuple[int, float, int]] = []
    run.advance(report=lambda *step: told.append(step))
    assert [step for step, _, _ in told] == list(range(1, 31)) and run.tokens == sum(tokens for _, _, tokens in told)
    assert np.mean(run.losses[-3:]) < 0.3 * np.mean(run.losses[:3])
    assert run.tokens_per_step == pytest.approx(told[0][2])
    adapter = run.save(tmp_path / "adapters")
    assert (tmp_path / "adapters" / adapter / CONFIG).is_file()
    fresh = local_of()
    assert fresh.adapters.register(tmp_path / "adapters" / adapter) == adapter
    weight, bias = run.head().folded()
    logits = fresh.layer_states(SEQUENCES, [3], adapter=adapter)[0] @ weight.T + bias
    losses = -torch.log_softmax(torch.from_numpy(logits), 1)[range(10), LABELS]
    # The last step's loss is of the weights before it, which the last rates hardly changed.
    assert float(losses.mean()) == pytest.approx(run.losses[-1], rel=0.2)


def weights_of(run: WindowRun) -> dict[str, Any]:
    head = run.head()
    found = {name: value.numpy() for name, value in run.model.adapters.weights().items()}
    return found | {"head": head.weight, "bias": head.bias}


@pytest.mark.parametrize("left", ["killed", "parked", "parked early"])
def test_a_run_that_was_left_comes_back_to_the_same_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, left: str) -> None:
    monkeypatch.setattr("cotune.tune.window._CHECKPOINT_EVERY", 3)
    whole = run_of(local_of(), tmp_path / "whole", steps=8)
    whole.advance()
    wanted = weights_of(whole)
    local = local_of()
    run = run_of(local, tmp_path, steps=8)
    run.advance(until=lambda: run.step == (2 if left == "parked early" else 5))
    assert run.step < 8
    if left == "killed":
        run = run_of(local_of(), tmp_path, steps=8)
    else:
        # Meanwhile the model carries other weights.
        local.adapters.start(LoraSettings(rank=2), seed=9)
        local.adapters.use("base")
    started: list[int] = []
    run.advance(report=lambda step, *_: started.append(step))
    assert started[0] == (1 if left == "parked early" else 4)
    found = weights_of(run)
    assert run.losses == pytest.approx(whole.losses, rel=1e-5) and run.tokens == whole.tokens
    assert set(found) == set(wanted)
    for name, value in wanted.items():
        np.testing.assert_allclose(found[name], value, atol=1e-6, err_msg=name)


def test_a_damaged_checkpoint_is_as_good_as_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cotune.tune.window._CHECKPOINT_EVERY", 2)
    run = run_of(local_of(), tmp_path, steps=4)
    run.advance(until=lambda: run.step == 3)
    (path,) = run.folder.iterdir()
    path.write_bytes(path.read_bytes()[:-7])
    again = run_of(local_of(), tmp_path, steps=4)
    steps: list[int] = []
    again.advance(report=lambda step, *_: steps.append(step))
    assert steps == [1, 2, 3, 4]


@pytest.mark.parametrize(
    "other",
    [{"last": 4}, {"settings": replace(SETTINGS, lora=LoraSettings(rank=2, alpha=8))}, {"seed": 1}, {"steps": 5}],
    ids=["more layers", "other shapes", "same shapes", "longer"],
)
def test_a_checkpoint_of_another_run_is_left_alone_as_a_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, other: dict[str, Any]
) -> None:
    monkeypatch.setattr("cotune.tune.window._CHECKPOINT_EVERY", 2)
    whole = run_of(local_of(), tmp_path / "whole", steps=4)
    whole.advance()
    foreign = run_of(local_of(), tmp_path / "other", **{"steps": 4, **other})
    foreign.advance(until=lambda: foreign.step == 3)
    (path,) = foreign.folder.iterdir()
    run = run_of(local_of(), tmp_path, steps=4)
    run.folder.mkdir(parents=True)
    (run.folder / path.name).write_bytes(path.read_bytes())
    steps: list[int] = []
    run.advance(report=lambda step, *_: steps.append(step))
    assert steps == [1, 2, 3, 4] and run.losses == whole.losses


def test_shapes_are_looked_at_before_anything_is_restored(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A checkpoint whose last tensors are others, though it says that it belongs to the run."""
    monkeypatch.setattr("cotune.tune.window._CHECKPOINT_EVERY", 2)
    run = run_of(local_of(), tmp_path, steps=4)
    run.advance(until=lambda: run.step == 3)
    (path,) = run.folder.iterdir()
    with safe_open(path, framework="pt") as stored:
        about, tensors = stored.metadata(), {name: stored.get_tensor(name) for name in stored.keys()}  # noqa: SIM118
    wanted = run_of(local_of(), tmp_path / "whole", steps=4)
    wanted.advance()
    for name in ("weight/head.bias", "exp_avg/head.bias"):
        path.write_bytes(save({**tensors, name: tensors[name][:1].clone()}, metadata=about))
        again = run_of(local_of(), tmp_path, steps=4)
        again.advance()
        assert again.losses == wanted.losses


def test_what_is_tuned_otherwise_has_another_key(tmp_path: Path) -> None:
    local = local_of()
    states = WindowStates(local, SEQUENCES, 1)
    keys = {
        run_of(local, tmp_path, states=states, **changes).key
        for changes in (
            {},
            {"last": 4},
            {"steps": 7},
            {"seed": 1},
            {"settings": replace(SETTINGS, smoothing=0.1)},
            {"start": "a"},
        )
    }
    assert len(keys) == 6 and run_of(local, tmp_path / "elsewhere", states=states).key in keys


def test_nothing_is_saved_before_it_is_tuned(tmp_path: Path) -> None:
    local = local_of()
    with pytest.raises(CotuneError, match="no tuned weights"):
        run_of(local, tmp_path).save(tmp_path)
    with pytest.raises(CotuneError, match="no rows"):
        WindowRun(
            local, WindowStates(local, SEQUENCES, 1), [], LABELS, 3, head_of(), SETTINGS, steps=1, seed=0, folder=tmp_path
        )


@pytest.mark.parametrize("what", ["loss", "gradient"])
def test_numbers_that_are_not_finite_stop_the_trial(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, what: str) -> None:
    run = run_of(local_of(), tmp_path)
    plain = run._loss

    def broken(hidden: Any, rows: Any) -> Any:
        loss = plain(hidden, rows)
        # An infinite slope where the loss itself is finite.
        return loss * torch.nan if what == "loss" else loss + 0 * (loss - loss).abs().sqrt()

    monkeypatch.setattr(run, "_loss", broken)
    with pytest.raises(DivergedError, match=f"the {what}.* in step 1"):
        run.advance()
    assert run.step == 0 and not run.losses


def test_a_pass_without_memory_is_run_in_halves(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wanted = run_of(local_of(), tmp_path / "wanted", steps=1)
    wanted.advance()
    run = run_of(local_of(), tmp_path, steps=1)
    plain, sizes = run._hidden, []

    def short_of_memory(rows: Any) -> Any:
        sizes.append(len(rows))
        if len(rows) > 2:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return plain(rows)

    monkeypatch.setattr(run, "_hidden", short_of_memory)
    monkeypatch.setattr(run, "settings", replace(run.settings, micro_tokens=len(PREFIX) + 40))
    run.advance()
    # All states first, then once more with their gradient.
    assert sizes[0] == 4 and sum(size for size in sizes if size <= 2) == 2 * 4
    for name, value in weights_of(wanted).items():
        np.testing.assert_allclose(weights_of(run)[name], value, atol=1e-5, err_msg=name)


def test_rates_rise_and_fall_to_zero() -> None:
    rates = [_rate(step, 20, 4.0) for step in range(20)]
    assert rates[:4] == pytest.approx([0.25, 0.5, 0.75, 1.0]) and rates[4] < 1
    falls = np.diff(rates[3:])
    assert (falls < 0).all() and np.ptp(falls) < 1e-9 and rates[-1] == pytest.approx(-falls[0])
    assert all(0 < _rate(step, steps, max(1.0, steps / 10)) <= 1 for steps in (1, 2, 3, 50) for step in range(steps))
    assert _rate(0, 1, 1.0) == 1


@pytest.mark.parametrize(
    ("contrast", "steps", "rise"), [(0.9, 1, 1), (0.9, 8, 4), (0.9, 50, 12), (0.9, 500, 50), (0.0, 8, 1), (0.0, 50, 5)]
)
def test_short_runs_with_the_contrastive_term_rise_over_half_of_their_steps(contrast: float, steps: int, rise: float) -> None:
    settings = WindowSettings(contrast=contrast)
    assert settings.rise(steps) == rise
    assert all(0 < _rate(step, steps, rise) <= 1 for step in range(steps))


def test_the_loss_of_several_fields_is_the_mean_of_theirs(tmp_path: Path) -> None:
    local = local_of()
    head, states = head_of(), WindowStates(local, SEQUENCES, 1)
    other = [(label + 1) % CLASSES for label in LABELS]

    def losses(labels: Any, head: StartHead, folder: str, sizes: tuple[int, ...] = ()) -> list[float]:
        run = WindowRun(
            local, states, range(10), labels, 3, head, SETTINGS, sizes=sizes, steps=2, seed=0, folder=tmp_path / folder
        )
        run.advance()
        return run.losses

    both = replace(head, weight=np.concatenate([head.weight] * 2), bias=np.concatenate([head.bias] * 2))
    pairs = [[label, CLASSES + more] for label, more in zip(LABELS, other, strict=True)]
    found, first, second = losses(pairs, both, "both", (3, 3)), losses(LABELS, head, "first"), losses(other, head, "second")
    assert found[0] == pytest.approx((first[0] + second[0]) / 2, rel=1e-5)
    assert found[1] != pytest.approx((first[1] + second[1]) / 2, rel=1e-5), "one adapter serves both fields"
