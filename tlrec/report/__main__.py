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
from tlrec.files import printable, whole_file


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

    from tlrec.report import cells, checks, collect, datafiles, figures, page, tables

    # 1. Find the runs
    workspace = collect.collect(arguments.root)
    if not (workspace.evaluations or workspace.tunings or workspace.probes or workspace.problems):
        wanted = "a run is a folder with a run.json, a metrics.json or a probe.json"
        raise InputError(f"{arguments.root}: no runs; {wanted}")
    try:
        output.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"--output_dir {output}: cannot be made: {error.strerror}") from None

    # 2. Group them, judge what is noise, look for leaks
    files = datafiles.DataFiles(arguments.root)
    test_sets = cells.test_sets(workspace.evaluations, files, workspace.problems)
    findings = checks.check(test_sets, files)

    # 3. Write
    with whole_file(output / "results.csv") as file:
        tables.runs(test_sets).to_csv(file, index=False, lineterminator="\n")
    pictures = figures.draw(output, test_sets, workspace.tunings)
    sections = tables.sections(test_sets, findings, workspace, pictures)
    page.write_markdown(output / "results.md", sections)
    page.write_page(output / "index.html", sections)

    evaluated, damaged = sum(len(test_set.evaluations) for test_set in test_sets), len(workspace.problems)
    print(f"{evaluated} evaluations on {len(test_sets)} test sets, {damaged} damaged or unfinished runs")
    for _, subject, text in findings[findings[""] == "warning"].values.tolist():
        print(printable(f"warning: {subject}: {text}"))
    print(printable(f"report: {output / 'index.html'}"))


if __name__ == "__main__":
    with one_line_errors():
        main()
