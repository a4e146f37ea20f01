"""The manifests: valid, true to the command line and the service, and closed as far as a cluster allows."""

import json
import re
import sys

import pytest
import yaml
from deployment import DEPLOY, KUBERNETES, ROOT, documents, entrypoint, environment, objects, parsed, said

from polyfold import __version__
from polyfold.serve.access.keys import Keys
from toys import write_toy_folder

sys.path.insert(0, str(ROOT / "tests" / "serve"))

from server_process import running

APART = {"keys.example.yaml", "kustomization.yaml", "prometheus-adapter.yaml"}
"""Files that are not applied with the others."""

LABEL = {"app.kubernetes.io/name": "polyfold"}
FOREIGN = {"Kustomization", "ServiceMonitor"}
"""Kinds that are no part of Kubernetes itself, for which there are no schemas here."""


@pytest.fixture(scope="module")
def found():
    return objects()


@pytest.fixture(scope="module")
def pod(found):
    return found["Deployment"]["spec"]["template"]["spec"]


@pytest.fixture(scope="module")
def container(pod):
    (one,) = pod["containers"]
    return one


@pytest.fixture(scope="module")
def settings(container):
    """The command line of the pod, with the limit that Kubernetes puts in for the variable."""
    words = [
        word.replace("$(POLYFOLD_THREADS)", container["resources"]["limits"]["cpu"]) for word in container["args"]
    ]
    return parsed([*entrypoint()[2:], *words])


@pytest.fixture(scope="module")
def service(container, settings, tmp_path_factory):
    """The pod's command on a port of this machine, with a toy in the place of the model and the example's keys."""
    root = tmp_path_factory.mktemp("pod")
    (model,) = settings["models"]
    write_toy_folder(root / "models" / "feedback" / "1", "onnxruntime")
    (root / "keys.yaml").write_text(objects()["Secret"]["stringData"]["keys.yaml"], encoding="utf8")
    (root / "keys.yaml").chmod(0o600)
    words = [
        word.replace("/models", f"{root}/models").replace("/keys/keys.yaml", f"{root}/keys.yaml")
        for word in container["args"]
    ]
    words = [word.replace("$(POLYFOLD_THREADS)", "1") for word in words]
    assert words[0].endswith(model.partition("=")[2])
    with running(words[:1], *words[1:]) as server:
        yield server


def test_every_object_fits_the_schemas_of_every_version_that_they_are_meant_for(found):
    validate = pytest.importorskip("kubernetes_validate", reason="pip install kubernetes-validate (108 MB)")
    newest = int(validate.latest_version().split(".")[1])
    # `preStop.sleep` is known from 1.29 on.
    versions = [f"1.{minor}" for minor in range(30, newest + 1)]
    assert len(versions) >= 5
    checked = 0
    for kind, one in found.items():
        if kind not in FOREIGN:
            for version in versions:
                validate.validate(one, version, strict=True)
                checked += 1
    assert checked == 8 * len(versions)
    broken = json.loads(json.dumps(found["Deployment"]).replace("readinessProbe", "readynessProbe"))
    with pytest.raises(validate.ValidationError):
        validate.validate(broken, newest and f"1.{newest}", strict=True)


def test_all_files_are_applied_together_but_those_that_say_why_not():
    (kustomization,) = documents(KUBERNETES / "kustomization.yaml")
    files = {path.name for path in KUBERNETES.glob("*.yaml")}
    assert len(files) == 11
    assert set(kustomization["resources"]) == files - APART
    assert kustomization["namespace"] == objects()["Namespace"]["metadata"]["name"]


def test_the_image_is_that_of_this_version(container):
    (kustomization,) = documents(KUBERNETES / "kustomization.yaml")
    (image,) = kustomization["images"]
    assert container["image"] == f"{image['name']}:{__version__}"
    assert image["newTag"] == __version__


