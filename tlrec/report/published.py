"""AUCs of papers, shown only beside the published test rows, which are known by their content.

LLaMA-7B; shots 0 is zero-shot. TALLRec: Bao et al. (RecSys 2023), as the TLRec paper lists it in its few-shot setting.
TLRec: the paper. "Later": 72.16 and 67.4 are comments in the evaluation scripts of the public repository
(ljy2222/TLRec, commit 561abcf).
"""

# {test file (tlrec/data/published.py): {method: {shots: AUC}}}
RESULTS = {
    "Movie test": {
        "TALLRec": {16: 0.6724, 64: 0.6748, 256: 0.7198},
        "TLRec": {0: 0.7059, 16: 0.7262, 64: 0.7304, 256: 0.7411},
        "TLRec, later": {0: 0.7216},
    },
    "Book test": {
        "TALLRec": {16: 0.5636, 64: 0.6039, 256: 0.6438},
        "TLRec": {0: 0.607, 16: 0.6117, 64: 0.6219, 256: 0.6348},
        "TLRec, later": {0: 0.674},
    },
}
SAID = (
    "Published numbers are of LLaMA-7B, on these very rows: TALLRec and TLRec from the TLRec paper; the later figures "
    "are comments in the evaluation scripts of its public repository (commit 561abcf). SASRec, GRU4Rec and Caser in the "
    "same few-shot setting: 0.489 to 0.542."
)
