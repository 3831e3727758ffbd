"""The order of the rows in each epoch."""

import torch
from torch.utils.data import Sampler
from transformers.trainer_pt_utils import get_length_grouped_indices


class EpochOrder(Sampler):
    """A new order of the rows in each epoch, which depends on seed and epoch alone: not on the process, not on random
    numbers drawn before, and not on whether the run was interrupted.

    lengths: tokens of each row. group: rows of one group come in batches of similar length; None: all are shuffled.
    epoch: function that returns the current epoch, from 0; whatever follows its decimal point is left out.
    """

    def __init__(self, lengths, group, seed, epoch):
        self.lengths, self.group, self.seed, self.epoch = lengths, group, seed, epoch

    def __len__(self):
        return len(self.lengths)

    def __iter__(self):
        generator = torch.Generator().manual_seed(self.seed + int(self.epoch() or 0))
        if self.group is None:
            return iter(torch.randperm(len(self.lengths), generator=generator).tolist())
        return iter(get_length_grouped_indices(self.lengths, self.group, generator=generator))
