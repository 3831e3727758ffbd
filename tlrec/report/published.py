"""AUCs of papers, for the reference rows. LLaMA-7B for TALLRec and TLRec; shots 0 is zero-shot.

Sources: TALLRec: Bao et al., RecSys 2023. TLRec, first and later figures, and the sequential recommenders of the same
few-shot setting: as listed in this project's design notes. Movie and Book only.
"""

from dataclasses import dataclass

# (method, target, {shots: AUC})
RESULTS = [
    ("TALLRec", "movie", {16: 0.6724, 64: 0.6748, 256: 0.7198}),
    ("TALLRec", "book", {16: 0.5636, 64: 0.6039, 256: 0.6438}),
    ("TLRec", "movie", {0: 0.7059, 16: 0.7262, 64: 0.7304, 256: 0.7411}),
    ("TLRec, later figure", "movie", {0: 0.7216}),
    ("TLRec", "book", {0: 0.607, 16: 0.6117, 64: 0.6219, 256: 0.6348}),
    ("TLRec, later figure", "book", {0: 0.674}),
]
SEQUENTIAL = "SASRec, GRU4Rec and Caser in the same few-shot setting: 0.489 to 0.542."

# SHA-256 of the published test file, which tells whether a workspace has the same rows; that of Book is not available.
TEST_FILES = {"movie": "474e02cde467c8c7001168a4a390a581217edcd8f4726c39aa88c9aa37c54d5e"}


@dataclass(frozen=True)
class Published:
    """One method's {shots: AUC}; same_rows: whether they were measured on the same test rows."""

    method: str
    aucs: dict
    same_rows: bool

    @property
    def label(self):
        return f"published: {self.method}, {'same' if self.same_rows else 'other'} test rows"


def published_for(target, test_sha256):
    """The Published results for a test file: by its digest, else by the target's name."""
    same = [name for name, digest in TEST_FILES.items() if digest == test_sha256]
    names = same or [target]
    return [Published(method, aucs, bool(same)) for method, name, aucs in RESULTS if name in names]
