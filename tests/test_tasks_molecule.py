"""Molecules: what is read from text, how answers are judged, and what is drawn says the target."""

from __future__ import annotations

import hashlib
import json
import random
import re
from dataclasses import replace

import numpy as np
import pytest
import rdkit
from hypothesis import given, settings
from hypothesis import strategies as st
from rdkit import Chem

from data_files import SHARED_DATA
from vlmpipe.encoding.conversation import Sample
from vlmpipe.tasks import TASKS
from vlmpipe.tasks.molecule.assembly import Plan, assemble
from vlmpipe.tasks.molecule.difficulty import structure_of
from vlmpipe.tasks.molecule.drawing import draw_molecule, random_style
from vlmpipe.tasks.molecule.known import known_molecules
from vlmpipe.tasks.molecule.layout import is_legible, laid_out
from vlmpipe.tasks.molecule.metrics import tanimoto
from vlmpipe.tasks.molecule.notation import inchi_of, read_molecule, smiles_of
from vlmpipe.tasks.molecule.synthetic import is_easy, random_molecule

MOLECULE = TASKS["molecule"]
ASPIRIN = "CC(=O)Oc1ccccc1C(=O)O"
CHEMISTRY = ("tanimoto", "valid", "exact_match_smiles", "inchi_match")
NO_MOLECULE = [
    "",
    "  ",
    "aspirin is what this is",
    "C1CC",
    "C(C)(C)(C)(C)C",
    "c1cccc1c",
    "CCO ethanol",
    "CCO |$;;R1$|",
    "\0C",
    "C\0C",
    "분자",
    "CC>>CO",
    "InChI=1S/",
    "InChI=1S/p+9999",
    "InChI=1S/C6H6/c1-2-4-6-5-3-1/h1-6H/p+9999",
    "InChI=1S/C6H6/c1-2-4-6-5-3-1/h1-6H/p+999",
    "InChI=1S/999H2O/h999*1H2",
    "C" * 401,
    "C" * 20_000,
    "(" * 20_000,
]
TANGLED = [
    # CoordGen lays out the first for minutes; the second is C60.
    (
        "[*]12[*]345[*][*]46[*]7[*]83[*][*]59[*][*]7[*]%10[*][*]2%11[*]81%12[*]6[*][*]%10[*]%13%1"
        "2[*]%11[*]9%14[*][*][*]%15%16%17[*]%18[*][*]%19[*]%17[*]%20[*]%19%21[*][*]%22[*]%23[*]%2"
        "0[*]%24[*][*]%21%25[*]%26%13[*]%25[*]%15[*][*]%27[*]%26[*]%22%27[*]%28[*]%23[*]%28[*]%14"
        "%29[*][*]%30[*]%18%31[*]%32[*]%33[*][*][*][*][*]%33%34[*][*]%16[*][*][*]C%24C%29C%30C%31"
        "C%32C%34"
    ),
    (
        "c12c3c4c5c1c1c6c7c2c2c8c3c3c9c4c4c%10c5c5c1c1c6c6c%11c7c2c2c7c8c3c3c8c9c4c4c9c%10c5c5c1c1c6c6"
        "c%11c2c2c7c3c3c8c4c4c9c5c1c1c6c2c3c41"
    ),
]
few = settings(deadline=None, max_examples=20)
levels = st.sampled_from([(0.0, 0.15), (0.2, 0.4), (0.4, 0.7), (0.7, 1.0)])
indexes = st.integers(0, 1_000_000)
known = st.sampled_from([smiles_of(each.molecule) for each in known_molecules()])


def molecule(smiles: str) -> Chem.Mol:
    read = read_molecule(smiles)
    assert read is not None
    return read


def easy_samples(count: int = 40) -> list[Sample]:
    return [MOLECULE.generate(index, 8, (0.0, 0.15)) for index in range(count)]


def test_known_molecules_are_valid_unique_and_legible() -> None:
    every = known_molecules()
    assert len(every) >= 150
    assert len({smiles_of(each.molecule) for each in every}) == len(every)
    assert len({each.name for each in every}) == len(every)
    assert all(each.name.strip() == each.name != "" for each in every)
    assert all(each.structure.atoms >= 3 for each in every)
    assert all(is_legible(laid_out(each.molecule)) for each in every)


