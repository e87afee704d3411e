"""The peers: which script runs each, in which environment, with which settings, how long at most."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any

from cotune.errors import InputError

HERE = Path(__file__).resolve().parent
REFERENCE = "cotune_3m"
"""Whom the others are compared with unless something else is said."""
SERVER = "llama_server"
"""Environment of llama-cpp-python's server, for peers that ask a served model."""

_MINUTE = 60.0


@dataclass(frozen=True)
class Peer:
    """One way to get answers from labelled rows.

    Attributes:
        name: in cells and on the command line.
        told: in tables.
        script: file below ``peers/``.
        environment: name of its virtual environment and of its file below ``requirements/``; empty where it runs in the
            harness's own, which is the cotune that is compared.
        options: what the script is told.
        kinds: of answers that it can give.
        limit_s: seconds after which it is killed.
        small_model: whether it stands on the bundled model.
        served: whether it asks the bundled model behind llama-cpp-python's server.
        sees_test_labels: whether it is handed the labelled test file: cotune's run, which keeps it sealed.
    """

    name: str
    told: str
    script: str
    environment: str
    options: Mapping[str, Any] = field(default_factory=lambda: MappingProxyType({}))
    kinds: frozenset[str] = frozenset({"label"})
    limit_s: float = 60 * _MINUTE
    small_model: bool = True
    served: bool = False
    sees_test_labels: bool = False


def _cotune(budget: str, kinds: Sequence[str] = ("label", "number", "json")) -> Peer:
    return Peer(
        f"cotune_{budget}",
        f"cotune, `--budget {budget}`",
        "cotune_run.py",
        "",
        {"budget": budget},
        frozenset(kinds),
        sees_test_labels=True,
    )


def _dspy(name: str, told: str, optimizer: str) -> Peer:
    return Peer(name, told, "dspy_programs.py", "dspy", {"optimizer": optimizer}, limit_s=15 * _MINUTE, served=True)


_WRITTEN, _MEASURED = frozenset({"json"}), frozenset({"label", "number"})

PEERS: Mapping[str, Peer] = MappingProxyType(
    {
        peer.name: peer
        for peer in (
            _cotune("1m"),
            _cotune("3m"),
            _cotune("8m"),
            _cotune("20m", ["json"]),
            Peer("majority", "majority", "majority.py", "majority", kinds=_MEASURED, small_model=False),
            Peer("tfidf", "TF-IDF + regression", "tfidf.py", "tfidf", kinds=_MEASURED, small_model=False),
            Peer("minilm_lr", "MiniLM + regression", "minilm_lr.py", "minilm_lr", kinds=_MEASURED, small_model=False),
            Peer("crf", "CRF of word features", "crf.py", "crf", kinds=_WRITTEN, small_model=False),
            Peer("palp", "last-layer probe (PALP)", "palp.py", "palp"),
            Peer("zero_shot", "zero-shot words", "zero_shot.py", "zero_shot"),
            Peer("peft_lora", "PEFT LoRA classifier", "peft_lora.py", "peft_lora"),
            Peer("setfit", "SetFit on MiniLM", "setfit_minilm.py", "setfit", small_model=False),
            Peer("fastfit", "FastFit on MiniLM", "fastfit_minilm.py", "fastfit", small_model=False),
            Peer("trl_sft", "TRL SFTTrainer", "trl_sft.py", "trl_sft", kinds=frozenset({"label", "json"})),
            Peer("zero_shot_json", "zero-shot, same grammar", "zero_shot_json.py", "zero_shot_json", kinds=_WRITTEN),
            _dspy("dspy_bootstrap", "DSPy BootstrapFewShot", "bootstrap"),
            _dspy("dspy_mipro", "DSPy MIPROv2", "mipro"),
            _dspy("dspy_gepa", "DSPy GEPA", "gepa"),
            Peer(
                "promptolution_capo", "promptolution CAPO", "promptolution_capo.py", "promptolution",
                limit_s=15 * _MINUTE, served=True,
            ),
        )
    }
)  # fmt: skip


def is_ours(name: str) -> bool:
    """Whether a peer's name is that of cotune with some budget."""
    return name.startswith("cotune")


def peers_named(names: Sequence[str] | None) -> list[Peer]:
    """The peers of these names, all where None.

    Raises:
        InputError: there is none of a name.
    """
    for name in names or ():
        if name not in PEERS:
            raise InputError(f"there is no peer {name!r}", where="--peers", hint=f"There are: {', '.join(PEERS)}.")
    return [PEERS[name] for name in (names or PEERS)]
