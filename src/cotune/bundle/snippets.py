"""Python code that the pages of bundles, exports and repositories show.

Folders and names of models are given as Python, since some are texts, ``'"FOLDER/base"'``, and others variables, ``base``.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING

from cotune.probe.readout import ABOUT

if TYPE_CHECKING:
    from cotune.prompt.prompt import Prompt
    from cotune.prompt.render import Renderer

EXAMPLE = "example.json"
"""The file of an export with the prompt for a row whose fields contain their marks (:attr:`Asking.marks`)."""
_STANDARD: dict[str, tuple[str, ...]] = {"json": (), "sys": (), "urllib.request": ("Request", "urlopen")}
_INSTALLED: dict[str, tuple[str, ...]] = {
    "numpy": (),
    "torch": (),
    "huggingface_hub": ("hf_hub_download", "snapshot_download"),
    "onnxruntime": ("InferenceSession",),
    "peft": ("PeftModel",),
    "safetensors": ("safe_open",),
    "tokenizers": ("Tokenizer",),
    "transformers": ("AutoModel", "AutoModelForCausalLM", "AutoModelForSequenceClassification", "AutoTokenizer"),
}


def code_block(language: str, *lines: str) -> str:
    """Lines of code or text in Markdown."""
    text = "\n".join(lines)
    mark = "`" * max(3, 1 + max((len(run) for run in re.findall("`+", text)), default=0))
    return f"{mark}{language}\n{text}\n{mark}"


def python_block(*lines: str) -> str:
    """Lines of Python in Markdown, after the imports that they need."""
    code = "\n".join(lines)
    groups = [list(_imports(modules, code)) for modules in (_STANDARD, _INSTALLED)]
    return code_block("python", *(line for group in groups if group for line in (*group, "")), code)


def _imports(modules: Mapping[str, tuple[str, ...]], code: str) -> Iterator[str]:
    for module, names in modules.items():
        used = [name for name in names or (module,) if re.search(rf"(?<![\w./'\"]){name}[.(]", code)]
        if used:
            yield f"from {module} import {', '.join(used)}" if names else f"import {module}"


@dataclass(frozen=True)
class Ids:
    """How a text becomes the token ids that the model reads.

    Attributes:
        special: whether the tokenizer adds its control tokens to the text.
        beyond: number of tokens at the text's end that are not part of the prompt: those that the tokenizer merges with the
            answer, or an end token that it adds to every text.
        start: number of tokens at which the texts of all rows begin.
    """

    special: bool
    beyond: int = 0
    start: int = 0

    @classmethod
    def of(cls, renderer: Renderer, prompt: Prompt, fields: Sequence[str], labels: Sequence[str]) -> Ids:
        special, row = not renderer.chat, dict.fromkeys(fields, "a")
        if prompt.nearest:
            return cls(special)
        (rendered,) = renderer.render(prompt, [row], labels)
        whole = renderer.tokenizer(renderer.text(prompt, row, labels), add_special_tokens=special)["input_ids"]
        return cls(special, len(whole) - len(rendered.prompt_ids), rendered.start)

    def lines(self) -> list[str]:
        """Python that makes ``ids`` of ``prompt_text``, up to the position at which the model answers."""
        ids = f'ids = tokenizer(prompt_text, add_special_tokens={self.special}, return_tensors="pt")'
        cut = f"ids = {{name: part[:, :{-self.beyond}] for name, part in ids.items()}}  # the model answers before these"
        return [ids, cut] if self.beyond else [ids]

    def state(self, joined: str = "torch.cat", axis: str = "dim") -> str:
        """Python that computes a probe's input from ``states`` ``[tokens, width]``."""
        return f"state = {joined}([states[-1], states[{self.start}:].mean({axis}=0)])"


def row_code(marks: Mapping[str, str], said: str | None = None) -> str:
    """A row in Python, a text if it has one field; its texts are ``said``, or else the marks of its fields."""
    texts = [said or mark for mark in marks.values()]
    return repr(dict(zip(marks, texts, strict=True)) if len(texts) > 1 else texts[0])


def longest_first(marks: Mapping[str, str]) -> list[tuple[str, str]]:
    """Fields with their marks, in the order in which to replace them: a mark may begin another."""
    return sorted(marks.items(), key=lambda item: len(item[1]), reverse=True)


def prompt_lines(
    marks: Mapping[str, str] = MappingProxyType({}), said: str | None = None, example: str = f'"FOLDER/{EXAMPLE}"'
) -> list[str]:
    """Python that makes ``prompt_text``, the text that the model reads, with the fields of :func:`row_code` filled in."""
    return [
        f'with open({example}, encoding="utf-8") as file:',
        '    prompt_text = json.load(file)["prompt_text"]',
        *(
            f'prompt_text = prompt_text.replace("{mark}", {row_code({name: mark}, said)})  # put your text in the second place'
            for name, mark in longest_first(marks)
        ),
    ]


def filled_lines(module: str, row: str, folder: str = '"FOLDER"') -> list[str]:
    """Python that answers a row by a module in an export's folder, which fills in the prompt."""
    return [
        f"sys.path.insert(0, {folder})",
        f"from {module} import load",
        "",
        f"classify = load({folder})",
        f'print(classify([{row}])[0]["label"])  # put your own row here',
    ]


def model_lines(auto: str, model: str, options: str = "", *, adapter: str = "") -> list[str]:
    """Python that loads ``tokenizer`` and ``model``, with a PEFT adapter if there is one."""
    return [
        f"tokenizer = AutoTokenizer.from_pretrained({model})",
        f"model = {auto}.from_pretrained({model}{options})",
        *([f"model = PeftModel.from_pretrained(model, {adapter})"] if adapter else []),
    ]


def whole_model_lines(base: str, options: str = "", *, adapter: str = "") -> list[str]:
    """The same for the whole base model, whose place the reader fills in; ``base`` is its name for readers."""
    place = f'base = "FOLDER OR HUB ID OF THE BASE MODEL"  # {base}'
    return [place, *model_lines("AutoModelForCausalLM", "base", options, adapter=adapter)]


def probe_lines(path: str, framework: str = "pt") -> list[str]:
    """Python that reads ``labels``, ``weight`` and ``bias`` from a probe's file."""
    return [
        f'with safe_open("{path}", "{framework}") as probe:',
        f'    labels = json.loads(probe.metadata()["{ABOUT}"])["labels"]',
        '    weight, bias = probe.get_tensor("weight"), probe.get_tensor("bias")',
    ]
