"""P(Yes) of candidates, by a model in this process or by a served one. Imports no torch before a scorer is made."""

import asyncio

import numpy as np

from tlrec import runs
from tlrec.data.preferences import with_targets
from tlrec.model.prompts import load_frame
from tlrec.model.scores import Scores
from tlrec.model.served import ATTEMPTS, SECONDS, ask_server, load_encoder


def local_scorer(args):
    """A function from requests, as `score_candidates` takes them, to the list of their scores."""
    from tlrec.model.ranking import score_candidates
    from tlrec.model.setup import ModelSetup

    setup = ModelSetup(
        args.base_model,
        args.device or "auto",
        args.dtype or "auto",
        args.quantization or "none",
        None,
        args.trust_remote_code,
    )
    frame = load_frame(frame_name(args), setup.tokenizer)
    if args.lora_weights:
        setup.check_adapter(args.lora_weights)
    model = setup.attach(args.lora_weights)

    def score(requests):
        options = {"cutoff_len": cutoff_len(args), "token_budget": args.token_budget, "progress": "scoring"}
        return list(score_candidates(model, setup.tokenizer, requests, frame, **options))

    return score


def frame_name(args):
    """Name of the prompt frame: the flag's, else the one of the adapter's tuning."""
    return args.prompt_frame or runs.frame_of(args.lora_weights, args.base_model) or "alpaca"


def cutoff_len(args):
    """Tokens of a prompt."""
    return 512 if args.cutoff_len is None else args.cutoff_len


def served_scorer(args, prompt_frame):
    """The same by a server's log-probabilities; prompt_frame: what `read_prompt_frame` returned."""
    from tlrec.cot.client import Service, api_key

    def service():
        return Service(args.served, SECONDS, ATTEMPTS, key=api_key(default="none"))  # vLLM needs no key

    service()  # an address or a key that is none shows before the tokenizer is loaded
    encoder = load_encoder(args.base_model, prompt_frame)

    def score(requests):
        asked = [encoder.prompts(with_targets(record, items)) for record, items in requests]
        ids = [prompt for prompts in asked for prompt in prompts.input_ids]
        name, log_p = asyncio.run(ask_server(service(), args.served_name, ids, encoder.answer_ids))
        ends = np.cumsum([len(items) for _, items in requests])[:-1]
        parts = np.split(np.exp(log_p), ends)
        return [Scores(*part.T, prompts.truncated, 0.0) for part, prompts in zip(parts, asked, strict=True)]

    return score