@pytest.mark.parametrize("text", NO_MOLECULE, ids=lambda text: repr(text[:24]))
def test_text_that_is_no_molecule_is_nothing_but_text(
    text: str, capfd: pytest.CaptureFixture[str]
) -> None:
    assert MOLECULE.canonical(text) is None
    assert MOLECULE.render(text) is None
    assert {MOLECULE.measure(text, ASPIRIN)[name] for name in CHEMISTRY} == {0.0}
    assert 0.0 <= MOLECULE.difficulty(text) <= 0.6
    assert capfd.readouterr() == ("", "")


def test_an_answer_is_read_in_any_spelling_and_in_either_notation() -> None:
    spellings = [
        "OC(=O)c1ccccc1OC(C)=O",
        " CC(=O)OC1=CC=CC=C1C(O)=O\n",
        inchi_of(molecule(ASPIRIN)),
    ]
    assert {MOLECULE.canonical(each) for each in spellings} == {ASPIRIN}
    for each in spellings:
        marks = MOLECULE.measure(each, ASPIRIN)
        assert {marks[name] for name in CHEMISTRY} == {1.0}
        assert marks["exact_match"] == 0.0
        assert {MOLECULE.measure(ASPIRIN, each)[name] for name in CHEMISTRY} == {1.0}


@few
@given(left=known, right=known)
def test_another_molecule_gets_fewer_marks_and_garbage_none(left: str, right: str) -> None:
    marks = MOLECULE.measure(left, right)
    assert marks["valid"] == 1.0
    assert (marks["exact_match_smiles"] == 1.0) == (left == right)
    assert (marks["tanimoto"] == 1.0) >= (left == right)
    assert marks["tanimoto"] == MOLECULE.measure(right, left)["tanimoto"]
    assert MOLECULE.measure(f"{left}(", right)["tanimoto"] == 0.0


def test_the_nearer_the_molecule_the_more_marks() -> None:
    answers = [ASPIRIN, "COC(=O)c1ccccc1OC(C)=O", "O=C(O)c1ccccc1", "CCCCN", ""]
    marks = [MOLECULE.measure(answer, ASPIRIN)["tanimoto"] for answer in answers]
    assert marks == sorted(set(marks), reverse=True)
    assert (marks[0], marks[-1]) == (1.0, 0.0)


def test_the_wrong_hand_is_seen_by_the_exact_matches_alone() -> None:
    marks = MOLECULE.measure("C[C@H](N)C(=O)O", "C[C@@H](N)C(=O)O")
    assert [marks[name] for name in CHEMISTRY] == [1.0, 1.0, 0.0, 0.0]


def test_one_inchi_stands_for_both_places_of_a_mobile_hydrogen() -> None:
    marks = MOLECULE.measure("Cc1c[nH]cn1", "Cc1cnc[nH]1")
    assert (marks["exact_match_smiles"], marks["inchi_match"]) == (0.0, 1.0)


@pytest.mark.parametrize(
    ("prediction", "reference", "shared", "either"),
    [
        # Methane is one environment; ethane is two, a CH3 alone and with its neighbour.
        ("C", "C", 1, 1),
        ("C", "CC", 0, 3),
        # Ethanol: three atoms, and each of them with its neighbours.
        ("CCO", "OCC", 6, 6),
    ],
)
def test_tanimoto_is_bits_in_both_of_bits_in_either(
    prediction: str, reference: str, shared: int, either: int
) -> None:
    assert tanimoto(molecule(prediction), molecule(reference)) == shared / either


def test_inchi_match_is_left_out_for_a_reference_that_has_no_inchi() -> None:
    placeholder = "*c1ccccc1"
    marks = MOLECULE.measure(placeholder, placeholder)
    assert [marks[name] for name in CHEMISTRY[:3]] == [1.0, 1.0, 1.0]
    assert "inchi_match" not in marks
    assert MOLECULE.measure(placeholder, ASPIRIN)["inchi_match"] == 0.0


@pytest.mark.parametrize("answer", TANGLED, ids=lambda text: text[:12])
def test_tangled_rings_are_measured_and_drawn(answer: str) -> None:
    marks = MOLECULE.measure(answer, ASPIRIN)
    assert marks["valid"] == 1.0
    assert 0.0 <= marks["tanimoto"] < 1.0
    assert MOLECULE.measure(answer, answer)["tanimoto"] == 1.0
    assert (MOLECULE.render(answer) or "").startswith("<svg ")


