"""What `deploy/` says, read as tools read it, and the command line that it speaks to."""

import json
import re
from fnmatch import fnmatch
from pathlib import Path

import typer
import yaml

from polyfold import cli

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy"
KUBERNETES = DEPLOY / "kubernetes"
DOCKERFILE = DEPLOY / "Dockerfile"


def instructions():
    """The Dockerfile's instructions in order, as (NAME, rest); continued lines are one."""
    lines = [
        line for line in DOCKERFILE.read_text(encoding="utf8").splitlines() if not line.lstrip().startswith("#")
    ]
    joined = re.sub(r"\\\n\s*", " ", "\n".join(lines))
    return [tuple(line.split(maxsplit=1)) for line in joined.splitlines() if line.strip()]


def final_stage():
    """Those of the stage that becomes the image."""
    found = instructions()
    start = max(place for place, (name, _) in enumerate(found) if name == "FROM")
    return found[start:]


def said(name):
    """What the final stage says last under this name."""
    return [rest for one, rest in final_stage() if one == name][-1]


def environment():
    """The final stage's ENV."""
    return dict(pair.split("=", 1) for name, rest in final_stage() if name == "ENV" for pair in rest.split())


def entrypoint():
    """The words of ENTRYPOINT."""
    return json.loads(said("ENTRYPOINT"))


def is_sent(path):
    """Whether `.dockerignore` lets a path through to the build: the last pattern that fits decides."""
    parts = path.split("/")
    above = ["/".join(parts[:end]) for end in range(1, len(parts) + 1)]
    sent = True
    for line in (ROOT / ".dockerignore").read_text(encoding="utf8").splitlines():
        if not line or line.startswith("#"):
            continue
        pattern = line.removeprefix("!")
        deep = pattern.removeprefix("**/")
        tried = parts if pattern.startswith("**/") else [one for one in above if one.count("/") == deep.count("/")]
        if any(fnmatch(one, deep) for one in tried):
            sent = line.startswith("!")
    return sent


def parsed(words):
    """The values of `polyfold serve` for these words, by the command line's own parser; a wrong one raises."""
    command = typer.main.get_command(cli.app).commands["serve"]
    return command.make_context("serve", list(words)).params


def documents(path):
    """Every document of a YAML file."""
    return list(yaml.safe_load_all(path.read_text(encoding="utf8")))


def objects():
    """What is given to Kubernetes, by kind; each kind once."""
    found = [one for path in sorted(KUBERNETES.glob("*.yaml")) for one in documents(path) if "kind" in one]
    kinds = {one["kind"]: one for one in found}
    assert len(kinds) == len(found) == 10
    return kinds
