"""Ranking and uAUC in the report.

1. Methods that ranked the same rows among the same candidates stand in one table, mean over seeds, with the floors.
   Another protocol has a table of its own, named as sampled, and the words that say what that means.
2. NDCG against shots and uAUC beside AUC are drawn; results.csv has the numbers of each run.
3. A ranking that is damaged, unfinished or of another adapter is listed, and its evaluation stays.
"""

import csv
import json
import shutil

import numpy as np
import pytest

from tests.support.synthetic import make_data, write_catalogue
from tlrec.evaluation.hits import row_metrics
from tlrec.evaluation.intervals import jackknife_means
from tlrec.evaluation.ranks import NOT_NEXT, SAMPLED, read_ranking
from tlrec.report.page import markdown_text

pytestmark = pytest.mark.slow
REPORT, BASELINES = "tlrec/report/__main__.py", "tlrec/baselines/__main__.py"


@pytest.fixture(scope="module")
def workspace(tmp_path_factory, run_script):
    """Popularity and item-kNN of 16 shots, two seeds each, in the whole catalogue; popularity of all rows, sampled."""
    root = tmp_path_factory.mktemp("work space")
    paths = make_data(root)
    write_catalogue(root / "rec_data/movie/item_mapping.csv", [f"Made-up Film {number}" for number in range(300)])
    flags = ["--target", "movie", "--max_rank_rows", 40]
    for flag, name in (("train", "train"), ("val", "valid"), ("test", "test")):
        flags += [f"--{flag}_data_path", paths[name]]
    both = ["--method", "popularity", "item-knn", "--sample", 16, "--seed", 0, 1, "--rank", "full"]
    run_script(BASELINES, *flags, *both, "--output_dir", root / "full")
    sampled = ["--method", "popularity", "--sample", -1, "--seed", 0, "--rank", "50"]
    run_script(BASELINES, *flags, *sampled, "--output_dir", root / "sampled")
    run_script(REPORT, root)
    return root


def tables(root):
    """[(caption, rows of cells)] of the rankings in results.md, the whole catalogue first."""
    found = []
    for part in (root / "report" / "results.md").read_text().split("\n**")[1:]:
        caption, *lines = part.splitlines()
        if caption.startswith("Ranking: "):
            rows = [line.strip("| ").split("|") for line in lines if line.startswith("| ")]
            found.append((caption.strip("*"), [[cell.strip() for cell in row] for row in rows if row[0] != "--- "]))
    return found


def test_the_tables(workspace):
    (caption, (header, *rows)), (sampled, (_, *sampled_rows)) = tables(workspace)
    assert caption.startswith("Ranking: 40 liked rows of ") and caption.endswith("(all items not rated before)")
    assert header[3:] == [
        *("Selected by", "HR@1", "HR@5", "HR@10", "HR@50", "NDCG@5", "NDCG@10", "NDCG@50", "MRR", "MEAN RANK"),
        "NDCG@10, 95 % (users)",
    ]
    floors = ["history (chance)", "item (like-rate)", "likes (how often liked)"]
    assert [row[0] for row in rows] == ["item-kNN", "popularity", *(f"no training: {name}" for name in floors)]
    shown = dict(zip(header, rows[0]))
    seeds = [read_ranking(workspace / "full" / "item-knn" / f"{seed}_16") for seed in (0, 1)]
    assert (shown["Shots"], shown["Seeds"]) == ("16 shots", "0, 1")
    assert shown["HR@10"] == f"{np.mean([ranking['hr@10'] for ranking, _ in seeds]):.4f}"
    assert shown["MEAN RANK"] == f"{np.mean([ranking['mean_rank'] for ranking, _ in seeds]):.1f}"
    each = [row_metrics([x["better"] for x in lines], [x["tied"] for x in lines])["ndcg@10"] for _, lines in seeds]
    users = [line["user"] for line in seeds[0][1]]
    low, high = jackknife_means(np.transpose(each), users).interval([0, 1])
    assert shown["NDCG@10, 95 % (users)"] == f"{max(0, low):.4f} to {high:.4f}"
    assert rows[2][header.index("HR@10")] == f"{seeds[0][0]['floors']['history']['hr@10']:.4f}"  # chance

    assert sampled.endswith("each among 51 candidates (sampled 50, not all items)")
    assert [row[0] for row in sampled_rows][:2] == ["popularity", "no training: history (chance)"]
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


def test_what_is_wrong_is_listed(workspace, tmp_path, run_script):
    root = shutil.copytree(workspace, tmp_path / "copy")
    stopped, cut, other = (root / "full" / name for name in ("popularity/0_16", "popularity/1_16", "item-knn/0_16"))
    (stopped / "ranking.json").unlink()
    lines = (cut / "ranks.jsonl").read_text().splitlines(True)
    (cut / "ranks.jsonl").write_text("".join(lines[:-1]))
    ranking = json.loads((other / "ranking.json").read_text())
    ranking["run"]["data"]["test"]["sha256"] = "0" * 64
    (other / "ranking.json").write_text(json.dumps(ranking))
    _, printed, _ = run_script(REPORT, root)
    assert printed.startswith("5 evaluations on 1 test sets, 3 damaged or unfinished runs\n")
    text = (root / "report" / "results.md").read_text()
    for message in (
        "ranks.jsonl without ranking.json: a ranking that was stopped; give the same command again",
        "does not belong to ranking.json, whose rows or mean rank differ; rank again",
        "was made for another adapter or other test data; rank again",
    ):
        assert text.count(message) == 1
    (_, (_, *rows)), _ = tables(root)
    assert [row[:3] for row in rows if row[1]] == [["item-kNN", "16 shots", "1"]]
