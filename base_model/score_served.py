"""Ask a served model about a record file: P(Yes) and P(No) by vLLM's log-probabilities -> the table of evaluate.py.

    vllm serve base_model/movie-7b --dtype bfloat16 --generation-config vllm      # on the machine with the GPU
    OPENAI_BASE_URL=http://localhost:8000/v1 python base_model/score_served.py \
        --model_folder base_model/movie-7b --test_data_path rec_data/movie/test.json

Reads  labelled records; of the folder that export_model.py wrote, tokenizer and prompt_frame.json, not the weights; from
       the environment OPENAI_BASE_URL and, if the server wants a key, OPENAI_API_KEY.
Prints a table and the line `===== auc: <value> =====`; with --output_dir writes metrics.json and predictions.jsonl there.

Prompts are sent as token ids, so BOS, tokenisation and truncation are those of the tuning, and `logprob_token_ids` makes
the server return both answers however unlikely they are; the usual `logprobs: k` leaves out what is not among the k
most probable tokens. That field is vLLM's own, in /v1/completions since 0.26. Nothing is sampled: one token is asked for
because the interface demands one, and is thrown away.
"""

import argparse
import asyncio
import os
import sys
import time
from dataclasses import fields
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # tlrec, wherever this is called from

from tlrec.cot.client import Service, api_key
from tlrec.data.records import RecordFile
from tlrec.errors import InputError, one_line_errors
from tlrec.evaluation.evaluation_set import EvaluationSet
from tlrec.evaluation.results import check_evaluation_dir, record_evaluation
from tlrec.files import read_json
from tlrec.locks import check_unlocked, locked
from tlrec.model.checks import TOKENIZERS
from tlrec.model.prompts import Frame
from tlrec.model.scores import Scores

PROMPTS_AT_ONCE = 128  # in one request; the server makes its own batches of them
SECONDS, ATTEMPTS = 600.0, 3  # for one request


def parse_arguments():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    add = parser.add_argument
    add("--model_folder", required=True, help="what export_model.py wrote; without the weights is enough")
    add("--test_data_path", required=True, help="labelled records to score")
    add("--train_data_path", help="labelled records of the train split, for the floors that know the items")
    add("--served_name", help="name of the model at the server (default: the only one it serves)")
    add("--output_dir", help="folder of the results (default: they are printed)")
    add("--target", help="name of the target domain in metrics.json")
    add("--overwrite", action="store_true", help="replace an evaluation on other test data")
    return parser.parse_args()


async def ask_server(service, served_name, prompts, answer_ids):
    """(name of the model, (n, 2) log-probabilities) from a server; InputError if it does not answer as it should.

    service: `tlrec.cot.client.Service`, closed at the end. The rest as in `answer_log_probabilities`, but for the name,
    which may be None where the server has one model only.
    """
    import openai

    url = service.url.rstrip("/")
    try:
        served = read_names(await service.get("/models"))
        if len(served) != 1 and served_name is None:
            raise ValueError(f"serves {', '.join(served) or 'no model'}; give --served_name")
        served_name = served_name or served[0]
        return served_name, await answer_log_probabilities(service, served_name, prompts, answer_ids)
    except (openai.OpenAIError, ValueError) as error:
        raise InputError(f"{url}: {service.hide(error)}") from None
    finally:
        await service.close()


async def answer_log_probabilities(service, served_name, prompts, answer_ids):
    """(n, 2) natural logarithms of the probabilities of the two answer tokens behind each prompt.

    prompts: lists of token ids; answer_ids: ids of Yes and No. Raises ValueError for a server that does not return both
    for every prompt, or returns something else than log-probabilities.
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
        raise ValueError("these are no log-probabilities; start vLLM without --logprobs-mode")
    return log_p


def read_names(models):
    """Names of the models in the answer of /models; ValueError if it is another one."""
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


def main():
    args = parse_arguments()

    # 1. Check everything that can be checked before a library is imported or a server is asked
    folder = Path(args.model_folder)
    if not (folder / "prompt_frame.json").exists() or not any((folder / name).exists() for name in TOKENIZERS):
        raise InputError(
            f"--model_folder {folder}: no prompt_frame.json and tokenizer there; export_model.py writes them"
        )
    prompt_frame = read_json(folder / "prompt_frame.json")
    test = EvaluationSet(args.test_data_path, RecordFile(args.train_data_path) if args.train_data_path else None)
    if args.output_dir:
        check_unlocked(args.output_dir)
        check_evaluation_dir(args.output_dir, test, args.overwrite)
    if not os.environ.get("OPENAI_BASE_URL"):
        raise InputError("OPENAI_BASE_URL is not set; for vLLM on this machine it is http://localhost:8000/v1")
    service = Service(None, SECONDS, ATTEMPTS, key=api_key(default="none"))  # vLLM needs no key

    # 2. Records to token ids, as in the tuning
    from transformers import AutoTokenizer

    from tlrec.model.tokenization import RecordTokenizer

    frame = Frame(**{field.name: prompt_frame[field.name] for field in fields(Frame)})
    encoder = RecordTokenizer(AutoTokenizer.from_pretrained(folder), frame, prompt_frame["cutoff_len"])
    prompts = encoder.prompts(test.records)

    # 3. Ask the server
    started = time.perf_counter()
    served_name, log_p = asyncio.run(ask_server(service, args.served_name, prompts.input_ids, encoder.answer_ids))
    scores = Scores(*np.exp(log_p.T), prompts.truncated, time.perf_counter() - started)
    print(
        f"{served_name} at {service.url.rstrip('/')}: {len(test)} rows in {scores.seconds:.1f} s "
        f"({len(test) / scores.seconds:.1f} rows/s), {scores.truncated} with a cut prompt; frame: {frame.name}"
    )

    # 4. Numbers, beside their floors
    from tlrec.evaluation.results import results_table

    with locked([args.output_dir], active=bool(args.output_dir)):
        metrics = record_evaluation(
            args.output_dir,
            "score_served.py",
            vars(args),
            test,
            scores,
            frame=frame.name,
            base_model=args.model_folder,
            scoring={"frame": frame.name, "cutoff_len": prompt_frame["cutoff_len"]},
            served_name=served_name,
            target=args.target,
        )
    print(results_table(metrics))
    print(f"===== auc: {metrics['auc']} =====")


if __name__ == "__main__":
    with one_line_errors():
        main()
