"""The report over all runs of a workspace; `python -m tlrec.report ROOT`.

collect    finds runs by their run.json and metrics.json       -> Evaluation
cells      groups them by method and shots, judges the noise   -> TestSet, Cell
rankings   rankings on the same candidates, side by side       -> Ranked
datafiles  the data files that runs name: what they share, and what selected a checkpoint
checks     leaks and sanity
tables     the tidy table of runs, results.csv, and the tables of the page, all of them pandas
figures    PNG files
page       results.md and index.html
published  numbers of papers, for reference rows
"""