@few
@given(st.text(max_size=60) | st.text("CNOcno123()[]=#@+-.*/\\%H", max_size=60))
def test_no_text_raises_and_every_metric_keeps_to_its_bounds(text: str) -> None:
    marks = MOLECULE.measure(text, ASPIRIN)
    assert marks.keys() == MOLECULE.measure(ASPIRIN, ASPIRIN).keys()
    assert all(0.0 <= value <= 1.0 for name, value in marks.items() if name != "cer")
    assert MOLECULE.measure(text, text)["exact_match_smiles"] == marks["valid"]
    MOLECULE.render(text)


@pytest.mark.parametrize(
    "text", ["C" * 1_000_000, "\ud800" * 200_000, "\0" * 1_000_000, "[" * 9**6]
)
def test_huge_answers_are_no_molecules(text: str) -> None:
    marks = MOLECULE.measure(text, ASPIRIN)
    assert {marks[name] for name in CHEMISTRY} == {0.0}
    assert marks["agreement"] < 0.1


def test_a_reference_that_is_no_molecule_can_only_be_matched_as_text() -> None:
    broken = "C1CC(=O"
    marks = MOLECULE.measure(broken, broken)
    assert [marks[name] for name in CHEMISTRY] == [0.0, 0.0, 0.0, 0.0]
    assert (marks["exact_match"], marks["agreement"]) == (1.0, 1.0)
    marks = MOLECULE.measure("CCO", broken)
    assert [marks[name] for name in CHEMISTRY] == [0.0, 1.0, 0.0, 0.0]


def test_difficulty_grows_with_atoms_rings_configurations_charges_and_elements() -> None:
    chains = [MOLECULE.difficulty("C" * atoms) for atoms in range(1, 41)]
    assert chains == sorted(set(chains))
    assert chains[0] == 0.0
    for plain, harder in [
        ("CCCCCC", "C1CCCCC1"),
        ("C1CCC(C2CCCC2)C1", "C1CC2CCC3CCC1C23"),
        ("CC(N)C(=O)O", "C[C@H](N)C(=O)O"),
        ("CC=CC", "C/C=C/C"),
        ("CC(=O)O", "CC(=O)[O-]"),
        ("CCO", "CCCl"),
    ]:
        assert MOLECULE.difficulty(plain) < MOLECULE.difficulty(harder)
    lengths = [MOLECULE.difficulty("no molecule " * words) for words in (1, 2, 4)]
    assert lengths == sorted(set(lengths))


@few
@given(index=indexes, level=levels)
def test_a_target_is_canonical_and_matches_itself(index: int, level: tuple[float, float]) -> None:
    target = MOLECULE.generate(index, 1, level).reference
    assert MOLECULE.canonical(target) == target
    assert {MOLECULE.measure(target, target)[name] for name in CHEMISTRY} == {1.0}


def test_every_double_bond_that_a_drawing_gives_a_side_has_one_in_the_target() -> None:
    marked = 0
    assembled = (random_molecule(random.Random(seed), 0.5) for seed in range(60))
    for each in [*assembled, *(known.molecule for known in known_molecules())]:
        for found in Chem.FindPotentialStereo(each):
            bond = each.GetBondWithIdx(found.centeredOn)
            ends = (bond.GetBeginAtom(), bond.GetEndAtom())
            # At =NH there is a label, and no line to one side.
            if found.type == Chem.StereoType.Bond_Double and all(e.GetDegree() > 1 for e in ends):
                assert found.specified == Chem.StereoSpecified.Specified
                marked += 1
    assert marked > 20


@few
@given(index=indexes, level=levels)
def test_what_is_drawn_reads_as_the_target(index: int, level: tuple[float, float]) -> None:
    """Bonds, wedges and the sides of double bonds, from where the atoms stand on paper."""
    target = MOLECULE.generate(index, 2, level).reference
    drawn = laid_out(molecule(target))
    assert is_legible(drawn)
    seen = Chem.MolFromMolBlock(Chem.MolToMolBlock(drawn))
    assert smiles_of(seen) == target


