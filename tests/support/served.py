"""A server in the form of vLLM 0.32, which answers /v1/models and /v1/completions by a small model."""

import json

import torch


def like_vllm(model, served=("movie",), knows_the_field=True, mode="raw_logprobs"):
    """The `answer` of `tests.support.hostile.serving`. served: names of the model. knows_the_field: vLLM has
    `logprob_token_ids` since 0.26; older ones ignore it. mode: what --logprobs-mode makes of the scores."""

    def choice(prompt, body, index):
        with torch.no_grad():
            logits = model(input_ids=torch.tensor([prompt])).logits[0, -1]
        scores = logits if mode == "raw_logits" else logits.log_softmax(-1)
        sampled = int(logits.argmax())
        tokens = [sampled, *(body["logprob_token_ids"] if knows_the_field else [])]
        found = {f"token_id:{token}": max(float(scores[token]), -9999.0) for token in tokens}
        name = f"token_id:{sampled}"
        logprobs = {"text_offset": [0], "token_logprobs": [found[name]], "tokens": [name], "top_logprobs": [found]}
        nothing = dict.fromkeys(("stop_reason", "token_ids", "prompt_logprobs"))
        return {"index": index, "text": "?", "finish_reason": "length", "logprobs": logprobs, **nothing}

    def answer(handler):
        if handler.path == "/v1/models":
            data = [{"id": name, "object": "model", "created": 0, "owned_by": "vllm"} for name in served]
            return handler.reply({"object": "list", "data": data})
        assert handler.path == "/v1/completions"
        body = json.loads(handler.body)
        if body["model"] not in served:
            return handler.reply({"error": {"message": f"The model `{body['model']}` does not exist."}}, 404)
        choices = [choice(prompt, body, index) for index, prompt in enumerate(body["prompt"])]
        facts = {"id": "cmpl-1", "object": "text_completion", "created": 0, "model": body["model"], "usage": None}
        return handler.reply(facts | {"choices": choices[::-1]})

    return answer


def completions(server):
    """The requests for completions that a server has got."""
    return [json.loads(body) for path, body in server.requests if path == "/v1/completions"]
