"""A served language model: the log-probabilities of both answers from a server with vLLM's interface.

Prompts are sent as token ids, so BOS, tokenisation and truncation are those of the tuning, and `logprob_token_ids`
makes the server return both answers however unlikely they are; the usual `logprobs: k` leaves out what is not among
the k most probable tokens. That field is vLLM's own, in /v1/completions since 0.26. Nothing is sampled: one token is
asked for because the interface demands one, and is thrown away.

Of the folder that export_model.py wrote, prompt_frame.json and the tokenizer are read, not the weights.
"""

from dataclasses import fields
from pathlib import Path

import numpy as np

from tlrec.cot.failures import Failure
from tlrec.errors import InputError
from tlrec.files import read_json
from tlrec.model.folders import TOKENIZERS
from tlrec.model.prompts import Frame

PROMPTS_AT_ONCE = 128  # in one request; the server makes its own batches of them
SECONDS, ATTEMPTS = 600.0, 3  # for one request


def read_prompt_frame(folder, flag):
    """The content of prompt_frame.json in the folder of an exported model: the fields of a Frame, and "cutoff_len".

    Raises InputError, naming `flag`, if it or the tokenizer is missing, or if it lacks a field. Imports no torch.
    """
    folder = Path(folder)
    if not (folder / "prompt_frame.json").exists() or not any((folder / name).exists() for name in TOKENIZERS):
        raise InputError(
            f"{flag} {folder}: prompt_frame.json or tokenizer is missing there; export_model.py writes them"
        )
    return read_json(folder / "prompt_frame.json", [field.name for field in fields(Frame)] + ["cutoff_len"])


def load_encoder(folder, prompt_frame):
    """The RecordTokenizer of an exported model; prompt_frame: what `read_prompt_frame` returned."""
    from transformers import AutoTokenizer

    from tlrec.model.tokenization import RecordTokenizer

    frame = Frame(**{field.name: prompt_frame[field.name] for field in fields(Frame)})
    return RecordTokenizer(AutoTokenizer.from_pretrained(folder), frame, prompt_frame["cutoff_len"])


async def ask_server(service, served_name, prompts, answer_ids):
    """(name of the model, (n, 2) log-probabilities) from a server; InputError if it does not answer as it should.

    service: `tlrec.cot.client.Service`, closed at the end. served_name: may be None if the server has one model only.
    The other arguments are those of `answer_log_probabilities`.
    """
    url = service.url.rstrip("/")
    try:
        served = read_names(await service.get("/models"))
        if len(served) != 1 and served_name is None:
            raise ValueError(f"serves {', '.join(served) or 'no model'}; give --served_name")
        served_name = served_name or served[0]
        return served_name, await answer_log_probabilities(service, served_name, prompts, answer_ids)
    except (Failure, ValueError) as error:
        told = service.hide(error)
        raise InputError(told if told.startswith(url) else f"{url}: {told}") from None
    finally:
        await service.close()


async def answer_log_probabilities(service, served_name, prompts, answer_ids):
    """(n, 2) natural logarithms of the probabilities of the two answer tokens after each prompt.

    prompts: lists of token ids; answer_ids: ids of Yes and No. Raises ValueError for a server that does not return both
    for every prompt, or returns anything other than log-probabilities.
    """
    log_p = []
    for start in range(0, len(prompts), PROMPTS_AT_ONCE):
        batch = prompts[start : start + PROMPTS_AT_ONCE]
        body = {
            "model": served_name,
            "prompt": batch,
            "max_tokens": 1,
            "temperature": 0,
            "logprobs": 0,  # a number is needed, its size is not: logprob_token_ids takes precedence
            "logprob_token_ids": list(answer_ids),
            "return_tokens_as_token_ids": True,
        }
        completion, _ = await service.post("/completions", body)
        log_p += read_log_probabilities(completion, len(batch), answer_ids)
    log_p = np.array(log_p, dtype=float)
    if (log_p > 0.001).any() or (np.exp(log_p).sum(axis=1) > 1.001).any():
        raise ValueError("these are not log-probabilities; start vLLM without --logprobs-mode")
    return log_p


def read_names(models):
    """Names of the models in the answer of /models; ValueError if it is not a list of models."""
    try:
        names = [model["id"] for model in models["data"]]
    except (TypeError, KeyError):
        names = [None]
    if not all(isinstance(name, str) for name in names):
        raise ValueError("/models does not answer with a list of models; is this the address of vLLM, with /v1?")
    return names


def read_log_probabilities(completion, n, answer_ids):
    """n pairs of log-probabilities, in the order of the prompts, from the answer of /completions; ValueError if it does
    not have the form of vLLM's."""
    try:
        by_index = {choice["index"]: choice for choice in completion["choices"]}
        if len(completion["choices"]) != n or set(by_index) != set(range(n)):
            raise ValueError(f"/completions does not answer with one choice for each of {n} prompts")
        found = [((by_index[index].get("logprobs") or {}).get("top_logprobs") or [{}])[0] or {} for index in range(n)]
        pairs = [[probabilities.get(f"token_id:{token}") for token in answer_ids] for probabilities in found]
    except (TypeError, KeyError, AttributeError) as error:
        raise ValueError(f"/completions does not answer in the form of vLLM: {error!r}") from None
    for value, token in ((value, token) for pair in pairs for value, token in zip(pair, answer_ids, strict=True)):
        if value is None:
            raise ValueError(
                f"the server does not return the log-probability of token_id:{token}; "
                "logprob_token_ids is needed, which vLLM has since 0.26"
            )
        if type(value) not in (int, float) or not abs(value) < 1e300:
            raise ValueError(f"the log-probability of token_id:{token} is {value!r:.40}, not a number")
    return pairs
