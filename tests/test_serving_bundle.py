"""What a bundle holds: settings that stay inside it, files for containers, a true dashboard."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from pydantic import ValidationError
from ruamel.yaml import YAML
from starlette.testclient import TestClient

import serving_fakes as fakes
from serving_models import small_contract
from vlmpipe.errors import ArtifactError, ConfigError
from vlmpipe.serving.app import create_app
from vlmpipe.serving.bundle import kubernetes_name, place_model, write_bundle
from vlmpipe.serving.example import curl_example
from vlmpipe.serving.quants import served_files
from vlmpipe.serving.settings import read_settings


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    folder = tmp_path / "bundle"
    (tmp_path / "demo.gguf").write_bytes(b"GGUF text")
    (tmp_path / "demo-mmproj.gguf").write_bytes(b"GGUF vision")
    place_model(folder, tmp_path / "demo.gguf", tmp_path / "demo-mmproj.gguf")
    write_bundle(folder, fakes.settings(), memory_mib=100.0, example='What\'s in\nthis "table"?')
    return folder


def documents(path: Path) -> list[dict[str, object]]:
    return list(YAML(typ="safe").load_all(path.read_text()))


def test_settings_come_back_as_they_were_written(bundle: Path) -> None:
    assert read_settings(bundle) == fakes.settings()


def test_a_bundle_can_be_moved(bundle: Path, tmp_path: Path) -> None:
    moved = shutil.move(bundle, tmp_path / "elsewhere")
    assert (Path(moved) / read_settings(Path(moved)).gguf).read_bytes() == b"GGUF text"


@pytest.mark.parametrize("path", ["/etc/passwd", "../outside.gguf", "model/../../x.gguf"])
def test_settings_name_nothing_outside_the_bundle(path: str) -> None:
    with pytest.raises(ValidationError, match="inside the bundle"):
        fakes.settings(gguf=path)


def test_a_bundle_that_lacks_its_model_is_refused_by_name(bundle: Path) -> None:
    (bundle / "model" / "demo.gguf").unlink()
    with pytest.raises(ArtifactError, match=r"model/demo\.gguf"):
        read_settings(bundle)


def sealed(bundle: Path) -> Path:
    """The same bundle as deploy leaves it: with digests of what is loaded."""
    small_contract("qwen2_5_vl").write(bundle)
    fakes.settings().sealed(bundle).write(bundle)
    return bundle


def flip(path: Path, place: int) -> None:
    """Turn one byte of a file over, in a file of its own."""
    data = bytearray(path.read_bytes())
    data[place] ^= 0xFF
    path.unlink()
    path.write_bytes(data)


LOADED = ["model/demo.gguf", "model/demo-mmproj.gguf", "preprocess_contract.json"]


def test_a_sealed_bundle_verifies_wherever_it_is(bundle: Path, tmp_path: Path) -> None:
    moved = Path(shutil.copytree(sealed(bundle), tmp_path / "elsewhere"))
    settings = read_settings(moved)
    assert sorted(settings.files) == sorted(LOADED)
    settings.verify(moved)


@pytest.mark.parametrize("name", LOADED)
def test_one_byte_flipped_in_what_is_loaded_is_found_by_name(name: str, bundle: Path) -> None:
    flip(sealed(bundle) / name, 3)
    with pytest.raises(ArtifactError, match="not what was deployed") as raised:
        read_settings(bundle).verify(bundle)
    (problem,) = raised.value.problems
    assert problem.startswith(f"{name} has sha256 ")
    assert any("--force deploy" in remedy for remedy in raised.value.remedies)


@pytest.mark.parametrize("name", LOADED)
def test_a_file_cut_short_is_found_without_reading_it(name: str, bundle: Path) -> None:
    path = sealed(bundle) / name
    data = path.read_bytes()
    path.unlink()
    path.write_bytes(data[:-1])
    with pytest.raises(ArtifactError) as raised:
        read_settings(bundle)
    assert raised.value.problems == (
        f"{name} has {len(data) - 1} bytes, {len(data)} were deployed",
    )


def test_a_bundle_made_before_there_were_digests_is_still_served(bundle: Path) -> None:
    content = json.loads((bundle / "service.json").read_text())
    del content["files"]
    (bundle / "service.json").write_text(json.dumps(content))
    read_settings(bundle).verify(bundle)


@pytest.mark.slow
def test_a_service_does_not_start_over_a_flipped_byte(bundle: Path) -> None:
    flip(sealed(bundle) / LOADED[0], 5)
    argv = [sys.executable, "-m", "vlmpipe.serving", "--bundle", str(bundle), "--port", "0"]
    found = subprocess.run(argv, capture_output=True, text=True, check=False, timeout=60)
    assert found.returncode == 4
    assert LOADED[0] in found.stderr
    assert "--force deploy" in found.stderr
    assert "Traceback" not in found.stderr


def test_every_metric_of_the_dashboard_is_one_that_the_gateway_exports(bundle: Path) -> None:
    with TestClient(create_app(fakes.settings(), fakes.ScriptedBackend())) as client:
        client.post("/chat", json={"message": "a"})
        client.post("/chat", json={})
        exported = set(re.findall(r"^(vlmpipe_\w+)", client.get("/metrics").text, re.MULTILINE))
    content = json.loads((bundle / "grafana" / "dashboard.json").read_text())
    queries = [target["expr"] for panel in content["panels"] for target in panel["targets"]]
    asked = {name for query in queries for name in re.findall(r"vlmpipe_\w+", query)}
    assert len(asked) >= 10
    assert asked <= exported


def test_the_labels_of_the_dashboard_are_exported_too(bundle: Path) -> None:
    text = (bundle / "grafana" / "dashboard.json").read_text()
    assert "by (route, status)" in text
    with TestClient(create_app(fakes.settings(), fakes.ScriptedBackend())) as client:
        client.post("/chat", json={})
        metrics = client.get("/metrics").text
    assert 'vlmpipe_refused_total{code="invalid_request"} 1.0' in metrics


def test_kubernetes_probes_ask_paths_that_exist(bundle: Path) -> None:
    deployment, service = documents(bundle / "kubernetes.yaml")
    container = deployment["spec"]["template"]["spec"]["containers"][0]  # type: ignore[index]
    assert service["spec"]["selector"] == deployment["spec"]["selector"]["matchLabels"]  # type: ignore[index]
    with TestClient(create_app(fakes.settings(), fakes.ScriptedBackend())) as client:
        for kind in ("startupProbe", "readinessProbe", "livenessProbe"):
            assert client.get(container[kind]["httpGet"]["path"]).status_code == 200
    backend = fakes.ScriptedBackend(state="loading")
    with TestClient(create_app(fakes.settings(), backend)) as client:
        assert client.get(container["livenessProbe"]["httpGet"]["path"]).status_code == 200
        assert client.get(container["readinessProbe"]["httpGet"]["path"]).status_code == 503


def test_compose_mounts_files_that_the_bundle_holds(bundle: Path) -> None:
    (content,) = documents(bundle / "compose.yaml")
    services = content["services"]
    assert isinstance(services, dict)
    mounts = [volume for service in services.values() for volume in service.get("volumes", [])]
    assert len(mounts) == 4
    for mount in mounts:
        assert (bundle / mount.split(":")[0]).is_file(), mount


def test_prometheus_takes_its_configuration(bundle: Path) -> None:
    promtool = shutil.which("promtool")
    if promtool is None:
        (content,) = documents(bundle / "prometheus.yml")
        assert content["scrape_configs"]
        pytest.skip("no promtool here; only read as YAML")
    subprocess.run([promtool, "check", "config", bundle / "prometheus.yml"], check=True)


@pytest.mark.parametrize(
    ("model_id", "name"),
    [
        ("demo-finetune-q4_k_m", "vlmpipe-demo-finetune-q4-k-m"),
        ("A.B_c" + "x" * 80, "vlmpipe-a-b-c" + "x" * 45),
        ("___", "vlmpipe"),
    ],
)
def test_names_in_kubernetes_are_dns_labels(model_id: str, name: str) -> None:
    assert kubernetes_name(model_id) == name
    assert re.fullmatch(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?", name)


@pytest.mark.parametrize("message", ["Read it.", 'It\'s $(rm -rf /) "`x`" 50% \\n', "표를 읽어라"])
def test_the_example_gives_a_shell_nothing_but_valid_json(message: str, tmp_path: Path) -> None:
    (tmp_path / "page.png").write_bytes(fakes.picture())
    example = curl_example("URL", message, image="page.png").replace("curl URL/chat", "cat #")
    sent = subprocess.run(["bash", "-c", example], capture_output=True, check=True, cwd=tmp_path)
    body = json.loads(sent.stdout)
    assert body["images"] == [fakes.encoded(fakes.picture())]
    assert body["message"]


def converted(folder: Path, **changed: object) -> Path:
    (folder / "gguf").mkdir(parents=True)
    for name in ("demo-finetune-f16.gguf", "demo-finetune-q8_0.gguf"):
        (folder / "gguf" / name).write_bytes(b"GGUF")
    artifacts = {
        "quants": {"f16": "demo-finetune-f16.gguf", "q8_0": "demo-finetune-q8_0.gguf"},
        "mmproj": None,
        "recommended": "q8_0",
        "excluded": {},
        **changed,
    }
    (folder / "artifacts.json").write_text(json.dumps(artifacts))
    return folder


def test_the_recommended_type_is_served_unless_another_is_asked_for(tmp_path: Path) -> None:
    folder = converted(tmp_path)
    assert served_files(folder, None).quant == "q8_0"
    assert served_files(folder, "f16").gguf.name == "demo-finetune-f16.gguf"


def test_a_type_that_was_not_converted_is_refused_with_every_way_out(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as raised:
        served_files(converted(tmp_path), "q2_k")
    assert "deploy.quant=f16|q8_0" in str(raised.value)
    assert "convert.quants" in str(raised.value)


def test_a_named_file_that_is_gone_is_an_artifact_error(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="mmproj"):
        served_files(converted(tmp_path, mmproj="demo-finetune-mmproj-f16.gguf"), None)
