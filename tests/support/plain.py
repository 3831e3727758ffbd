"""What the plainest code says of a model, one prompt at a time, against which everything faster is held; and what passes
through the model."""

import numpy as np
import torch


def plain_log_p(model, encoder, records):
    """(n, 2) log-probabilities of Yes and No, without cache, mask, padding and merging."""
    with torch.no_grad():
        prompts = encoder.prompts(records).input_ids
        logits = [model(input_ids=torch.tensor([ids]), use_cache=False).logits[0, -1].double() for ids in prompts]
    chosen = [row.log_softmax(-1)[list(encoder.answer_ids)].numpy() for row in logits]
    return np.array(chosen).reshape(len(records), 2)


def log_p(scores):
    """The same of Scores or CandidateScores."""
    return np.stack([scores.log_p_yes, scores.log_p_no], axis=1)


class Passes:
    """Tokens of the forward passes of a PeftModel's backbone, padding included; out of memory above `limit` tokens."""

    def __init__(self, model, limit=10**9):
        self.sizes, self.limit = [], limit
        self.hook = model.get_base_model().model.register_forward_pre_hook(self.count, with_kwargs=True)

    def count(self, module, arguments, options):
        self.sizes.append(options["input_ids"].numel())
        if self.sizes[-1] > self.limit:
            raise torch.OutOfMemoryError

    def __enter__(self):
        return self

    def __exit__(self, *error):
        self.hook.remove()
