"""What evaluation costs, part by part.

    make bench-eval                 (or: python benchmarks/evaluation.py --only teds --pairs 100)

Each part is a function of the options that returns its `figures` and the `workload` they were
measured on. Parts that are not run keep what the results file says of them.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
from collections.abc import Callable
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import evaluation_run
import evaluation_teds
from evaluation_figures import markdown_table

ROOT = Path(__file__).parent.parent
RESULTS = ROOT / "benchmarks/results/evaluation.json"
LIBRARIES = ("vlmpipe", "table-recognition-metric", "apted", "rapidfuzz", "lxml", "numpy")

PARTS: dict[str, Callable[[argparse.Namespace], dict[str, Any]]] = {
    "teds": evaluation_teds.measure,
    "run": evaluation_run.measure,
}


def run(name: str, options: argparse.Namespace) -> dict[str, Any]:
    """One part's figures, with what they were measured on and how."""
    started_at = os.getloadavg()
    measured = PARTS[name](options)
    return {
        "command": " ".join(["python", "benchmarks/evaluation.py", *map(_shown, sys.argv[1:])]),
        "commit": _git_commit(),
        "date": datetime.now(UTC).strftime("%Y-%m-%d"),
        "machine": {**_machine(), "load_average": [round(value, 1) for value in started_at]},
        "versions": {name: version(name) for name in LIBRARIES},
        **measured,
    }


def markdown(results: dict[str, Any]) -> str:
    """Each part's figures and workload."""
    sections = []
    for name, part in results["parts"].items():
        workload = "\n".join(f"- {key}: {_plain(value)}" for key, value in part["workload"].items())
        heading = (
            f"## {name}\n\n`{part['command']}`, {part['date']}, {part['machine']['cores']} cores"
        )
        sections.append(f"{heading}\n\n{markdown_table(part['figures'])}\n{workload}\n")
    return "\n".join(sections)


def _shown(word: str) -> str:
    """A word of the command; of an absolute path its last part: others have other machines."""
    return Path(word).name if Path(word).is_absolute() else word


def _plain(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{key} {each}" for key, each in value.items())
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)


def _machine() -> dict[str, Any]:
    return {
        "machine": platform.machine(),
        "cores": os.cpu_count(),
        "memory_gb": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9, 1),
        "kernel": platform.release().split("-")[0],
        "python": platform.python_version(),
    }


def _git_commit() -> str | None:
    done = subprocess.run(["git", "rev-parse", "HEAD"], cwd=ROOT, capture_output=True, text=True)
    return done.stdout.strip() or None


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--only", choices=PARTS, action="append", help="this part; may be repeated")
    parser.add_argument("--pairs", type=int, default=1000, help="tables compared by `teds`")
    parser.add_argument("--lots", type=int, default=10, help="in which `teds` takes turns")
    parser.add_argument("--trained", type=Path, help="`run`: this finished run; unset: trains one")
    parser.add_argument("--scratch", type=Path, help="`run`: where its folders go")
    parser.add_argument("--results", type=Path, default=RESULTS)
    return parser.parse_args()


def main() -> None:
    """Run the parts asked for, print them, and write them beside the others."""
    options = _options()
    path: Path = options.results
    results = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {"parts": {}}
    for name in options.only or PARTS:
        results["parts"][name] = run(name, options)
        path.parent.mkdir(exist_ok=True)
        path.write_text(json.dumps(results, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
        path.with_suffix(".md").write_text(markdown(results), encoding="utf-8")
    print(markdown(results))


if __name__ == "__main__":
    main()
