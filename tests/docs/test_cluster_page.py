"""The manifest on the page about clusters is one that KubeRay takes, and runs what cotune takes."""

from __future__ import annotations

import itertools
import re
import tomllib
from pathlib import Path
from typing import Any

import typer
import yaml
from packaging.requirements import Requirement

from cotune.cli import app
from cotune.executor import Choice

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "cluster.md").read_text(encoding="utf-8")


def manifest() -> dict[str, Any]:
    (block,) = re.findall(r"^```yml\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
    found: dict[str, Any] = yaml.safe_load(block)
    return found


def test_the_manifest_runs_a_command_that_there_is() -> None:
    job = manifest()
    assert (job["apiVersion"], job["kind"]) == ("ray.io/v1", "RayJob")
    assert set(job["spec"]) == {"entrypoint", "shutdownAfterJobFinishes", "backoffLimit", "rayClusterSpec"}
    words = job["spec"]["entrypoint"].split()
    commands: dict[str, Any] = typer.main.get_command(app).commands  # type: ignore[attr-defined]
    assert words[0] == "cotune" and not {word for word in words if word.startswith("--")} - {
        name for parameter in commands[words[1]].params for name in parameter.opts
    }
    named = dict(itertools.pairwise(words))
    choice = Choice.parse(named["--executor"], int(named["--workers"]))
    assert (choice.kind, choice.address) == ("ray", "auto")
    assert all(path.startswith("/shared/") for path in (words[2], words[3], named["--out"]))


def test_the_manifest_has_room_for_its_workers_and_what_they_share() -> None:
    cluster = manifest()["spec"]["rayClusterSpec"]
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["optional-dependencies"]
    assert Requirement(extras["ray"][0]).specifier.contains(cluster["rayVersion"])
    (group,) = cluster["workerGroupSpecs"]
    templates = [cluster["headGroupSpec"]["template"], group["template"]]
    for template in templates:
        pod = template["spec"]
        (container,) = pod["containers"]
        assert pod["securityContext"]["runAsNonRoot"] and container["image"] == templates[0]["spec"]["containers"][0]["image"]
        assert [mount["mountPath"] for mount in container["volumeMounts"]] == ["/shared"]
        assert {mount["name"] for mount in container["volumeMounts"]} == {volume["name"] for volume in pod["volumes"]}
    resources = templates[1]["spec"]["containers"][0]["resources"]
    assert cluster["headGroupSpec"]["rayStartParams"] == {"num-cpus": "0"}, "no worker runs beside the command"
    workers = int(re.findall(r"--workers (\d+)", manifest()["spec"]["entrypoint"])[0])
    assert group["replicas"] * int(resources["limits"]["cpu"]) == workers
    assert int(resources["limits"]["memory"].removesuffix("Gi")) >= 2 * int(resources["limits"]["cpu"])


def test_the_page_says_what_runs_on_an_executor() -> None:
    commands: dict[str, Any] = typer.main.get_command(app).commands  # type: ignore[attr-defined]
    takes = {name for name, command in commands.items() if any("--executor" in one.opts for one in command.params)}
    assert takes == {"predict", "embed", "doctor", "run"} and "## A run on workers" in PAGE
