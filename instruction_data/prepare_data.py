"""Make source data from raw ratings: preference records for learning the task, and the same rows as ids.

    python instruction_data/prepare_data.py --domain netflix --raw ~/netflix-prize
    python instruction_data/prepare_data.py --domain amazon-book --raw ~/amazon-books
    python instruction_data/prepare_data.py --raw Video_Games.jsonl.gz --items meta_Video_Games.jsonl.gz --kind game \
        --output instruction_data/games

Input: ratings of any form that ../rec_data/README.md lists, or a table of your own.
Output: `train`, `valid` and `test`, each as `.json` (records) and `.csv` (ids, ratings, times), `item_mapping.csv`, and
`prepared.json` (settings, digests of the raw files, what was left out or changed). README.md describes them.
"""

from pathlib import Path

from tlrec.data.prepare import main
from tlrec.errors import one_line_errors

if __name__ == "__main__":
    with one_line_errors():
        main(Path(__file__).parent, __doc__)
