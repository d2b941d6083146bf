"""The check: what a configuration requires of a machine, real and simulated."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from vlmpipe.config import Config, load_config
from vlmpipe.errors import CheckError, ConfigError
from vlmpipe.pipeline import Runner, RunOptions, RunStore
from vlmpipe.pipeline.events import SilentReporter
from vlmpipe.stages.s0_check import CHECK
from vlmpipe.system import known_bad, requirements
from vlmpipe.system.probes import Gpu, Machine
from vlmpipe.system.rows import Requirement, whole_gib

V100 = Gpu(0, "GPU-a", "Tesla V100-SXM2-32GB", 32.0, 31.0, (7, 0), "550.54")
A100 = Gpu(0, "GPU-b", "NVIDIA A100-SXM4-80GB", 80.0, 79.0, (8, 0), "580.95")

SMI = """#!/bin/sh
case "$1" in
--query-gpu=*) echo "0, GPU-a, Tesla V100-SXM2-32GB, 32768, 31744, 7.0, 550.54.15" ;;
*) echo "| NVIDIA-SMI 550.54.15   Driver Version: 550.54.15   CUDA Version: 12.4 |" ;;
esac
"""


def machine(*gpus: Gpu, **facts: object) -> Machine:
    whole = Machine(
        python="3.11.7",
        system="Linux x86_64",
        cpu_count=8,
        ram_gib=64.0,
        swap_gib=16.0,
        gpus=gpus,
        driver_cuda=(13, 0) if gpus else None,
        torch_cuda=(13, 0) if gpus else None,
        nvcc=(13, 0),
        compiler="g++",
        cmake=True,
        llama_cpp="0.3.36",
        llama_cpp_cuda=bool(gpus),
    )
    return replace(whole, **facts)  # type: ignore[arg-type]


def rows_of(there: Machine, *overrides: str) -> dict[str, Requirement]:
    rows = requirements.requirements_of(load_config(overrides=overrides), there)
    return {row.requirement: row for row in rows}


@pytest.fixture
def check(tmp_path: Path) -> Callable[..., Path]:
    """Run the stage for a configuration; returns the published folder."""

    def run(*overrides: str) -> Path:
        config = load_config(overrides=[f"run.outputs_dir={tmp_path / 'outputs'}", *overrides])
        store = RunStore(config.run.outputs_dir, config.run.name)
        (result,) = Runner([CHECK], config, store, SilentReporter(), RunOptions()).run()
        return store.version(CHECK, result.version).folder

    return run


@pytest.fixture
def fake_v100(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    smi = tmp_path / "bin" / "nvidia-smi"
    smi.parent.mkdir()
    smi.write_text(SMI)
    smi.chmod(0o755)
    monkeypatch.setenv("PATH", str(smi.parent), prepend=":")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)


def test_this_machine_suits_the_embedded_model(check: Callable[..., Path]) -> None:
    rows = json.loads((check() / "check.json").read_text())["requirements"]
    assert {"requirement", "needed", "found", "status", "remedy"} == set(rows[0])
    assert not [row for row in rows if row["status"] == "missing"]
    assert {"Python", "torch", "RAM", "swap", "disk", "C++ compiler"} <= {
        row["requirement"] for row in rows
    }


def test_a_second_check_writes_the_same_and_makes_no_version(check: Callable[..., Path]) -> None:
    assert check() == check()


def test_the_check_never_imports_torch(tmp_path: Path) -> None:
    code = (
        "import sys\n"
        "from vlmpipe.config import load_config\n"
        "from vlmpipe.pipeline import Runner, RunOptions, RunStore\n"
        "from vlmpipe.pipeline.events import SilentReporter\n"
        "from vlmpipe.stages.s0_check import CHECK\n"
        "from pathlib import Path\n"
        "store = RunStore(Path(sys.argv[1]), 'default')\n"
        "Runner([CHECK], load_config(), store, SilentReporter(), RunOptions()).run()\n"
        "heavy = {'torch', 'transformers', 'datasets', 'llama_cpp'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=True)


def test_all_that_is_missing_is_listed_together_with_remedies(
    check: Callable[..., Path], tmp_path: Path
) -> None:
    with pytest.raises(CheckError, match="lacks 3 things") as caught:
        check(
            f"convert.llama_cpp_dir={tmp_path}",
            "model.id=/no/such/model",
            "model.attn_implementation=flash_attention_2",
        )
    assert caught.value.exit_code == 3
    text = str(caught.value)
    for part in ("convert_hf_to_gguf.py", "/no/such/model", "pip install flash-attn"):
        assert part in text


def test_the_findings_survive_a_refusal(check: Callable[..., Path], tmp_path: Path) -> None:
    with pytest.raises(CheckError):
        check("model.id=/no/such/model")
    (left,) = tmp_path.rglob("*.partial/check.json")
    states = {r["requirement"]: r["status"] for r in json.loads(left.read_text())["requirements"]}
    assert states["base model"] == "missing"


def test_advice_is_in_the_summary_and_does_not_stop(check: Callable[..., Path]) -> None:
    manifest = json.loads((check("deploy.n_gpu_layers=4") / "manifest.json").read_text())
    assert "with advice" in manifest["summary"][0]
    assert any("deploy.n_gpu_layers" in line for line in manifest["summary"][1:])


@pytest.mark.usefixtures("fake_v100")
def test_a_v100_is_told_to_use_fp16_with_loss_scaling(check: Callable[..., Path]) -> None:
    rows = json.loads((check() / "check.json").read_text())["requirements"]
    row = next(row for row in rows if row["requirement"] == "bfloat16 on GPU 0")
    assert row["status"] == "advice"
    assert "7.0" in row["found"]
    assert "fp16 with loss scaling" in row["remedy"]
    assert "train.quantization.compute_dtype=float16" in row["remedy"]


@pytest.mark.usefixtures("fake_v100")
def test_a_gpu_without_a_cuda_build_names_the_command_that_mends_it(
    check: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("vlmpipe.system.llama_cpp.built_with_cuda", lambda: False)
    rows = json.loads((check() / "check.json").read_text())["requirements"]
    row = next(row for row in rows if row["requirement"] == "llama-cpp-python with CUDA")
    assert row["status"] == "advice"
    assert "CMAKE_ARGS=-DGGML_CUDA=on" in row["remedy"]
    assert "--no-cache-dir" in row["remedy"]
    assert "--force-reinstall" in row["remedy"]


@pytest.mark.usefixtures("fake_v100")
def test_a_hidden_gpu_is_not_asked_about(
    check: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    rows = json.loads((check() / "check.json").read_text())["requirements"]
    assert next(row["found"] for row in rows if row["requirement"] == "GPU") == "none"


def test_bf16_is_fine_from_ampere_on() -> None:
    assert rows_of(machine(A100))["bfloat16 on GPU 0"].status == "ok"
    assert rows_of(machine(V100))["bfloat16 on GPU 0"].status == "advice"


def test_without_a_gpu_only_a_large_model_is_advised_one() -> None:
    assert rows_of(machine())["GPU"].status == "ok"
    assert rows_of(machine(), "model.id=Qwen/Qwen2.5-VL-3B-Instruct")["GPU"].status == "advice"


@pytest.mark.parametrize(
    ("facts", "row"),
    [
        ({"torch_cuda": None}, "torch with CUDA"),
        ({"torch_cuda": (12, 1)}, "torch with CUDA"),
        ({"driver_cuda": (12, 8)}, "CUDA of the driver"),
    ],
)
def test_a_large_model_requires_a_gpu_that_torch_can_use(
    facts: dict[str, object], row: str
) -> None:
    there = machine(A100, **facts)
    assert rows_of(there, "model.id=Qwen/Qwen2.5-VL-3B-Instruct")[row].status == "missing"
    assert rows_of(there)[row].status == "advice"


def test_swap_is_advised_for_large_models_only() -> None:
    there = machine(swap_gib=0.0)
    assert rows_of(there)["swap"].status == "ok"
    row = rows_of(there, "model.id=Qwen/Qwen2.5-VL-3B-Instruct")["swap"]
    assert row.status == "advice"
    assert "swapon" in row.remedy


def test_a_missing_compiler_is_required_only_where_something_must_be_built() -> None:
    assert rows_of(machine(compiler=None))["C++ compiler"].status == "advice"
    row = rows_of(machine(compiler=None, llama_cpp=None))["C++ compiler"]
    assert row.status == "missing"
    assert "apt-get install g++" in row.remedy


def test_weights_on_this_machine_give_memory_and_disk_needs(tmp_path: Path) -> None:
    import numpy as np
    from safetensors.numpy import save_file

    save_file({"w": np.zeros((1024, 1024), np.float16)}, tmp_path / "model.safetensors")
    config = load_config(overrides=[f"model.id={tmp_path}", "train.method=lora"])
    model = requirements.describe_model(config)
    assert (model.kind, model.parameters) == ("folder", 1024 * 1024)
    rows = rows_of(machine(A100), f"model.id={tmp_path}")
    assert rows["base model"].status == "ok"
    assert "GiB" in rows["disk"].needed
    assert "GiB" in rows["free memory of GPU 0"].needed


def test_a_model_that_cannot_fit_is_missing_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    big = requirements.Model("hub", "Qwen/Qwen3-32B", 32_000_000_000)
    monkeypatch.setattr(requirements, "describe_model", lambda config: big)
    full = rows_of(machine(A100), "train.method=full")["free memory of GPU 0"]
    assert full.status == "missing"
    assert "train.method=qlora" in full.remedy
    assert rows_of(machine(A100))["free memory of GPU 0"].status == "ok"
    assert rows_of(machine(ram_gib=16.0))["RAM"].status == "advice"


def test_bitsandbytes_is_required_only_where_it_is_used() -> None:
    assert "bitsandbytes" in rows_of(machine())
    assert "bitsandbytes" not in rows_of(machine(), "train.method=lora")
    eight_bit = ("train.method=lora", "train.optimizer=adamw_8bit")
    assert "bitsandbytes" in rows_of(machine(), *eight_bit)


def test_known_bad_pairs_apply_to_their_models_and_versions() -> None:
    bad = known_bad.known_bad
    slow = {"torch": "2.9.1+cu128"}
    assert [e.source for e in bad(slow, "Qwen/Qwen3-VL-8B-Instruct", gpu=True)] == [
        "pytorch/pytorch#174051"
    ]
    assert not bad(slow, "Qwen/Qwen3-VL-8B-Instruct", gpu=False)
    assert not bad(slow, "Qwen/Qwen3-8B", gpu=True)
    assert not bad({"torch": "2.10.0"}, "Qwen/Qwen3-VL-8B-Instruct", gpu=True)


def test_torchvision_beside_a_cpu_torch_is_refused() -> None:
    pair = {"torch": "2.13.0+cpu", "torchvision": "0.28.0"}
    (entry,) = known_bad.known_bad(pair, "embedded:tiny", gpu=False)
    assert entry.breaks
    assert "uninstall torchvision" in entry.remedy
    assert not known_bad.known_bad({**pair, "torch": "2.13.0"}, "embedded:tiny", gpu=True)


def test_free_space_is_told_in_steps_that_repeat() -> None:
    assert whole_gib(78.9) == whole_gib(71.2) == "over 70 GiB"
    assert whole_gib(3.7) == "3 GiB"


def test_each_advice_or_fault_has_a_remedy() -> None:
    poor = machine(V100, compiler=None, nvcc=None, llama_cpp_cuda=False, swap_gib=0.0)
    config: Config = load_config(overrides=["model.id=Qwen/Qwen3-VL-4B-Instruct"])
    rows = requirements.requirements_of(config, poor)
    assert all(row.remedy for row in rows if row.status != "ok")
    assert sum(row.status == "advice" for row in rows) >= 5


def test_an_unknown_quant_type_is_refused_before_any_training(
    check: Callable[..., Path],
) -> None:
    with pytest.raises(ConfigError, match="q4_k_x") as caught:
        check('convert.quants=["q4_k_x"]')
    assert "did you mean q4_k_" in str(caught.value)
    assert caught.value.exit_code == 2


def test_a_served_type_that_convert_does_not_make_is_refused_before_any_training(
    check: Callable[..., Path],
) -> None:
    with pytest.raises(ConfigError, match=r"deploy\.quant=q2_k") as caught:
        check("deploy.quant=q2_k")
    assert "deploy.quant=f16|q4_k_m|q5_k_m|q8_0" in str(caught.value)
    assert check("deploy.quant=q2_k", 'convert.quants=["q2_k"]')
    assert check("deploy.quant=f16")


def test_an_embedded_model_that_there_is_not_is_refused_with_those_there_are(
    check: Callable[..., Path],
) -> None:
    with pytest.raises(ConfigError, match="embedded:tiny-text"):
        check("model.id=embedded:small")


def test_a_source_that_is_not_there_is_refused_before_a_model_is_fetched(
    check: Callable[..., Path], tmp_path: Path
) -> None:
    with pytest.raises(ConfigError) as caught:
        check(f'data.sources=[{{"path": "{tmp_path}/none.jsonl"}}, {{"path": "{tmp_path}"}}]')
    assert "none.jsonl: No such file" in str(caught.value)
    assert f"{tmp_path}: not a file" in str(caught.value)
