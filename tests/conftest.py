"""What all tests share."""

from __future__ import annotations

import signal

import pytest

from road import Finished, Road
from serving_models import Conversions
from vlmpipe.system.probes import visible_gpus

# A shell that starts the tests in the background has them ignore SIGINT, and the programs that they
# start and interrupt would inherit that.
signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip tests marked `gpu` where no CUDA device is to be seen."""
    marked = [item for item in items if item.get_closest_marker("gpu")]
    if marked and not visible_gpus():
        for item in marked:
            item.add_marker(pytest.mark.skip(reason="no CUDA device here"))


@pytest.fixture(scope="session")
def conversions(tmp_path_factory: pytest.TempPathFactory) -> Conversions:
    """Embedded models as GGUF files, each converted once a session."""
    return Conversions(tmp_path_factory.mktemp("conversions"))


@pytest.fixture(scope="session")
def finished_run(tmp_path_factory: pytest.TempPathFactory) -> tuple[Road, Finished]:
    """A run from nothing to the deployed service, and what its one command printed; not to be
    changed: `copy` it.
    """
    road = Road(tmp_path_factory.mktemp("road"))
    return road, road.run("run-all", "--json")
