"""Size against quality of converted files: what is drawn stays within its axes."""

from __future__ import annotations

import pytest

from vlmpipe.evaluation.report.plots import NARROW_IN, WIDE_IN
from vlmpipe.evaluation.report.quant_plot import _draw, quant_plot

pytest.importorskip("matplotlib")
FILES = {"q4_k_m": (1_900_000, 4.6e-4), "q8_0": (3_100_000, 4.1e-4), "f16": (5_800_000, 4.0e-4)}


def rows(names=tuple(FILES)):
    return [
        {"quant": name, "size_bytes": FILES[name][0], "kld_adapter": FILES[name][1]}
        for name in names
    ]


@pytest.mark.parametrize("size_in", [WIDE_IN, NARROW_IN])
@pytest.mark.parametrize("recommended", FILES)
@pytest.mark.parametrize("names", [tuple(FILES), ("q4_k_m", "f16")])
def test_names_of_files_stay_within_the_axes(size_in, recommended, names):
    from matplotlib.figure import Figure

    figure = Figure(figsize=size_in, layout="constrained")
    axes = figure.add_subplot()
    _draw(axes, rows(names), recommended)
    figure.draw_without_rendering()
    assert len(axes.texts) == len(names)
    for text in axes.texts:
        box, frame = text.get_window_extent(), axes.get_window_extent()
        assert frame.x0 <= box.x0 < box.x1 <= frame.x1, text.get_text()


def test_the_recommended_file_is_named_and_one_file_is_no_plot():
    wide, narrow = quant_plot(rows(), "q8_0")
    assert "q8_0 (recommended)" in wide
    assert "q8_0 (recommended)" in narrow
    assert quant_plot(rows(["f16"]), "f16") is None
