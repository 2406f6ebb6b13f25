"""What stands in ``infra/`` is well formed, is what its own tools take, and names nothing that is not there.

There is no container engine and no cluster here: nothing is built or run. Dockerfiles are linted, YAML is held against
the schemas of Compose and Kubernetes, and every flag, variable and metric is looked up in what it is a flag of.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import click
import pytest
import yaml

from api.cli import cli
from api.service.meter import Meter

ROOT = Path(__file__).resolve().parents[2]
INFRA = ROOT / "infra"
MANIFESTS = sorted((INFRA / "kubernetes").glob("*.yaml"))
OURS = ("data_engine", "scorers", "storage", "flows", "api")


def documents(path: Path) -> list[dict]:
    return [each for each in yaml.safe_load_all(path.read_text()) if each]


def pods() -> list[tuple[str, dict]]:
    """Every pod that a manifest makes, by where it stands."""
    found = []

    def walk(where: str, value: object) -> None:
        if isinstance(value, dict):
            if "containers" in value:
                found.append((where, value))
            for key, inner in value.items():
                walk(f"{where}.{key}", inner)
        elif isinstance(value, list):
            for number, inner in enumerate(value):
                walk(f"{where}.{number}", inner)

    for path in MANIFESTS:
        for document in documents(path):
            walk(f"{path.name}:{document['kind']}", document)
    return found


def invocations() -> list[tuple[str, list[str]]]:
    """Every command of ours that a file here starts, or tells to start."""
    found = []
    for name, service in yaml.safe_load((INFRA / "compose.yaml").read_text())["services"].items():
        if service.get("image", "").startswith("${DATA_ENGINE_IMAGE") and "entrypoint" not in service:
            found.append((f"compose {name}", [str(each) for each in service["command"]]))
    for where, pod in pods():
        ours = (each for each in pod["containers"] if each["image"].startswith("data-engine"))
        found += [(where, each["args"]) for each in ours if "args" in each and "command" not in each]
    for path in (*INFRA.rglob("*.yaml"), *INFRA.rglob("*.md"), *INFRA.rglob("*.Dockerfile")):
        for line in path.read_text().replace("\\\n", " ").splitlines():
            for said in re.findall(r"(?:data-engine|run --rm api) ((?:[a-z]+ )[^`#|>&\n;]*|doctor)", line):
                words = said.split()
                if words and words[0] in cli.commands and not said.startswith("make"):
                    found.append((path.name, words))
    return found


def test_there_is_something_to_check():
    assert len(MANIFESTS) > 6 and len(pods()) >= 6 and len(invocations()) > 10


@pytest.mark.parametrize("path", sorted(INFRA.rglob("*.Dockerfile")), ids=lambda path: path.name)
def test_dockerfiles_pass_hadolint(path):
    hadolint = shutil.which("hadolint", path=sysconfig.get_path("scripts"))
    if hadolint is None:
        pytest.skip("hadolint is not installed")
    done = subprocess.run([hadolint, str(path)], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout
    text = path.read_text()
    assert re.search(r"^USER 10001", text, re.MULTILINE)
    for name in OURS:
        assert f"COPY {name} {name}" in text and (ROOT / name).is_dir()
    allowed = (path.parent / f"{path.name}.dockerignore").read_text()
    for source in re.findall(r"^COPY (?!--from)(.+) \S+$", text, re.MULTILINE):
        for each in source.split():
            assert (ROOT / each).exists() and f"!{each}\n" in allowed


def test_yaml_is_tidy():
    done = subprocess.run([sys.executable, "-m", "yamllint", "-s", "-c", str(INFRA / ".yamllint"), str(INFRA)],
                          capture_output=True, text=True)  # fmt: skip
    assert done.returncode == 0, done.stdout


def test_the_compose_file_is_one():
    pytest.importorskip("check_jsonschema")
    schema = ["--builtin-schema", "vendor.compose-spec"]  # it comes with the checker
    done = subprocess.run([sys.executable, "-m", "check_jsonschema", *schema, str(INFRA / "compose.yaml")],
                          capture_output=True, text=True)  # fmt: skip
    assert done.returncode == 0, done.stdout
    compose = yaml.safe_load((INFRA / "compose.yaml").read_text())
    assert {"api", "worker", "prefect", "postgres", "ray-head", "store"} <= set(compose["services"])
    asked = set(re.findall(r"\$\{([A-Z0-9_]+)", (INFRA / "compose.yaml").read_text()))
    given = set(re.findall(r"^([A-Z0-9_]+)=", (INFRA / "compose.env.example").read_text(), re.MULTILINE))
    assert asked == given
    for name, service in compose["services"].items():
        assert "mem_limit" in service or name == "bucket", name
        for port in service.get("ports", ()):
            assert port.startswith("127.0.0.1:"), name
        for dependency, how in service.get("depends_on", {}).items():
            healthy = how["condition"] == "service_healthy"
            assert not healthy or "healthcheck" in compose["services"][dependency]
        for volume in service.get("volumes", ()):
            at = volume.partition(":")[0]
            assert at in compose["volumes"] or at.startswith("${")


@pytest.mark.parametrize("path", MANIFESTS, ids=lambda path: path.name)
def test_manifests_are_kubernetes(path):
    validate = pytest.importorskip("kubernetes_validate")
    for document in documents(path):
        if document["apiVersion"].startswith(("ray.io/", "kustomize.")):  # not Kubernetes' own: see the next test
            continue
        validate.validate(document, "1.37", strict=True)
        assert document["kind"] == "Namespace" or document["metadata"]["namespace"] == "data-engine"


def test_ray_is_one_version_everywhere_and_its_clusters_are_shaped_as_kuberay_wants():
    (pinned,) = re.findall(r"^ray==(.+)$", (ROOT / "constraints.txt").read_text(), re.MULTILINE)
    clusters = [document["spec"] for document in documents(INFRA / "kubernetes/ray.yaml")]
    for cluster in clusters:
        assert cluster["rayVersion"] == pinned
        groups = [cluster["headGroupSpec"], *cluster.get("workerGroupSpecs", ())]
        for group in groups:
            assert isinstance(group["rayStartParams"], dict)
            assert all(isinstance(value, str) for value in group["rayStartParams"].values())
            names = {each["name"] for container in group["template"]["spec"]["containers"] for each in container["env"]}
            assert {"RAY_AUTH_MODE", "RAY_AUTH_TOKEN"} <= names
        for group in groups[1:]:
            assert group["minReplicas"] <= group["replicas"] <= group["maxReplicas"]
            assert re.fullmatch(r"[a-z][a-z0-9-]{0,62}", group["groupName"])


def test_every_file_is_applied_or_an_example():
    (kustomization,) = documents(INFRA / "kubernetes/kustomization.yaml")
    applied = set(kustomization["resources"]) | {"kustomization.yaml"}
    assert {path.name for path in MANIFESTS if ".example." not in path.name} == applied
    secrets = {
        document["metadata"]["name"]: document for document in documents(INFRA / "kubernetes/secrets.example.yaml")
    }
    texts = "".join(path.read_text() for path in MANIFESTS)
    for name, key in re.findall(r"secretKeyRef: \{name: (\w+), key: (\w+)\}", texts):
        assert key in secrets[name]["stringData"]
    for name in re.findall(r"secretRef: \{name: (\w+)\}", texts):
        assert name in secrets
    for path in INFRA.rglob("*"):
        if path.is_file():
            assert not re.search(r"(AKIA[0-9A-Z]{16}|password: [a-z0-9]{8,}$)", path.read_text(), re.MULTILINE)


@pytest.mark.parametrize(("where", "pod"), pods(), ids=[where for where, _ in pods()])
def test_pods_are_locked_down_bounded_and_watched(where, pod):
    context = pod["securityContext"]
    assert context["runAsNonRoot"] is True and context["runAsUser"] == 10001
    assert context["seccompProfile"]["type"] == "RuntimeDefault"
    assert pod["automountServiceAccountToken"] is False
    volumes = {volume["name"] for volume in pod["volumes"]}
    for container in pod["containers"]:
        assert container["securityContext"] == {
            "allowPrivilegeEscalation": False, "readOnlyRootFilesystem": True, "capabilities": {"drop": ["ALL"]},
        }  # fmt: skip
        mounted = {mount["mountPath"]: mount["name"] for mount in container["volumeMounts"]}
        assert set(mounted.values()) <= volumes
        assert {"/tmp", "/var/cache/data-engine"} <= set(mounted)  # all that it writes beside the lake
        assert {"cpu", "memory"} <= set(container["resources"]["limits"]) & set(container["resources"]["requests"])
        assert "readinessProbe" in container


def test_every_command_of_ours_is_one():
    for where, words in invocations():
        command: click.Command = cli
        rest = list(words)
        while isinstance(command, click.Group) and rest:
            found = command.get_command(click.Context(command), rest.pop(0))
            assert found is not None, (where, words)
            command = found
        flags = {flag for each in command.params for flag in (*each.opts, *each.secondary_opts)} | {"--help"}
        used = [word.partition("=")[0] for word in rest if word.startswith("--")]
        assert set(used) <= flags, (where, words)
        if command.name == "serve":
            host = rest[rest.index("--host") + 1] if "--host" in rest else "127.0.0.1"
            assert ("--no-keys" not in rest) or host == "127.0.0.1", where


def test_every_variable_is_one_that_something_reads():
    import prefect.settings
    import ray

    sources = "".join(path.read_text() for name in OURS for path in (ROOT / name).rglob("*.py"))
    inside = Path(ray.__file__).parent
    ray_source = (inside / "exceptions.py").read_text() + (inside / "_private/runtime_env/image_uri.py").read_text()
    named = set()
    compose = yaml.safe_load((INFRA / "compose.yaml").read_text())
    for service in compose["services"].values():
        if service.get("image", "").startswith("${DATA_ENGINE_IMAGE"):
            named |= set(service.get("environment", {})) - {"BUCKETS"}
    for _, pod in pods():
        for container in pod["containers"]:
            named |= {each["name"] for each in container.get("env", ())}
    for path in INFRA.rglob("*.Dockerfile"):
        named |= set(re.findall(r"\b([A-Z][A-Z0-9_]+)=", "".join(re.findall(r"ENV (?:.*\\\n)*.*", path.read_text()))))
    for document in documents(INFRA / "kubernetes/config.yaml"):
        named |= set(document.get("data", {}))
    known_elsewhere = {"PATH", "PYTHONSAFEPATH", "PYTHONUNBUFFERED", "MPLCONFIGDIR", "NVIDIA_VISIBLE_DEVICES",
                       "NVIDIA_DRIVER_CAPABILITIES", "PIP_DISABLE_PIP_VERSION_CHECK", "PIP_NO_CACHE_DIR"}  # fmt: skip
    for name in sorted(named - known_elsewhere):
        if name.startswith("PREFECT_"):
            assert hasattr(prefect.settings, name) or f'"{name}"' in sources, name
        elif name.startswith("RAY_AUTH"):
            assert name in ray_source, name
        else:
            assert f'"{name}"' in sources, name
    assert len(named) > 12


def test_prefects_and_rays_flags_are_theirs():
    from ray.scripts.scripts import cli as ray_cli

    texts = [(INFRA / "compose.yaml").read_text(), *(path.read_text() for path in MANIFESTS)]
    start = {flag for each in ray_cli.commands["start"].params for flag in (*each.opts, *each.secondary_opts)}
    (head,) = re.findall(r"command: \[start, (--head.*)\]", texts[0])
    assert {part.partition("=")[0] for part in head.split(", ")} <= start
    for manifest in documents(INFRA / "kubernetes/ray.yaml"):
        for group in (manifest["spec"]["headGroupSpec"], *manifest["spec"]["workerGroupSpecs"]):
            assert {f"--{name}" for name in group["rayStartParams"]} <= start
    assert "health-check" in ray_cli.commands
    told = subprocess.run(
        [sys.executable, "-m", "prefect", "server", "start", "--help"], capture_output=True, text=True
    )
    used = [re.findall(r"--[a-z-]+", found) for text in texts for found in re.findall(r"server, start, (.*)\]", text)]
    assert len(used) == 2 and all(flag in told.stdout for flags in used for flag in flags)


def metrics() -> set[str]:
    """Every name that the service's metrics have on the wire."""
    meter = Meter()
    found = set()
    for family in meter.registry.collect():
        suffixes = {"counter": ("_total",), "histogram": ("_bucket", "_sum", "_count")}.get(family.type, ("",))
        found |= {family.name + suffix for suffix in suffixes}
    return found