def test_easy_molecules_are_small_and_plain() -> None:
    for sample in easy_samples():
        structure = structure_of(molecule(sample.reference))
        assert is_easy(structure)
        assert 3 <= structure.atoms <= 8
        assert sample.difficulty <= 0.15
        width, height = sample.images[0].size
        assert width <= 336
        assert height <= 252


def test_easy_molecules_are_of_many_kinds() -> None:
    assert len({sample.reference for sample in easy_samples()}) >= 30


def test_easy_pictures_have_large_labels_and_bonds() -> None:
    for seed in range(40):
        style = random_style(random.Random(seed), 0.1)
        assert style.font_size >= 15
        assert 25 <= style.bond_length <= 35
        assert style.largest == (336, 252)


def test_the_easiest_range_gives_the_nearest_molecule() -> None:
    assert structure_of(molecule(MOLECULE.generate(0, 1, (0.0, 0.0)).reference)).atoms == 3
    assert MOLECULE.generate(0, 1, (1.0, 1.0)).difficulty > 0.85


@few
@given(index=indexes, level=levels)
def test_the_margin_stays_blank(index: int, level: tuple[float, float]) -> None:
    image = np.asarray(MOLECULE.generate(index, 3, level).images[0])
    inside = np.zeros(image.shape[:2], dtype=bool)
    inside[8:-8, 8:-8] = True
    assert (image[~inside] == image[0, 0]).all()
    assert (image[inside] < 110).any()


@few
@given(seed=indexes, turn=st.floats(-180, 180), length=st.integers(1, 60))
def test_any_molecule_fits_the_picture(seed: int, turn: float, length: int) -> None:
    style = replace(random_style(random.Random(seed), 0.1), rotation=turn)
    image = draw_molecule(molecule("C" * length + "O"), style)
    assert image.mode == "RGB"
    assert 112 <= image.width <= style.largest[0]
    assert 112 <= image.height <= style.largest[1]


@few
@given(seed=indexes, atoms=st.integers(3, 42), rings=st.integers(0, 6), signs=st.integers(0, 4))
def test_molecules_keep_to_their_plan(seed: int, atoms: int, rings: int, signs: int) -> None:
    plan = Plan(atoms, rings, alkenes=1, signs=signs, fused=True)
    counts = structure_of(assemble(random.Random(seed), plan))
    assert 2 <= counts.atoms <= atoms
    assert counts.rings <= rings
    assert counts.signs <= signs + 2
    assert signs or not counts.signs


@few
@given(target=known)
def test_a_rendering_is_made_of_shapes_alone(target: str) -> None:
    shown = MOLECULE.render(target)
    assert shown is not None
    assert set(re.findall(r"<(\w+)", shown)) <= {"svg", "rect", "path", "ellipse"}
    assert not re.search("style|class|href|xmlns|http|<text|<!|<[?]", shown)


@pytest.mark.parametrize(
    "answer",
    ["[*:1]C", "[999C]", "[Na+].[Cl-]", "C~C", "[Fe]<-C", "[H][H]", "C" * 400, "C1CC1" * 80],
)
def test_unusual_molecules_are_rendered_too(answer: str) -> None:
    assert (MOLECULE.render(answer) or "").startswith("<svg ")


@pytest.mark.skipif(rdkit.__version__ != "2026.09.1", reason="canonical forms differ by version")
def test_targets_are_the_same_on_every_machine() -> None:
    targets = "\n".join(MOLECULE.generate(i, 42, (0.0, 1.0)).reference for i in range(20))
    assert (
        hashlib.sha256(targets.encode()).hexdigest()
        == "98f940af9498f273862c3ca4f4cca8e89dff1cc4a9c0eeb10e65227745d698df"
    )


@pytest.mark.skipif(not SHARED_DATA.is_dir(), reason="the shared sample data is not here")
def test_real_molecules_are_read_and_spread_over_the_scale() -> None:
    lines = (SHARED_DATA / "molecules_clef2012" / "samples.jsonl").read_text().splitlines()
    answers = [json.loads(line)["messages"][-1]["content"][0]["text"] for line in lines]
    assert [MOLECULE.canonical(answer) for answer in answers] == answers
    assert {MOLECULE.measure(answer, answer)["tanimoto"] for answer in answers} == {1.0}
    hard = [MOLECULE.difficulty(answer) for answer in answers]
    assert max(hard) - min(hard) > 0.6
    assert max(hard) < 1.0
