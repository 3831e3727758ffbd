"""SASRec, GRU4Rec and Caser as models of P(like | history with likes and dislikes, target), in plain PyTorch.

The papers rank the next item among all items; here the target is given and the question is whether it will be liked. So
the encoder of each paper is kept, with its sizes, dropout and optimiser, and three things are the same for all:

    input    embedding of the item + embedding of like or dislike, padded on the left
    output   logit = h . t[target] + b[target] + w . h + b, with h the encoded history; w learns how generous a user is
    loss     binary cross-entropy on the label of the target

Training replaces each item by "unknown" with probability UNKNOWN_SHARE, so that the embedding of unseen items is
learned. It stops when the log-loss on validation rows has not improved for `patience` epochs (20 in SASRec's section
IV), and the best state is kept. The same seed gives the same numbers on one CPU thread.
"""

import copy

import numpy as np
import torch
from torch import nn
from torch.nn import functional

PADDING, UNKNOWN = 0, 1  # item ids
DISLIKED, LIKED = 1, 2  # feedback ids, beside PADDING
UNKNOWN_SHARE = 0.1
EVAL_STEPS = 20
ROWS_AT_ONCE = 4096  # in prediction


class SequenceModel(nn.Module):
    """What the three have in common. A subclass defines, as in its paper, `size`, `batch_size`, `optimizer()` and
    `encode(items, history)`: item ids (n, length), embedded histories (n, length, size) to hidden states (n, size)."""

    def __init__(self, n_items, length):
        """n_items: number of ids, including padding and unknown. length: items in the longest history."""
        super().__init__()
        self.length = length
        self.items = nn.Embedding(n_items, self.size, padding_idx=PADDING)
        self.feedback = nn.Embedding(3, self.size, padding_idx=PADDING)
        self.targets = nn.Embedding(n_items, self.size)
        self.target_bias = nn.Embedding(n_items, 1)
        self.generosity = nn.Linear(self.size, 1)
        for embedding in (self.items, self.feedback, self.targets):
            nn.init.normal_(embedding.weight, std=1 / self.size)  # as in Caser's published code
        nn.init.zeros_(self.target_bias.weight)
        with torch.no_grad():
            self.items.weight[PADDING] = self.feedback.weight[PADDING] = 0

    def forward(self, items, feedback, targets):
        """Logits of P(like), (n,), from item and feedback ids of the histories, (n, length), and target ids, (n,); or (m,)
        of one history, (1, length), and many targets, (m,)."""
        history = self.items(items) + self.feedback(feedback)
        hidden = self.encode(items, history)
        taste = (hidden * self.targets(targets)).sum(dim=1)
        return taste + (self.target_bias(targets) + self.generosity(hidden)).squeeze(1)


class SASRec(SequenceModel):
    """Kang and McAuley (2018), Self-Attentive Sequential Recommendation, ICDM.

    Two blocks of causal self-attention with one head, learned positions, the item embedding shared with the output;
    d = 50, batch 128, Adam with 0.001, and dropout 0.2 (theirs for MovieLens), as in section IV and the published code.
    """

    size, batch_size, dropout = 50, 128, 0.2

    def __init__(self, n_items, length):
        super().__init__(n_items, length)
        self.targets = self.items
        self.positions = nn.Parameter(torch.empty(length, self.size).normal_(std=1 / self.size))
        self.blocks = nn.ModuleList(
            nn.TransformerEncoderLayer(self.size, 1, self.size, self.dropout, batch_first=True, norm_first=True)
            for _ in range(2)
        )
        self.norm = nn.LayerNorm(self.size)

    def states(self, items, history):
        """Hidden states of all positions, (n, length, size), each seeing the items up to it; zero at padding."""
        known = items != PADDING
        later = torch.ones(self.length, self.length, dtype=torch.bool).triu(1)
        hidden_from = later | ~known[:, None, :]
        hidden_from &= ~torch.eye(self.length, dtype=torch.bool)  # a softmax over no position is NaN
        states = functional.dropout(history * self.size**0.5 + self.positions, self.dropout, self.training)
        for block in self.blocks:
            states = block(states, hidden_from)
        return self.norm(states) * known[:, :, None]

    def encode(self, items, history):
        return self.states(items, history)[:, -1]

    def optimizer(self):
        return torch.optim.Adam(self.parameters(), lr=1e-3)


class GRU4Rec(SequenceModel):
    """Hidasi et al. (2016), Session-based Recommendations with Recurrent Neural Networks, ICLR.

    One layer of 100 gated recurrent units; batch 50, dropout 0.5, Adagrad with 0.01, as in the paper and in its code
    for the loss TOP1 on RSC15.
    """

    size, batch_size, dropout = 100, 50, 0.5

    def __init__(self, n_items, length):
        super().__init__(n_items, length)
        self.cell = nn.GRUCell(self.size, self.size)

    def encode(self, items, history):
        hidden = history.new_zeros(len(history), self.size)
        for position in range(self.length):
            known = (items[:, position] != PADDING)[:, None]
            hidden = torch.where(known, self.cell(history[:, position], hidden), hidden)
        return functional.dropout(hidden, self.dropout, self.training)

    def optimizer(self):
        return torch.optim.Adagrad(self.parameters(), lr=0.01)


