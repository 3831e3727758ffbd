"""Ranking and uAUC in the report.

1. Methods that ranked the same rows among the same candidates stand in one table, mean over seeds, with the floors.
2. Another protocol has a table of its own, named as sampled, and the words that say what that means.
3. NDCG against shots and uAUC beside AUC are drawn; results.csv has the numbers of each run.
4. A ranking that is damaged, unfinished or of another adapter is listed, and its evaluation stays.
"""

import csv
import json
import shutil
import sys

import numpy as np
import pytest

from tests.support.synthetic import make_data
from tlrec.baselines.__main__ import main as baselines_main
from tlrec.errors import one_line_errors
from tlrec.evaluation.hits import row_metrics
from tlrec.evaluation.intervals import jackknife_means
from tlrec.evaluation.ranks import NOT_NEXT, SAMPLED, read_ranking
from tlrec.report.__main__ import main as report_main
from tlrec.report.page import markdown_text


def call(main, *words):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["command", *map(str, words)])
        with one_line_errors():
            main()


@pytest.fixture(scope="module")
def workspace(tmp_path_factory):
    """Popularity and item-kNN of 16 shots and all rows, two seeds each, in the whole catalogue; popularity sampled."""
    root = tmp_path_factory.mktemp("work space")
    paths = make_data(root)
    with open(root / "rec_data" / "movie" / "item_mapping.csv", "w") as file:
        file.writelines(["title\n", *(f"Made-up Film {number}\n" for number in range(300))])
    flags = ["--target", "movie", "--max_rank_rows", 40]
    for flag, name in (("train", "train"), ("val", "valid"), ("test", "test")):
        flags += [f"--{flag}_data_path", paths[name]]
    shots = ["--sample", 16, -1, "--seed", 0, 1]
    methods = ["--method", "popularity", "item-knn"]
    call(baselines_main, *flags, *methods, *shots, "--rank", "full", "--output_dir", root / "full")
    sampled = ["--method", "popularity", "--sample", -1, "--seed", 0, "--rank", "50", "--output_dir", root / "sampled"]
    call(baselines_main, *flags, *sampled)
    call(report_main, root)
    return root


def tables(root):
    """{caption: rows of cells} of results.md."""
    found, caption = {}, None
    for line in (root / "report" / "results.md").read_text().splitlines():
        if line.startswith("**"):
            caption = line.strip("*")
        elif line.startswith("|"):
            found.setdefault(caption, []).append([cell.strip() for cell in line.strip("|").split("|")])
    return found


def test_the_table(workspace):
    found = tables(workspace)
    (caption,) = [name for name in found if name.startswith("Ranking") and "not all items" not in name]
    assert caption.startswith("Ranking: 40 liked rows of ") and caption.endswith("(all items not rated before)")
    header, _, *rows = found[caption]
    assert header[3:] == [
        *("Selected by", "HR@1", "HR@5", "HR@10", "HR@50", "NDCG@5", "NDCG@10", "NDCG@50", "MRR", "MEAN RANK"),
        "NDCG@10, 95 % (users)",
    ]
    names = [row[0] for row in rows]
    assert sorted(names[:4]) == ["item-kNN", "item-kNN", "popularity", "popularity"]
    assert names[4:] == [
        "no training: history (chance)",
        "no training: item (like-rate)",
        "no training: likes (how often liked)",
    ]
    (row,) = [row for row in rows if row[:2] == ["item-kNN", "all rows"]]
    seeds = [read_ranking(workspace / "full" / "item-knn" / f"{seed}_-1") for seed in (0, 1)]
    assert row[2] == "0, 1"
    assert row[header.index("HR@10")] == f"{np.mean([ranking['hr@10'] for ranking, _ in seeds]):.4f}"
    assert row[header.index("MEAN RANK")] == f"{np.mean([ranking['mean_rank'] for ranking, _ in seeds]):.1f}"
    each = [row_metrics([x["better"] for x in lines], [x["tied"] for x in lines])["ndcg@10"] for _, lines in seeds]
    users = [line["user"] for line in seeds[0][1]]
    low, high = jackknife_means(np.transpose(each), users).interval([0, 1])
    assert row[-1] == f"{max(0, low):.4f} to {high:.4f}"
    chance = rows[4]
    assert chance[header.index("HR@10")] == f"{seeds[0][0]['floors']['history']['hr@10']:.4f}"


def test_a_sampled_protocol_stands_apart(workspace):
    (caption,) = [name for name in tables(workspace) if "not all items" in name]
    assert caption.endswith("each among 51 candidates (sampled 50, not all items)")
    rows = tables(workspace)[caption][2:]
    assert [row[0] for row in rows][:1] == ["popularity"] and sum(row[0] == "popularity" for row in rows) == 1
    text = (workspace / "report" / "results.md").read_text()
    assert markdown_text(NOT_NEXT) in text and markdown_text(SAMPLED) in text


def test_pictures_and_csv(workspace):
    names = {path.name for path in (workspace / "report").glob("*.png")}
    assert {"ranking_movie.png", "ranking2_movie.png", "uauc_movie.png"} <= names
    page = (workspace / "report" / "index.html").read_text()
    assert 'alt="NDCG@10 against shots on movie, 40 liked rows' in page and 'alt="AUC and uAUC on movie; ' in page
    with open(workspace / "report" / "results.csv", newline="") as file:
        rows = {row["folder"]: row for row in csv.DictReader(file)}
    ranking, _ = read_ranking(workspace / "full" / "popularity" / "1_16")
    row = rows["full/popularity/1_16"]
    assert float(row["rank_ndcg@10"]) == ranking["ndcg@10"] and row["rank_protocol"] == "full"


@pytest.mark.slow
def test_what_is_wrong_is_listed(workspace, tmp_path, capsys):
    root = shutil.copytree(workspace, tmp_path / "copy")
    folder = root / "full" / "popularity"
    (folder / "0_16" / "ranking.json").unlink()
    lines = (folder / "1_16" / "ranks.jsonl").read_text().splitlines(True)
    (folder / "1_16" / "ranks.jsonl").write_text("".join(lines[:-1]))
    other = json.loads((folder / "0_-1" / "ranking.json").read_text())
    other["run"]["data"]["test"]["sha256"] = "0" * 64
    (folder / "0_-1" / "ranking.json").write_text(json.dumps(other))
    call(report_main, root)
    text = (root / "report" / "results.md").read_text()
    for message in (
        "ranks.jsonl without ranking.json: a ranking that was stopped; give the same command again",
        "does not belong to ranking.json, whose rows or mean rank differ; rank again",
        "was made for another adapter or other test data; rank again",
    ):
        assert text.count(message) == 1
    (caption,) = [name for name in tables(root) if name.startswith("Ranking") and "not all items" not in name]
    rows = {tuple(row[:2]): row[2] for row in tables(root)[caption]}
    assert rows["item-kNN", "16 shots"] == "0, 1" and rows["popularity", "all rows"] == "1"
    assert ("popularity", "16 shots") not in rows
    assert "9 evaluations on 1 test sets, 3 damaged or unfinished runs" in capsys.readouterr().out
