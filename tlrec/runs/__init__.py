"""`run.json` beside every output: what made it, is it complete, and is it what would be made now. Locks. Imports no torch.

schema    the format of run.json
record    how a result was made: described, written, read
scoring   the settings that a score depends on, which travel with the adapter
same      was this made from the same inputs by the same settings? What differs, in words
folder    RunFolder: a folder and the run whose result belongs there
locks     one process at a time writes to a folder
"""

from tlrec.runs.folder import RunFolder
from tlrec.runs.locks import check_unlocked, locked
from tlrec.runs.record import (
    ADAPTER_CONFIG,
    ADAPTER_WEIGHTS,
    FRAME_FILE,
    RUN,
    adapter_weights,
    base_said,
    describe_adapter,
    describe_data,
    describe_records,
    describe_run,
    read_run,
    write_run,
)
from tlrec.runs.same import adapter_parts, base_parts, differences, flags_of
from tlrec.runs.scoring import HOW, SCORING, frame_of, identity_of_scores, scoring_of, scoring_said
