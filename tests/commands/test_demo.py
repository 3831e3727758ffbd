"""The demo world and its workspace.

1. Records are in the published form and say what the world says; nothing in them can be real.
2. Domains share themes, and neither items nor authors; pretraining has its own years and authors.
3. `like_posterior` is P(target liked | history): it agrees with simulation.
4. `demo.json` holds the best reachable AUC and the floor, found again from the records alone.
5. The same command changes nothing and gives the same bytes anywhere; what is no such demo is not touched.
6. The summary names every step in the order of the curriculum and compares the right ones.
"""

import json
import re
import shutil
import sys

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from tests.support import synthetic
from tlrec.data.catalogue import read_catalogue
from tlrec.data.preferences import read_checked
from tlrec.data.records import labels_of, read_records
from tlrec.demo import summary, workspace, world
from tlrec.demo.workspace import FILES, make_workspace
from tlrec.errors import InputError

SIZES = {
    "netflix": {"train": 60, "valid": 20},
    "amazon-book": {"train": 60, "valid": 20},
    "movie": {"train": 60, "valid": 20, "test": 200},
    "book": {"train": 60, "valid": 20, "test": 200},
}


@pytest.fixture(scope="module")
def demo(tmp_path_factory):
    root = tmp_path_factory.mktemp("a demo") / "root"
    facts, written = make_workspace(root, 0, SIZES)
    assert written
    return root, facts


def preferences(root, domain):
    folder = root / FILES[domain][0]
    return [p for split in SIZES[domain] for p in read_checked(folder / f"{split}.json")[1]]


def items_of(root, domain):
    return {item for p in preferences(root, domain) for item in (*p.history, p.target)}


# ------------------------------------------------------------------------------------------------ 1, 2: the records


@pytest.mark.parametrize("domain", FILES)
def test_records_are_in_the_published_form_and_of_one_theme(demo, domain):
    root, _ = demo
    for p in preferences(root, domain):
        assert p.kind == world.DOMAINS[domain].kind
        assert 2 <= len(p.history) <= 10 and (p.kind == "book" or len(p.history) == 10)
        assert len({*p.history, p.target}) == len(p.history) + 1
        for item in (*p.history, p.target):
            assert len(world.themes_in(item.title)) == 1
            assert bool(item.creator) == (p.kind == "book")


def test_source_and_target_share_no_item_no_year_and_no_author(demo):
    root, _ = demo
    for domain, (first, last) in (("netflix", world.YEARS["source"]), ("movie", world.YEARS["target"])):
        years = {int(re.search(r" \((\d{4})\)$", item.title)[1]) for item in items_of(root, domain)}
        assert 2101 <= first <= min(years) and max(years) <= last <= 2199
    assert not items_of(root, "netflix") & items_of(root, "movie")
    assert not {i.creator for i in items_of(root, "amazon-book")} & {i.creator for i in items_of(root, "book")}


# ---------------------------------------------------------------------------------------------- 3, 4: ground truth


@pytest.mark.parametrize("target", [(1, -2.5), (2, 0.0)])
def test_the_posterior_agrees_with_simulation(target):
    history = [(0, 0.0, True), (0, -2.5, True), (1, 0.0, False), (3, 0.0, True)]
    rng = np.random.default_rng(0)
    users = 400_000
    generosity = 0.6 + world.GENEROSITY_SD * rng.standard_normal(users)
    taste = world.TASTE * rng.choice([1, -1, 0], p=[0.4, 0.4, 0.2], size=(users, 4))

    def probability(theme, shift):
        return 1 / (1 + np.exp(-(generosity + taste[:, theme] + shift)))

    weight = np.prod([probability(t, s) if liked else 1 - probability(t, s) for t, s, liked in history], axis=0)
    simulated = (weight * probability(*target)).sum() / weight.sum()
    assert world.like_posterior(history, target, level=0.6) == pytest.approx(simulated, abs=0.005)


@pytest.mark.parametrize("domain", ["movie", "book"])
def test_best_reachable_auc_and_floor_follow_from_the_records(demo, domain):
    root, facts = demo
    path = f"{FILES[domain][0]}/test.json"
    records, preferences = read_checked(root / path)
    best, floor = [], []
    tired_of_sequels = world.DOMAINS[domain].sequels

    def traits(item):
        theme = world.THEME_NAMES.index(world.theme_of(item.title))
        return theme, tired_of_sequels if world.is_sequel(item) else 0.0

    for p in preferences:
        history = [(*traits(item), True) for item in p.likes] + [(*traits(item), False) for item in p.dislikes]
        best.append(world.like_posterior(history, traits(p.target), world.DOMAINS[domain].level))
        floor.append((len(p.likes) + 0.5) / (len(p.history) + 1))
    said = facts["files"][path]
    assert said["best_reachable_auc"] == pytest.approx(roc_auc_score(labels_of(records), best), abs=1e-4)
    assert said["history_floor_auc"] == pytest.approx(roc_auc_score(labels_of(records), floor), abs=1e-4)
    assert said["best_reachable_auc"] > said["history_floor_auc"] + 0.05


# ------------------------------------------------------------------------------------------------- 5: the workspace


SMALL = {name: dict.fromkeys(splits, 12) for name, splits in SIZES.items()}


