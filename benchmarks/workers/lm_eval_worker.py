"""lm-evaluation-harness, in its own environment: its log-likelihoods of two tokens behind each prompt.

settings  model (folder), dtype, device
request   prompts: [[token ids], ...], answer_ids: [yes, no], batch_size: rows in a forward pass
answer    log_p: [[log P(yes), log P(no)], ...]
Both tokens are read from one forward pass, as it does for continuations of one token.
"""

from lm_eval.models.huggingface import HFLM
from serve import serve, versions


def load(model, dtype, device):
    lm = HFLM(pretrained=model, backend="causal", dtype=dtype, device=device)

    def prepare(prompts, answer_ids, batch_size):
        lm.batch_size_per_gpu = batch_size
        requests = [
            ((str(number), str(token)), prompt, [token])  # it keeps results by text, which is not needed here
            for number, prompt in enumerate(prompts)
            for token in answer_ids
        ]

        def work():
            found = [log_p for log_p, _ in lm._loglikelihood_tokens(requests, disable_tqdm=True)]
            return {"log_p": [*zip(found[::2], found[1::2])]}

        return work

    return {"versions": versions("lm_eval", "torch", "transformers")}, prepare


if __name__ == "__main__":
    serve(load)
