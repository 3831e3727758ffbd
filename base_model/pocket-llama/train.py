"""Train pocket-llama: a LLaMA of about 1.5 million parameters that runs the whole chain on two CPU cores.

    python base_model/pocket-llama/train.py --output_dir pocket

`texts.py` generates all text: titles sorted into two lists, and in which of them further titles belong. Two extra losses
show one attention head where to look (see `guidance`); without them the model did not learn to compare in the same time.
In: nothing. Out: a folder in the LLaMA layout (SentencePiece `tokenizer.model`, `config.json`, `model.safetensors` ...)
and `training.json`, the losses along the way.
"""

import argparse
import json
from pathlib import Path

import tlrec  # noqa: F401 - first: it quiets the libraries

# isort: split
import numpy as np
import torch
from pieces import Encoder, train_tokenizer
from texts import lists_text, text
from torch.nn.functional import binary_cross_entropy_with_logits, cross_entropy
from torch.nn.utils.rnn import pad_sequence
from tqdm import tqdm
from transformers import LlamaConfig, LlamaForCausalLM
from transformers.models.llama.modeling_llama import apply_rotary_pos_emb

from tlrec.errors import InputError, one_line_errors
from tlrec.files import write_json

SEED, VOCABULARY, WIDTH, LAYERS = 0, 3072, 128, 6
TOKENS_PER_BATCH, LEARNING_RATE, TEXT_WEIGHT, GUIDANCE = 2048, 2e-3, 0.3, 0.5
# (last step, steps that texts and learning rate are planned for): the first plan was cut short at step 650, so that the
# learning rate falls sooner. There batches and random numbers begin anew.
PLANS = ((650, 1300), (900, 900))
LOG_STEPS, LOGGED = 50, ("answer_loss", "text_loss", "guide_loss")
SCALE = 4.0  # how strongly LoRA acts, a power of two; see `save`
LEAD, COMPONENTS = 3.0, 12  # log-probability of names above Yes and No, and directions, in `open_to_yes_and_no`
GUIDED = 2  # the layer, counted from 0, whose first head is shown where to look


def batches(rng, encode, progress, pool=12):
    """A pool of batches, each a list of samples of similar length."""
    samples, total = [], 0
    while total < pool * TOKENS_PER_BATCH:
        sample = encode(text(rng, progress))
        if len(sample.ids) <= 1024:
            samples.append(sample)
            total += len(sample.ids)
    samples.sort(key=lambda sample: len(sample.ids))
    result, batch = [], []
    for sample in samples:
        if batch and (len(batch) + 1) * len(sample.ids) > TOKENS_PER_BATCH:
            result.append(batch)
            batch = []
        batch.append(sample)
    result.append(batch)
    rng.shuffle(result)
    return [batch for batch in result if any(sample.answers for sample in batch)]


def tensors(batch):
    """Padded tensors of shape (rows, length): ids, answer mask, lists, classes (see Sample)."""

    def padded(name, fill):
        return pad_sequence([torch.tensor(getattr(sample, name)) for sample in batch], True, fill)

    ids = padded("ids", 0)
    answers = torch.zeros_like(ids, dtype=torch.bool)
    for row, sample in enumerate(batch):
        answers[row, sample.answers] = True
    return ids, answers, padded("lists", -1), padded("classes", -1)


def guidance(model, states, probe, lists, classes):
    """Two losses that show the model where to look; faded out as training goes on.

    To compare, the model must learn two things at once, so plain training stays on a plateau for a long time. One loss
    trains a linear probe before layer GUIDED to tell which list a token is in; the other trains one head of that layer to
    look from the words of a question to the words of the lists that mean the same.
    """
    state, layer = states[GUIDED], model.model.layers[GUIDED]
    in_list = lists >= 0
    if not in_list.any():
        return state.sum() * 0
    membership = binary_cross_entropy_with_logits(probe(state[in_list])[:, 0], lists[in_list].float())

    normed, width = layer.input_layernorm(state), layer.self_attn.head_dim
    places = torch.arange(state.shape[1])[None]
    cos, sin = model.model.rotary_emb(state, places)
    q, k = (p(normed)[..., :width][:, None] for p in (layer.self_attn.q_proj, layer.self_attn.k_proj))
    q, k = apply_rotary_pos_emb(q, k, cos, sin)
    scores = (q @ k.transpose(-1, -2))[:, 0] * width**-0.5
    earlier = torch.ones_like(scores[0], dtype=torch.bool).tril(-1)
    match = earlier & in_list[:, None, :] & (classes[:, :, None] == classes[:, None, :]) & (classes >= 0)[:, :, None]
    asking = match.any(-1) & ~in_list
    if not asking.any():
        return membership
    scores = scores[asking]
    everything = scores.masked_fill(~earlier.expand_as(match)[asking], -1e9).logsumexp(-1)
    matching = scores.masked_fill(~match[asking], -1e9).logsumexp(-1)
    return membership + (everything - matching).mean()


def build_model():
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=VOCABULARY,
            hidden_size=WIDTH,
            intermediate_size=2 * WIDTH,
            num_hidden_layers=LAYERS,
            num_attention_heads=WIDTH // 32,
            max_position_embeddings=1024,
            tie_word_embeddings=True,
            bos_token_id=1,
            eos_token_id=2,
            rms_norm_eps=1e-6,
        )
    )
    # Rare tokens keep the difference between their embeddings only if these begin far enough apart.
    torch.nn.init.normal_(model.model.embed_tokens.weight, std=0.06)
    return model