def test_everything_is_about_the_same_pods(found):
    pods = found["Deployment"]["spec"]["template"]["metadata"]["labels"]
    assert pods == LABEL
    assert found["Deployment"]["spec"]["selector"]["matchLabels"] == LABEL
    assert found["Service"]["spec"]["selector"] == found["Service"]["metadata"]["labels"] == LABEL
    for kind, place in (
        ("PodDisruptionBudget", "selector"),
        ("NetworkPolicy", "podSelector"),
        ("ServiceMonitor", "selector"),
    ):
        assert found[kind]["spec"][place] == {"matchLabels": LABEL}
    target = found["HorizontalPodAutoscaler"]["spec"]["scaleTargetRef"]
    assert (target["kind"], target["name"]) == ("Deployment", found["Deployment"]["metadata"]["name"])
    # A number there would undo the autoscaler's at every apply.
    assert "replicas" not in found["Deployment"]["spec"]


def test_every_port_is_the_one_that_the_service_listens_at(found, container, settings):
    (port,) = container["ports"]
    assert port["containerPort"] == settings["port"] == int(said("EXPOSE"))
    assert settings["host"] == "0.0.0.0"
    named = [container[probe]["httpGet"]["port"] for probe in ("startupProbe", "readinessProbe", "livenessProbe")]
    named += [one["targetPort"] for one in found["Service"]["spec"]["ports"]]
    named += [one["port"] for rule in found["NetworkPolicy"]["spec"]["ingress"] for one in rule["ports"]]
    assert set(named) == {port["name"]} and len(named) == 5
    assert [one["port"] for one in found["ServiceMonitor"]["spec"]["endpoints"]] == [
        found["Service"]["spec"]["ports"][0]["name"]
    ]


def test_a_pod_is_given_longer_to_end_than_it_takes(pod, container, settings):
    asleep = container["lifecycle"]["preStop"]["sleep"]["seconds"]
    assert asleep > 0 and settings["drain"] > 0
    # And a second for the last words.
    assert pod["terminationGracePeriodSeconds"] > asleep + settings["drain"] + 1


def test_a_cold_start_is_waited_for_and_a_busy_pod_is_not_restarted(container):
    start, live = container["startupProbe"], container["livenessProbe"]
    assert start["periodSeconds"] * start["failureThreshold"] >= 60
    assert live["httpGet"]["path"] == "/live" != start["httpGet"]["path"]
    assert live["periodSeconds"] * live["failureThreshold"] >= 30


def test_the_pod_meets_the_restricted_standard(found, pod, container):
    user, group = map(int, said("USER").split(":"))
    context = pod["securityContext"]
    assert context["runAsNonRoot"] is True
    assert (context["runAsUser"], context["runAsGroup"], context["fsGroup"]) == (user, group, group)
    assert context["seccompProfile"] == {"type": "RuntimeDefault"}
    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    assert {"hostNetwork", "hostPID", "hostIPC"}.isdisjoint(pod)
    assert {name for volume in pod["volumes"] for name in volume} == {
        "name",
        "persistentVolumeClaim",
        "secret",
        "emptyDir",
    }
    assert pod["automountServiceAccountToken"] is False
    assert found["Namespace"]["metadata"]["labels"]["pod-security.kubernetes.io/enforce"] == "restricted"


def test_only_the_cache_can_be_written_and_all_that_the_command_names_is_mounted(pod, container, settings):
    mounts = {one["mountPath"]: one for one in container["volumeMounts"]}
    assert {one["name"] for one in mounts.values()} == {one["name"] for one in pod["volumes"]}
    assert [path for path, one in mounts.items() if not one.get("readOnly")] == [environment()["POLYFOLD_CACHE"]]
    named = [model.partition("=")[2] for model in settings["models"]] + [settings["repository"], settings["keys"]]
    for path in map(str, named):
        assert any(path == mount or path.startswith(f"{mount}/") for mount in mounts), path
    # A file mounted with subPath is never changed in a running pod, and keys are.
    assert not any("subPath" in one for one in mounts.values())