class Caser(SequenceModel):
    """Tang and Wang (2018), Personalized Top-N Sequential Recommendation via Convolutional Sequence Embedding, WSDM.

    16 horizontal filters of every height, pooled by maximum over time, and 4 vertical filters, then a layer of size
    d = 50; all ReLU, dropout 0.5, Adam with 0.001 and weight decay 1e-6, as in the published code; batch 100, as in the
    paper. No user embeddings, because test users are new; the filters cover the whole history, not its last five items.
    """

    size, batch_size, dropout = 50, 100, 0.5

    def __init__(self, n_items, length):
        super().__init__(n_items, length)
        self.horizontal = nn.ModuleList(nn.Conv1d(self.size, 16, height) for height in range(1, length + 1))
        self.vertical = nn.Linear(length, 4, bias=False)
        self.dense = nn.Linear(16 * length + 4 * self.size, self.size)

    def encode(self, items, history):
        columns = history.transpose(1, 2)  # (n, size, length)
        features = [functional.relu(filters(columns)).amax(dim=2) for filters in self.horizontal]
        features.append(self.vertical(columns).flatten(1))
        return functional.relu(self.dense(functional.dropout(torch.cat(features, 1), self.dropout, self.training)))

    def optimizer(self):
        return torch.optim.Adam(self.parameters(), lr=1e-3, weight_decay=1e-6)


def item_ids(preferences):
    """{item: id} of every item in histories and targets, in order of appearance; ids start after UNKNOWN."""
    items = (item for preference in preferences for item in (*preference.history, preference.target))
    return {item: number for number, item in enumerate(dict.fromkeys(items), start=UNKNOWN + 1)}


def logits(model, rows):
    """Logits of encoded rows, (n,), without dropout or gradient."""
    model.eval()
    with torch.inference_mode():
        parts = zip(*(column.split(ROWS_AT_ONCE) for column in rows), strict=True)
        return torch.cat([model(*part) for part in parts])


def train(model, rows, labels, valid_rows, valid_labels, num_epochs, patience):
    """Train `model` in place, ending with its state at the best validation; returns (that step, its log-loss). It ends
    after `patience` epochs without a better validation.

    rows, valid_rows: from `Fitted.encode`. labels, valid_labels: (n,) float tensors of 0 and 1. Validates after every epoch,
    and in long epochs every EVAL_STEPS steps: overlapping windows are memorised within a single epoch.
    """
    optimizer = model.optimizer()
    loss_of = functional.binary_cross_entropy_with_logits
    best_loss, best_step, best_epoch, best_state, step = float("inf"), 0, 0, None, 0
    for epoch in range(1, num_epochs + 1):
        batches = torch.randperm(len(labels)).split(model.batch_size)
        for number, part in enumerate(batches, start=1):
            model.train()
            items, feedback, targets = (column[part] for column in rows)
            items, targets = (
                ids.masked_fill((torch.rand(ids.shape) < UNKNOWN_SHARE) & (ids != PADDING), UNKNOWN)
                for ids in (items, targets)
            )
            loss = loss_of(model(items, feedback, targets), labels[part])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            step += 1
            if number % EVAL_STEPS and number < len(batches):
                continue
            loss = loss_of(logits(model, valid_rows), valid_labels).item()
            if loss < best_loss:
                best_loss, best_step, best_epoch, best_state = loss, step, epoch, copy.deepcopy(model.state_dict())
        if epoch - best_epoch >= patience:
            break
    model.load_state_dict(best_state)
    return best_step, best_loss


class Fitted:
    """A network (SASRec, GRU4Rec or Caser) trained on the Preferences `shots` and validated on `valid`.

    longest: items of the longest history that will be scored. history_of: from a Preference to its items and whether each
    is liked, see tlrec.baselines.order. best_step, valid_log_loss: of the best validation.
    """

    def __init__(
        self, network, shots, shot_labels, valid, valid_labels, longest, seed, num_epochs, patience, history_of
    ):
        torch.manual_seed(seed)
        self.ids, self.history_of = item_ids(shots), history_of
        self.length = max(1, longest, *(len(preference.history) for part in (shots, valid) for preference in part))
        self.model = network(len(self.ids) + UNKNOWN + 1, self.length)
        labels, valid_labels = (torch.tensor(part, dtype=torch.float32) for part in (shot_labels, valid_labels))
        found = train(self.model, self.encode(shots), labels, self.encode(valid), valid_labels, num_epochs, patience)
        self.best_step, self.valid_log_loss = found

    def encode(self, preferences):
        """Item ids and feedback ids of the histories, (n, length) each, padded on the left, and target ids, (n,)."""
        items = np.full((len(preferences), self.length), PADDING)
        feedback = np.full_like(items, PADDING)
        for row, preference in enumerate(preferences):
            history = self.history_of(preference)
            for place, (item, liked) in enumerate(history, start=self.length - len(history)):
                items[row, place], feedback[row, place] = self.ids.get(item, UNKNOWN), LIKED if liked else DISLIKED
        targets = np.array([self.ids.get(preference.target, UNKNOWN) for preference in preferences])
        return tuple(map(torch.from_numpy, (items, feedback, targets)))

    def of_targets(self, preferences):
        """P(like) of each preference's target, (n,)."""
        return torch.sigmoid(logits(self.model, self.encode(preferences)).double()).numpy()

    def of_items(self, preference, items):
        """The logit of P(like) of items, (n,), after the history of a preference."""
        history, feedback, _ = self.encode([preference])
        targets = torch.tensor([self.ids.get(item, UNKNOWN) for item in items])
        self.model.eval()
        with torch.inference_mode():
            return self.model(history, feedback, targets).double().numpy()
