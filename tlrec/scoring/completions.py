"""How probable texts are as continuations of a context, and which of them the model would write itself.

    for log_p, greedy in score_completions(model, tokenizer, [('"Alien (', ("1979", "1994")), ...]): ...

Contexts of the same length go through the model together, once each; their continuations follow on the cached keys and
values. If a model's cache cannot be continued, every text is computed whole. Nothing is generated: greedy decoding
would write a text if each of its tokens is the most probable one after those before it.
"""

from functools import partial

import torch
from tqdm import tqdm

from tlrec.model.parts import prefix_states
from tlrec.model.tokenization import encode_completions
from tlrec.scoring.engine import Engine, for_inference, padded, without_gradients


def score_completions(model, tokenizer, questions, token_budget=None, progress=None):
    """[(log_p, greedy)] of each question, (completions,) arrays each: the log-probability (nats, float64) of each
    completion after the context, summed over its tokens, and whether all of them are the most probable ones.

    questions: (context, completions) pairs of text, which `tlrec.model.tokenization.encode_completions` splits into
    tokens. What might follow a completion, such as EOS, does not count. progress: text for a progress bar; None shows
    none.
    """
    encoded = [encode_completions(tokenizer, context, completions) for context, completions in questions]
    engine, results = Engine(model, token_budget, answer_ids=()), [None] * len(encoded)
    by_length = {}
    for place, (context, _) in enumerate(encoded):
        by_length.setdefault(len(context), []).append(place)
    bar = tqdm(total=len(encoded), desc=progress, unit="text", disable=progress is None, leave=False)
    with bar, for_inference(model, merge=True), without_gradients(model):
        for length in sorted(by_length, reverse=True):
            places = by_length[length]
            row_tokens = max(len(encoded[p][1]) * (length + max(map(len, encoded[p][1]))) for p in places)
            for part, found in engine.in_parts(places, row_tokens, partial(_forward, model, engine, encoded)):
                for place, result in zip(part, found, strict=True):
                    results[place] = result
                bar.update(len(part))
    return results


def _forward(model, engine, encoded, part):
    """[(log_p, greedy)] of the questions numbered `part`, whose contexts have the same length."""
    contexts = [encoded[place][0] for place in part]
    rows = [(number, ids) for number, place in enumerate(part) for ids in encoded[place][1]]
    behind, fed = [number for number, _ in rows], [ids[:-1] for _, ids in rows]  # the last token's output is not needed
    length = len(contexts[0])
    cache, hidden = prefix_states(model, engine.hidden_states, torch.tensor(contexts, device=engine.device))
    if cache is None:
        whole = padded([contexts[number] + ids for number, ids in zip(behind, fed, strict=True)], engine.device)
        hidden = engine.hidden_states(input_ids=whole, use_cache=False)[:, length - 1 :]
    else:
        hidden = hidden[behind, -1:]
        if any(fed):
            ids = padded(fed, engine.device)
            positions = torch.arange(length, length + ids.shape[1], device=engine.device)[None]
            hidden = torch.cat([hidden, engine.go_on(cache, behind, ids, positions)], dim=1)
    places = [(row, place) for row, (_, ids) in enumerate(rows) for place in range(len(ids))]
    at = torch.tensor(places, device=engine.device).T
    targets = torch.tensor([token for _, ids in rows for token in ids], device=engine.device)
    log_p, best = engine.token_log_p(hidden[at[0], at[1]], targets)
    row = at[0]
    log_p = torch.zeros(len(rows), dtype=torch.float64, device=engine.device).index_add(0, row, log_p).cpu().numpy()
    wrong = torch.zeros(len(rows), device=engine.device).index_add(0, row, (~best).float()).cpu().numpy()
    ends = [0]
    for place in part:
        ends.append(ends[-1] + len(encoded[place][1]))
    return [(log_p[start:end], wrong[start:end] == 0) for start, end in zip(ends, ends[1:])]
