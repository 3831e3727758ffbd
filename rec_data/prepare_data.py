"""Make target data from raw ratings: preference records for tuning and testing, and the same rows as ids.

    python rec_data/prepare_data.py --domain movie --raw ~/ml-100k
    python rec_data/prepare_data.py --domain book --download
    python rec_data/prepare_data.py --raw ~/ml-32m --output rec_data/ml-32m
    python rec_data/prepare_data.py --ratings games.csv --items titles.csv --kind game --output rec_data/game

Input: ratings of any form that README.md in this folder lists, or a table of your own.
Output: `train`, `valid` and `test`, each as `.json` (records) and `.csv` (ids, ratings, times), `item_mapping.csv`, and
`prepared.json` (settings, digests of the raw files, what was left out or changed). README.md describes them.
"""

from pathlib import Path

from tlrec.data.prepare import main
from tlrec.errors import one_line_errors

if __name__ == "__main__":
    with one_line_errors():
        main(Path(__file__).parent, __doc__)
