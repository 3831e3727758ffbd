"""Collect every run under a workspace into one report.

    python -m tlrec.report .

Reads  every folder under ROOT that holds a run.json, a metrics.json or a probe.json (their formats:
       tlrec/runs/schema.py, tlrec/evaluation/formats.py and tlrec/probe/knowledge.py).
Writes results.csv (a row for each evaluation), results.md, PNG figures and index.html, which needs no other file,
       into ROOT/report (or --output_dir); files of those names from an earlier report are replaced.
Damaged or unfinished runs are listed in the report.
"""

import argparse
from pathlib import Path

from tlrec.errors import InputError, one_line_errors
from tlrec.files import printable


def main():
    """Parse the flags, write the report, say where it is."""
    parser = argparse.ArgumentParser(
        prog="python -m tlrec.report",
        description=__doc__,
        allow_abbrev=False,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("root", metavar="ROOT", type=Path, help="folder of a workspace")
    parser.add_argument("--output_dir", type=Path, help="folder of the report (default: ROOT/report)")
    arguments = parser.parse_args()
    if not arguments.root.is_dir():
        raise InputError(f"{arguments.root}: no such folder")
    output = arguments.output_dir or arguments.root / "report"

    # 1. Find the runs
    from tlrec.report import collect

    workspace = collect.collect(arguments.root)
    if not (workspace.evaluations or workspace.tunings or workspace.probes or workspace.problems):
        raise InputError(
            f"{arguments.root}: no runs; a run is a folder with a run.json, a metrics.json or a probe.json"
        )

    try:
        output.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"--output_dir {output}: cannot be made: {error.strerror}") from None

    # 2. Group them, judge what is noise, look for leaks
    from tlrec.report import cells, checks, datafiles, figures, page, rankings, tables

    test_sets = cells.test_sets(workspace.evaluations, workspace.problems)
    files = datafiles.DataFiles(arguments.root)
    for test_set in test_sets:
        test_set.rankings = rankings.rankings(test_set)
        for cell in test_set.cells:
            cell.selected = files.selected(cell.evaluations)
    findings = checks.check(test_sets, files)

    # 3. Write
    tables.write_csv(output / "results.csv", tables.runs(test_sets))
    pictures = figures.draw(output, test_sets, workspace.tunings)
    sections = tables.sections(test_sets, findings, workspace)
    tables.write_markdown(output / "results.md", sections, pictures)
    page.write_page(output / "index.html", sections, pictures)

    evaluated = sum(len(test_set.evaluations) for test_set in test_sets)
    damaged = len(workspace.problems)
    print(f"{evaluated} evaluations on {len(test_sets)} test sets, {damaged} damaged or unfinished runs")
    for finding in findings:
        if finding.level == "warning":
            print(printable(f"warning: {finding.subject}: {finding.text}"))
    print(printable(f"report: {output / 'index.html'}"))


if __name__ == "__main__":
    with one_line_errors():
        main()
