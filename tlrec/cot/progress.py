"""The progress line shown while calls are made, and its wording."""

import sys

from tqdm import tqdm

from tlrec.cot.answers import is_hit
from tlrec.cot.samples import STAGES


class Progress:
    """One line while calls are made: samples, answers, failures by kind, tokens, cost, Hit@10, time left."""

    def __init__(self, samples, journal, budget):
        self.journal, self.budget = journal, budget
        self.open = {sample.pid: sample for sample in samples}
        self.complete = self.hits = 0
        self._count(list(self.open))
        self.bar = tqdm(
            total=len(samples),
            initial=len(samples) - len(self.open),
            unit=" samples",
            file=sys.stderr,
            mininterval=0.5 if sys.stderr.isatty() else 30,
            bar_format="{n_fmt}/{total_fmt} samples [{elapsed}<{remaining}]{postfix}",
        )

    def show(self, pids=(), batch=None):
        """Update the line from the journal for some samples; `batch` says how far a batch is."""
        before = len(self.open)
        self._count(pids)
        facts = [f"{self.journal.n_answers} answers", spent_tokens(self.journal)]
        if self.budget.priced:
            facts.append(f"{self.budget.spent():.2f} USD")
        if self.complete:
            facts.append(f"Hit@10 {self.hits / self.complete:.3f}")
        if self.journal.failures:
            facts.append(f"failures{told(self.journal.failures)}")
        if batch:
            facts.append(batch)
        self.bar.set_postfix_str(", ".join(facts), refresh=False)
        self.bar.update(before - len(self.open))

    def _count(self, pids):
        for pid in pids:
            texts, sample = self.journal.texts(pid), self.open.get(pid)
            if sample and (len(texts) == len(STAGES) or self.journal.flaw(pid)):
                del self.open[pid]
                if not self.journal.flaw(pid):
                    self.complete += 1
                    self.hits += is_hit(texts[-1], sample.history, sample.candidates, sample.target)

    def close(self):
        self.bar.close()


def spent_tokens(journal):
    tokens = journal.tokens
    return (
        f"{tokens['prompt'] + tokens['batch_prompt']:,} in, {tokens['completion'] + tokens['batch_completion']:,} out"
    )


def told(counts):
    """Counts by kind in brackets, or nothing."""
    return f" ({', '.join(f'{count} {kind}' for kind, count in counts.most_common())})" if counts else ""
