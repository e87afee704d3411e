"""A minimal tokenizer without transformers, with the methods that rendering prompts and reading answers need.

It is used only if a first load has shown that it equals the one of transformers (:mod:`cotune.model.loading.minimal_check`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from cotune.files import load_json

_NAMED = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")


class LightTokenizer:
    """The tokenizer of a folder's ``tokenizer.json`` and chat template. Other attributes come from transformers' tokenizer.

    Raises:
        ValueError, KeyError: if the folder contains another kind of tokenizer.
        OSError: if it cannot be read.
    """

    def __init__(self, folder: Path) -> None:
        from tokenizers import Tokenizer

        self._folder = folder
        self.inner = Tokenizer.from_str((folder / "tokenizer.json").read_text(encoding="utf-8"))
        self.inner.no_truncation()
        self.inner.no_padding()
        config = load_json(folder / "tokenizer_config.json")
        template = folder / "chat_template.jinja"
        self.chat_template: str | None = (
            template.read_text(encoding="utf-8") if template.is_file() else config.get("chat_template")
        )
        self._named = {
            name: token["content"] if isinstance(token, Mapping) else token
            for name, token in config.items()
            if name in _NAMED and token is not None
        }

    def __call__(
        self,
        texts: str | Sequence[str],
        *,
        add_special_tokens: bool = True,
        return_offsets_mapping: bool = False,
        **more: Any,
    ) -> Any:
        """``input_ids`` and, on request, ``offset_mapping`` of a text or of several texts."""
        if more:
            return self.whole(
                texts, add_special_tokens=add_special_tokens, return_offsets_mapping=return_offsets_mapping, **more
            )
        several = [texts] if isinstance(texts, str) else list(texts)
        encodings = self.inner.encode_batch(several, add_special_tokens=add_special_tokens)
        result: dict[str, Any] = {"input_ids": [one.ids for one in encodings]}
        if return_offsets_mapping:
            result["offset_mapping"] = [one.offsets for one in encodings]
        return {name: value[0] for name, value in result.items()} if isinstance(texts, str) else result

    def __len__(self) -> int:
        return int(self.inner.get_vocab_size(with_added_tokens=True))

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return getattr(self.whole, name)

    @cached_property
    def whole(self) -> Any:
        from transformers import AutoTokenizer

        return AutoTokenizer.from_pretrained(self._folder, local_files_only=True, trust_remote_code=False)

    @property
    def added_tokens_decoder(self) -> dict[int, Any]:
        """Added tokens by id, including control tokens."""
        decoder: dict[int, Any] = self.inner.get_added_tokens_decoder()
        return decoder

    @property
    def eos_token_id(self) -> int | None:
        token = self._named.get("eos_token")
        token_id: int | None = None if token is None else self.inner.token_to_id(token)
        return token_id

    def convert_tokens_to_ids(self, token: Any) -> Any:
        token_id = self.inner.token_to_id(token) if isinstance(token, str) else None
        return self.whole.convert_tokens_to_ids(token) if token_id is None else token_id

    def decode(
        self, ids: Any, *, skip_special_tokens: bool = False, clean_up_tokenization_spaces: bool | None = None, **more: Any
    ) -> Any:
        if more or clean_up_tokenization_spaces is not False:
            more["clean_up_tokenization_spaces"] = clean_up_tokenization_spaces
            return self.whole.decode(ids, skip_special_tokens=skip_special_tokens, **more)
        return self.inner.decode(list(ids), skip_special_tokens=skip_special_tokens)

    def apply_chat_template(
        self, messages: Any, *, tokenize: bool = True, add_generation_prompt: bool = False, **more: Any
    ) -> Any:
        """Render a conversation as text."""
        if tokenize or more:
            more["tokenize"] = tokenize
            return self.whole.apply_chat_template(messages, add_generation_prompt=add_generation_prompt, **more)
        return self._template.render(messages=messages, add_generation_prompt=add_generation_prompt, **self._named)

    @cached_property
    def _template(self) -> Any:
        from jinja2 import TemplateError
        from jinja2.meta import find_undeclared_variables
        from jinja2.sandbox import ImmutableSandboxedEnvironment

        def refuse(message: str) -> None:
            raise TemplateError(message)

        environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True)
        # Transformers defines further variables for templates; these are not available here.
        environment.globals = {"raise_exception": refuse}
        del environment.filters["tojson"]
        text = self.chat_template or ""
        available = {"messages", "add_generation_prompt", *environment.globals, *self._named}
        if others := find_undeclared_variables(environment.parse(text)) - available:
            raise ValueError(f"the chat template reads {sorted(others)}")
        return environment.from_string(text)