def test_another_seed_gives_other_bytes_and_the_same_one_the_same(tmp_path):
    facts, again, other = (
        make_workspace(tmp_path / str(n), seed, SMALL)[0]["files"] for n, seed in enumerate((0, 0, 1))
    )
    assert again == facts and all(other[path]["sha256"] != said["sha256"] for path, said in facts.items())


def test_every_folder_says_that_it_is_fictional_and_catalogues_hold_every_item_once(demo):
    root, facts = demo
    assert facts["fictional"] is True and json.loads((root / "demo.json").read_text()) == facts
    for folder in (root, *(root / folder for folder, _ in FILES.values())):
        assert "invented" in (folder / "DEMO.md").read_text().splitlines()[0]
    for name in ("movie", "book"):
        catalogue = read_catalogue(root / "rec_data" / name / "item_mapping.csv")
        assert len(catalogue.items) == len(set(catalogue.items)) > 100 and not catalogue.repeated
        assert all(map(catalogue.find, items_of(root, name)))


def test_a_demo_is_left_alone_and_another_one_refused(demo):
    root, facts = demo
    before = {path: path.stat().st_mtime_ns for path in root.rglob("*") if path.is_file()}
    assert make_workspace(root, 0, SIZES) == (facts, False)
    with pytest.raises(InputError, match="another demo, or a changed one: --seed 0, not 1; give"):
        make_workspace(root, 1, SIZES)
    assert {path: path.stat().st_mtime_ns for path in root.rglob("*") if path.is_file()} == before


def test_other_data_is_not_overwritten_unless_asked(tmp_path):
    mine = tmp_path / "rec_data" / "movie" / "test.json"
    mine.parent.mkdir(parents=True)
    mine.write_text("mine")
    with pytest.raises(InputError, match="rec_data/movie/test.json"):
        make_workspace(tmp_path, 0, SMALL)
    assert mine.read_text() == "mine" and not (tmp_path / "instruction_data").exists()
    make_workspace(tmp_path, 0, SMALL, overwrite=True)
    assert len(read_records(mine)) == 12


def test_command_line(tmp_path, monkeypatch, capsys):
    rows = [f"--{name.replace('-', '_')}_{split}=12" for name, splits in SIZES.items() for split in splits]
    monkeypatch.setattr(sys, "argv", ["workspace", str(tmp_path / "d"), *rows, "--movie_test", "30"])
    workspace.main()
    assert "best reachable" in capsys.readouterr().out
    assert len(read_records(tmp_path / "d" / "rec_data" / "movie" / "test.json")) == 30
    monkeypatch.setattr(sys, "argv", ["workspace", str(tmp_path / "d"), "--movie_test", "0"])
    with pytest.raises(InputError, match="--movie_test 0: give at least one row"):
        workspace.main()


# ------------------------------------------------------------------------------------------------- 6: the summary


@pytest.fixture(scope="module")
def evaluated(demo, tmp_path_factory):
    """A workspace with an evaluation after every step, the later the better."""
    root = shutil.copytree(demo[0], tmp_path_factory.mktemp("evaluated") / "root")
    paths = {split: root / "rec_data" / "movie" / f"{split}.json" for split in ("train", "valid", "test")}
    paths["source"] = root / "instruction_data" / "netflix" / "train.json"
    records = read_records(paths["test"])
    adapters = root / "instruction_model" / "movie"
    cot = synthetic.tune(adapters / "alpaca_stage123", paths, "cot")
    source = synthetic.tune(adapters / "alpaca_stage123_instrument", paths, "source", start=cot)
    shots = {
        n: synthetic.tune(root / "output_model" / "movie" / "runs" / f"0_{n}", paths, "few-shot", source, shots=n)
        for n in (16, 256)
    }
    untuned = root / "output_model" / "movie" / "untuned"
    for skill, (folder, adapter) in enumerate(
        [(untuned, None), (cot, cot), (source, source), *((f, f) for f in shots.values())]
    ):
        synthetic.evaluate(folder, paths["test"], records, *synthetic.score(records, skill, skill), adapter)
    return root


def test_the_summary_names_every_step_in_order_and_compares(evaluated, monkeypatch, capsys):
    aucs = {result.name: result.metrics["auc"] for result in summary.collect(evaluated, "movie")}
    names = ["untuned", "after CoT", "after source (zero-shot)", "16 shots, seed 0", "256 shots, seed 0"]
    assert list(aucs) == names
    monkeypatch.setattr(sys, "argv", ["summary", str(evaluated), "movie"])
    summary.main()
    lines = capsys.readouterr().out.splitlines()[3:]
    begins = ["history baseline", *names, "best reachable", "zero-shot - untuned", "256 shots - zero-shot", "picture"]
    assert [begin for begin, line in zip(begins, lines, strict=True) if not line.startswith(begin)] == []
    told = {name: line.removeprefix(name).split()[0] for name, line in zip(begins, lines)}
    assert [told[name] for name in names] == [f"{auc:.4f}" for auc in aucs.values()]
    assert told["zero-shot - untuned"] == f"{aucs[names[2]] - aucs[names[0]]:+.4f}"
    assert told["256 shots - zero-shot"] == f"{aucs[names[4]] - aucs[names[2]]:+.4f}"
    assert (evaluated / "quickstart.png").stat().st_size > 10_000


def test_the_summary_of_nothing_tuned_is_one_line(demo):
    with pytest.raises(InputError, match="no evaluated adapter for movie"):
        summary.collect(demo[0], "movie")