def test_threads_are_as_many_as_the_processor_time_pays_for(container, settings):
    resources = container["resources"]
    assert resources["limits"] == resources["requests"]
    (variable,) = container["env"]
    assert (
        variable["name"] == "POLYFOLD_THREADS"
        and variable["valueFrom"]["resourceFieldRef"]["resource"] == "limits.cpu"
    )
    assert settings["threads"] == int(resources["limits"]["cpu"])


def test_the_volume_claims_and_secrets_named_are_those_that_are_made(found, pod):
    volumes = {one["name"]: one for one in pod["volumes"]}
    assert (
        volumes["models"]["persistentVolumeClaim"]["claimName"]
        == found["PersistentVolumeClaim"]["metadata"]["name"]
    )
    assert volumes["keys"]["secret"]["secretName"] == found["Secret"]["metadata"]["name"]
    # Readable for the pod's group, for nobody else.
    assert volumes["keys"]["secret"]["defaultMode"] == 0o440


def test_the_example_of_keys_is_one(found):
    (content,) = found["Secret"]["stringData"].values()
    keys = Keys.model_validate(yaml.safe_load(content))
    assert {role for one in keys.keys for role in one.roles} == {"predict", "admin"}
    assert keys.keys[0].allowance.texts_per_day


def test_it_scales_on_the_tokens_that_wait_long_before_requests_are_refused(found, settings):
    spec = found["HorizontalPodAutoscaler"]["spec"]
    (pods,) = [one["pods"] for one in spec["metrics"] if one["type"] == "Pods"]
    (values,) = documents(KUBERNETES / "prometheus-adapter.yaml")
    (rule,) = values["rules"]["custom"]
    assert pods["metric"]["name"] == rule["name"]["as"] == rule["seriesQuery"].partition("{")[0]
    waiting = int(pods["target"]["averageValue"].removesuffix("k")) * 1000
    assert 0 < waiting <= settings["queue_tokens"] / 10
    assert 1 < spec["minReplicas"] < spec["maxReplicas"]
    # One may always go, or no node could ever be emptied.
    assert found["PodDisruptionBudget"]["spec"]["maxUnavailable"] == 1


def test_that_many_tokens_are_a_fraction_of_a_second_of_work():
    measured = json.loads((ROOT / "docs" / "results" / "speed" / "benchmark.json").read_bytes())
    tokens = measured["texts"]["mean_tokens"]
    (entry,) = [one for one in measured["entries"] if one["name"].startswith("minilm.") and "int8" in one["name"]][
        :1
    ]
    rate = entry["speed"]["real_text"]["timing"]["documents_per_second"] * tokens
    assert 0.05 < 10_000 / rate < 0.6


def test_the_command_starts_and_every_path_that_is_asked_for_answers(service, found, container):
    httpx = pytest.importorskip("httpx")
    with httpx.Client(base_url=service.url) as client:
        paths = [
            container[probe]["httpGet"]["path"] for probe in ("startupProbe", "readinessProbe", "livenessProbe")
        ]
        paths += [one["path"] for one in found["ServiceMonitor"]["spec"]["endpoints"]]
        assert len(set(paths)) == 3
        assert [client.get(path).status_code for path in paths] == [200] * 4
        # The example's keys are in force, and nobody has them.
        assert client.post("/predict", json={"text": "w1"}).status_code == 401
        assert re.search(
            r'^polyfold_queue_tokens\{[^}]*model="feedback"', client.get("/metrics").text, re.MULTILINE
        )


def test_the_readme_names_every_file():
    text = (DEPLOY / "README.md").read_text(encoding="utf8")
    files = [path for path in DEPLOY.rglob("*") if path.is_file() and path.name != "README.md"]
    assert len(files) >= 13
    assert [path.name for path in files if path.name not in text] == []
    links = re.findall(r"\]\(([^)\s]+)\)", text)
    assert len(links) > 10
    assert [link for link in links if not (DEPLOY / link).exists()] == []