def test_dashboard_and_alerts_ask_for_metrics_that_there_are():
    dashboard = json.loads((INFRA / "grafana/dashboard.json").read_text())
    asked = [target["expr"] for panel in dashboard["panels"] for target in panel["targets"]]
    (group,) = yaml.safe_load((INFRA / "alerts.yaml").read_text())["groups"]
    asked += [rule["expr"] for rule in group["rules"]]
    there = metrics()
    for expression in asked:
        names = set(re.findall(r"\bdata_engine_\w+", expression))
        assert names and names <= there, expression
    shown = set(re.findall(r"\bdata_engine_\w+", " ".join(asked)))
    bare = {re.sub(r"_(total|bucket|sum|count)$", "", name) for name in there}
    assert {re.sub(r"_(total|bucket|sum|count)$", "", name) for name in shown} == bare  # nothing is measured unseen
    places = [panel["gridPos"] for panel in dashboard["panels"]]
    cells = [
        (x, y) for at in places for x in range(at["x"], at["x"] + at["w"]) for y in range(at["y"], at["y"] + at["h"])
    ]
    assert len(cells) == len(set(cells)) and max(x for x, _ in cells) < 24
    for code in re.findall(r'code="(\w+)"', " ".join(asked)):
        assert f'code="{code}"' in (ROOT / "api/service/gate.py").read_text()


def test_no_file_names_a_host_of_images():
    for path in INFRA.rglob("*"):
        if path.is_file():
            for image in re.findall(r"^(?:FROM|\s*image:) (\S+)", path.read_text(), re.MULTILINE):
                assert "." not in image.partition("/")[0].partition(":")[0] or "/" not in image, (path, image)


def test_links_of_the_pages_lead_somewhere():
    for page in INFRA.glob("*.md"):
        for target in re.findall(r"\]\(([^)#:]+)\)", page.read_text()):
            assert (page.parent / target).exists(), (page.name, target)
