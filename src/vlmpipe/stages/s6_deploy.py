"""Stage 6: the service, tuned, started, smoke-tested, held against its files, and measured."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from itertools import islice
from pathlib import Path

from vlmpipe.config import Config
from vlmpipe.config.parity import SERVED
from vlmpipe.data.store import load_split
from vlmpipe.encoding.contract import CONTRACT_NAME, PreprocessContract, read_contract
from vlmpipe.encoding.conversation import Sample
from vlmpipe.engines.llama_cpp import LlamaCppEngine
from vlmpipe.export.parity.ladder import PARITY_NAME
from vlmpipe.export.parity.probes import PROBES_NAME, ProbeSet, read_probes
from vlmpipe.pipeline import Outcome, Stage, StageContext, Verdict
from vlmpipe.pipeline.files import write_json
from vlmpipe.serving.bundle import place_model, write_bundle
from vlmpipe.serving.departures import departures
from vlmpipe.serving.gain import hf_speed, speed_line
from vlmpipe.serving.load import LoadResult, load_test
from vlmpipe.serving.probe import Probe, probe_of
from vlmpipe.serving.quants import ServedFiles, served_files
from vlmpipe.serving.rung import Limits, ServedRung
from vlmpipe.serving.running import RunningService
from vlmpipe.serving.served_answers import NoAnswer, ServedAnswer, ask_served
from vlmpipe.serving.served_parity import not_measured, served_rung
from vlmpipe.serving.settings import ServiceSettings
from vlmpipe.serving.smoke import SmokeResult, smoke_test
from vlmpipe.serving.tune_service import Tuned, tune_service
from vlmpipe.system.llama_cpp import built_with_cuda

PROBES = 4
"""Samples that the load test goes round."""


def run(context: StageContext) -> Outcome:
    """Choose, place, tune, start, test, measure, stop, hold against the files, describe."""
    config: Config = context.config
    converted = context.upstream["convert"]
    served, contract = served_files(converted, config.deploy.quant), read_contract(converted)
    bundle = context.folder / "bundle"
    settings = first_settings(config, bundle, served, contract)
    probes = asked_probes(context.upstream["setup"] / "data", contract, settings)
    tuned = tune_service(
        bundle, settings, contract, config.deploy, probes, context.log_path, context.reporter
    )
    settings = tuned.settings
    write_bundle(bundle, settings, memory_mib=tuned.memory_mib, example=probes[0].text)
    frozen = read_probes(context.upstream["merge"], context.upstream["setup"] / "data")
    samples = frozen.samples[: config.deploy.parity_probes]
    found = exercise(context, bundle, settings, probes, samples)
    rung = held_against_files(context, bundle, settings, served, samples, found.answers)
    write_parity(context.folder, frozen, len(samples), contract, rung)
    return conclude(context, served, tuned, found, rung)


@dataclass(frozen=True)
class Exercised:
    """What the running service showed; no load and no answers where a smoke test failed."""

    smoke: Sequence[SmokeResult]
    load: LoadResult | None
    answers: Sequence[ServedAnswer | NoAnswer] | None
    """To the frozen probes."""

    ready_seconds: float


def first_settings(
    config: Config, bundle: Path, served: ServedFiles, contract: PreprocessContract
) -> ServiceSettings:
    """The bundle with the model in it, and settings to begin tuning from."""
    gguf, mmproj = place_model(bundle, served.gguf, served.mmproj)
    contract.write(bundle)
    deploy = config.deploy
    layers = deploy.n_gpu_layers
    settings = ServiceSettings(
        model_id=served.gguf.stem,
        gguf=gguf,
        mmproj=mmproj,
        has_vision=contract.has_vision,
        n_ctx=deploy.context_length or contract.context_length + deploy.max_new_tokens,
        n_threads=deploy.threads or 1,
        n_gpu_layers=layers if layers is not None else (-1 if built_with_cuda() else 0),
        max_new_tokens=deploy.max_new_tokens,
        max_image_bytes=deploy.max_image_bytes,
        max_image_pixels=deploy.max_image_pixels,
        # One image of the largest size as base64, and room for text.
        max_body_bytes=deploy.max_image_bytes * 4 // 3 + 1_000_000,
        request_timeout_s=deploy.request_timeout_s,
    ).sealed(bundle)
    settings.write(bundle)
    return settings


def asked_probes(
    data: Path, contract: PreprocessContract, settings: ServiceSettings
) -> list[Probe]:
    """Questions of real held-out samples; of training samples where none were held out."""
    heldout = load_split(data, "heldout")
    samples = heldout if len(heldout) else load_split(data, "train")
    return [probe_of(sample, contract, settings) for sample in islice(samples, PROBES)]


def exercise(
    context: StageContext,
    bundle: Path,
    settings: ServiceSettings,
    probes: Sequence[Probe],
    samples: Sequence[Sample],
) -> Exercised:
    """Start the real service, test it, ask it, load it, stop it."""
    deploy = context.config.deploy
    timeout_s = deploy.request_timeout_s + 10
    context.reporter.note("starting the service")
    with RunningService(bundle, context.log_path, timeout_s=deploy.startup_timeout_s) as service:
        ready_seconds = service.wait_until_ready()
        smoke = smoke_test(service.url, probes[0], settings.model_id, timeout_s=timeout_s)
        load, answers = None, None
        if all(result.passed for result in smoke):
            answers = ask_served(
                service.url,
                settings.model_id,
                samples,
                timeout_s=timeout_s,
                progress=progress_of(context, "parity, served", len(samples)),
            )
            load = load_test(
                service.url,
                probes,
                deploy.load_requests,
                timeout_s=timeout_s,
                progress=progress_of(context, "load test", deploy.load_requests),
            )
        context.reporter.progress_done()
        exit_code = service.stop()
    stopped = SmokeResult("SIGTERM stops it cleanly", exit_code == 0, f"exit code {exit_code}")
    return Exercised([*smoke, stopped], load, answers, ready_seconds)


def progress_of(context: StageContext, label: str, total: int) -> Callable[[int], None]:
    """Tells how many of `total` are done."""
    return lambda done: context.reporter.progress(label, done, total)


def held_against_files(
    context: StageContext,
    bundle: Path,
    settings: ServiceSettings,
    served: ServedFiles,
    samples: Sequence[Sample],
    answers: Sequence[ServedAnswer | NoAnswer] | None,
) -> ServedRung:
    """The served answers against those of convert's own files, under convert's own contract.

    After the service has stopped: two copies of a model may not fit the GPU.
    """
    config: Config = context.config
    against = f"gguf {served.quant} in process"
    limits = Limits(config.parity.limit(SERVED), config.deploy.min_exact_match)
    if answers is None:
        return not_measured(against, limits, "not measured: a smoke test failed")
    contract = read_contract(context.upstream["convert"])
    engine = LlamaCppEngine(
        served.gguf,
        served.mmproj,
        contract,
        name=served.quant,
        n_ctx=settings.n_ctx,
        n_threads=settings.n_threads,
        n_gpu_layers=settings.n_gpu_layers,
    )
    with closing(engine):
        rung = served_rung(
            engine,
            samples,
            answers,
            against=against,
            limits=limits,
            max_new_tokens=settings.max_new_tokens,
            departures=departures(bundle, settings, served, contract),
            progress=progress_of(context, "parity, in process", len(samples)),
        )
    context.reporter.progress_done()
    return rung


def write_parity(
    folder: Path, frozen: ProbeSet, asked: int, contract: PreprocessContract, rung: ServedRung
) -> None:
    """parity.json: this rung alone, asked the first samples; those above were published before."""
    probe = {**frozen.record(contract.grid), "asked": asked}
    write_json(folder / PARITY_NAME, {"probe": probe, "rungs": [rung.as_record()]})


def conclude(
    context: StageContext,
    served: ServedFiles,
    tuned: Tuned,
    found: Exercised,
    rung: ServedRung,
) -> Outcome:
    """deploy.json, the verdict, the lines for a person."""
    smoke, load = found.smoke, found.load
    before = hf_speed(context.run_folder)
    ratio = load.tokens_per_second / before if load and before else None
    write_json(
        context.folder / "deploy.json",
        {
            "model_id": tuned.settings.model_id,
            "quant": served.quant,
            "excluded_by_convert": served.excluded,
            "threads": tuned.threads.as_record,
            "context_length": tuned.context.as_record,
            "seconds_until_ready": round(found.ready_seconds, 3),
            "smoke_tests": [asdict(result) for result in smoke],
            "parity": rung.as_record(),
            "load_test": load.as_record if load else None,
            "hf_tokens_per_second": before,
            "speedup_over_hf": ratio,
        },
    )
    failed = [f"{test.name}: {test.detail}" for test in smoke if not test.passed]
    if not rung.passed:
        failed.append(f"served against {rung.against}: {rung.why}")
    passed = sum(test.passed for test in smoke)
    lines = [
        f"serves {tuned.settings.model_id}: {tuned.threads.value} threads,"
        f" context {tuned.context.value} tokens",
        f"smoke tests: {passed} of {len(smoke)} passed",
        rung.line,
        *speed_line(load, before),
    ]
    return Outcome(
        metrics={**metrics_of(tuned, found, ratio), **rung.metrics()},
        verdict=Verdict(not failed, tuple(failed)),
        summary=tuple(lines),
    )


def metrics_of(tuned: Tuned, found: Exercised, ratio: float | None) -> dict[str, float]:
    """Flat numbers for the manifest."""
    smoke, load = found.smoke, found.load
    metrics = {
        "deploy/threads": float(tuned.threads.value),
        "deploy/context_length": float(tuned.context.value),
        "deploy/memory_mib": tuned.memory_mib,
        "deploy/seconds_until_ready": found.ready_seconds,
        "deploy/smoke_tests_failed": float(sum(not test.passed for test in smoke)),
    }
    if load is not None:
        metrics |= {
            "deploy/tokens_per_second": load.tokens_per_second,
            "deploy/latency_p50_s": load.latency_p50_s,
            "deploy/latency_p95_s": load.latency_p95_s,
            "deploy/first_token_p50_s": load.first_token_p50_s,
        }
    if ratio is not None:
        metrics["deploy/speedup_over_hf"] = ratio
    return metrics


def pinned_tools() -> dict[str, str]:
    """The engine's release, told without importing it."""
    try:
        return {"llama-cpp-python": version("llama-cpp-python")}
    except PackageNotFoundError:
        return {}


DEPLOY = Stage(
    name="deploy",
    number=6,
    version=2,
    run=run,
    reads=("deploy", "parity.max_kld.served"),
    # Where `vlmpipe serve` listens, and how long this stage waits, change nothing in the bundle.
    ignores=("deploy.host", "deploy.port", "deploy.startup_timeout_s"),
    consumes={
        "setup": ("data/heldout.parquet", "data/train.parquet"),
        "merge": (PROBES_NAME,),
        "convert": ("gguf/*", "artifacts.json", CONTRACT_NAME),
    },
    gated_by=("convert",),
    tools=pinned_tools,
)