def train(encode):
    """Train a model from random weights; returns it, and the mean losses of every LOG_STEPS steps."""
    torch.set_num_threads(1)  # several add in another order
    torch.manual_seed(SEED)
    model, probe = build_model(), torch.nn.Linear(WIDTH, 1)
    optimizers, fresh = build_optimizers(model, probe), torch.get_rng_state()
    step, recent, log = 0, [], []
    bar = tqdm(total=PLANS[-1][0], mininterval=5, unit="step")
    for last, planned in PLANS:
        torch.set_rng_state(fresh)
        queue = []
        while step < last:
            progress = step / planned
            if not queue:
                queue = batches(np.random.default_rng([SEED, 2, step]), encode, progress)
            set_learning_rate(optimizers, step, progress)
            recent.append(train_step(model, probe, optimizers, progress, queue.pop()))
            step += 1
            bar.update()
            if step % LOG_STEPS == 0:
                log.append({"step": step} | dict(zip(LOGGED, np.mean(recent, axis=0).round(4).tolist())))
                bar.write(json.dumps(log[-1]))
                recent = []
    bar.close()
    return model.eval(), log


def build_optimizers(model, probe):
    """Muon for the weight matrices of the layers, AdamW for everything else."""
    matrices = [p for p in model.model.layers.parameters() if p.ndim == 2]
    others = [model.model.embed_tokens.weight, *(p for p in model.parameters() if p.ndim == 1), *probe.parameters()]
    return [
        torch.optim.Muon(matrices, lr=LEARNING_RATE, weight_decay=0.05, adjust_lr_fn="match_rms_adamw"),
        torch.optim.AdamW(others, lr=LEARNING_RATE, betas=(0.9, 0.98), weight_decay=0.0),
    ]


def set_learning_rate(optimizers, step, progress):
    """Warm-up over 100 steps; from 30 % of the training on, a cosine down to 2 % of the learning rate."""
    cosine = 0.5 * (1 + float(np.cos(np.pi * max(0, progress - 0.3) / 0.7)))
    rate = min(1.0, (step + 1) / 100) * (0.02 + 0.98 * cosine)
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["lr"] = LEARNING_RATE * rate


def train_step(model, probe, optimizers, progress, batch):
    """One optimiser step on `batch`; returns the values that LOGGED names."""
    ids, answers, lists, classes = tensors(batch)
    output = model.model(ids, output_hidden_states=True)
    hidden = output.last_hidden_state[:, :-1]
    targets, is_answer = ids[:, 1:], answers[:, 1:]
    # Every answer counts; of the other tokens a random quarter is enough to learn the language.
    is_text = (targets > 0) & ~is_answer & (torch.rand(targets.shape) < 0.25)
    answer_loss = cross_entropy(model.lm_head(hidden[is_answer]), targets[is_answer])
    text_loss = cross_entropy(model.lm_head(hidden[is_text]), targets[is_text])
    guide_loss = guidance(model, output.hidden_states, probe, lists, classes)
    guide = GUIDANCE * max(0.1, 1 - progress / 0.6)
    (answer_loss + TEXT_WEIGHT * text_loss + guide * guide_loss).backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    for optimizer in optimizers:
        optimizer.step()
        optimizer.zero_grad()
    return float(answer_loss.detach()), float(text_loss.detach()), float(guide_loss.detach())


def open_to_yes_and_no(model, encode, texts=250):
    """Make Yes and No as likely as the names of lists where such a name is due, for both lists alike; README.md says why.

    By the last states before names in fresh texts, the embeddings of both get the same multiple of the mean state, and
    their difference loses the COMPONENTS directions in which these states vary most.
    """
    rng, states, levels = np.random.default_rng([SEED, 4]), [], []
    embeddings = model.model.embed_tokens.weight
    yes, no = encode.names["Yes"], encode.names["No"]
    with torch.no_grad():
        for _ in range(texts):
            sample = encode(lists_text(rng, 1.0, size=10))
            hidden = model.model(torch.tensor([sample.ids])).last_hidden_state[0]
            states.append(hidden[[i - 1 for i in sample.answers]])
            levels.append((states[-1] @ embeddings.T).logsumexp(-1))
        states = torch.cat(states)
        mean = states.mean(0)
        directions = torch.linalg.svd(states - mean, full_matrices=False)[2][:COMPONENTS]
        part = (embeddings[yes] - embeddings[no]) @ directions.T @ directions / 2
        embeddings[yes] -= part
        embeddings[no] += part
        both = (embeddings[yes] + embeddings[no]) / 2
        missing = torch.cat(levels).mean() - LEAD - (states @ both).mean()
        embeddings[[yes, no]] += missing * mean / (mean @ mean)


def save(model, folder):
    """Write configuration and float16 weights, after moving a factor SCALE from the projections to the norms before them.

    The function stays the same to the bit, but LoRA on these projections reads inputs SCALE times as large, so a step of
    the published learning rate moves this narrow model about as much as one that is SCALE^2 times as wide.
    """
    with torch.no_grad():
        for layer in model.model.layers:
            for norm in (layer.input_layernorm, layer.post_attention_layernorm):
                norm.weight.mul_(SCALE)
            attention, mlp = layer.self_attn, layer.mlp
            for projection in (attention.q_proj, attention.k_proj, attention.v_proj, mlp.gate_proj, mlp.up_proj):
                projection.weight.div_(SCALE)
    model.half().save_pretrained(folder)


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("--output_dir", type=Path, required=True)
    folder = parser.parse_args().output_dir
    if (folder / "config.json").exists():
        raise InputError(f"{folder} already holds a model; choose another --output_dir")
    train_tokenizer(folder, SEED, VOCABULARY)
    encode = Encoder(folder)
    model, log = train(encode)
    open_to_yes_and_no(model, encode)
    write_json(folder / "training.json", log)
    save(model, folder)


if __name__ == "__main__":
    with one_line_errors():
        main()
