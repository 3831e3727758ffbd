"""P(Yes) of candidates, by a model in this process or by a served one. Imports no torch before a scorer is made."""

import asyncio

import numpy as np

from tlrec.data.preferences import with_targets
from tlrec.model.folders import adapter_folder, check_base_model, check_lora_weights
from tlrec.model.identity import base_identity
from tlrec.model.prompts import load_frame
from tlrec.runs import SCORING, scoring_of, scoring_said
from tlrec.scoring.scores import Scores
from tlrec.scoring.served import ATTEMPTS, SECONDS, ask_server, load_encoder


def check_local(args):
    """Raise InputError for a base model or an adapter that cannot be used; returns the
    settings that affect scores: those the adapter keeps from its tuning, and those given by flags."""
    check_base_model(args.base_model)
    args.lora_weights = adapter_folder(args.lora_weights, "--lora_weights")
    if args.lora_weights:
        check_lora_weights(args.lora_weights, args.base_model, base_identity(args.base_model), args.other_base)
    flags = {"frame": args.prompt_frame} | {name: getattr(args, name) for name in SCORING if name != "frame"}
    given = {name: value for name, value in flags.items() if value is not None}
    kept = scoring_of(args.lora_weights, args.base_model)
    check_base_model(args.base_model, (SCORING | kept | given)["cutoff_len"])
    return kept, given


def local_scorer(args, kept, given):
    """A function from requests, as `score_candidates` takes them, to the list of their scores; kept, given: what
    `check_local` returned."""
    from tlrec.scoring.candidates import score_candidates
    from tlrec.scoring.loaded import load_as_tuned

    setup, scoring = load_as_tuned(args, args.lora_weights, kept, given)
    frame = load_frame(scoring["frame"], setup.tokenizer)
    model = setup.attach(args.lora_weights)
    print(scoring_said(scoring | setup.machine_scoring, kept))

    said = set()  # both calls of --explain say once how candidates are scored

    def score(requests):
        options = {"cutoff_len": scoring["cutoff_len"], "token_budget": args.token_budget, "progress": "scoring"}
        return list(score_candidates(model, setup.tokenizer, requests, frame, said=said, **options))

    return score


def served_scorer(args, prompt_frame):
    """The same from a server's log-probabilities; prompt_frame: what `read_prompt_frame` returned."""
    from tlrec.cot.client import Service, api_key

    def service():
        return Service(args.served, SECONDS, ATTEMPTS, key=api_key(default="none"))  # vLLM needs no key

    service()  # a wrong address or key is found before the tokenizer is loaded
    encoder = load_encoder(args.base_model, prompt_frame)

    def score(requests):
        asked = [encoder.prompts(with_targets(record, items)) for record, items in requests]
        ids = [prompt for prompts in asked for prompt in prompts.input_ids]
        name, log_p = asyncio.run(ask_server(service(), args.served_name, ids, encoder.answer_ids))
        ends = np.cumsum([len(items) for _, items in requests])[:-1]
        parts = np.split(np.exp(log_p), ends)
        return [Scores(*part.T, prompts.truncated, 0.0) for part, prompts in zip(parts, asked, strict=True)]

    return score
