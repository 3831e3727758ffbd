"""A server in the form of vLLM 0.32, which answers /v1/models and /v1/completions by a small model."""

import json

import torch

MODELS = {"object": "list", "data": [{"id": "movie", "object": "model", "created": 0, "owned_by": "vllm"}]}


def like_vllm(model):
    """The `answer` of `tests.support.hostile.serving`. Choices come last first: a client must look at their index."""

    def choice(prompt, body, index):
        with torch.no_grad():
            scores = model(input_ids=torch.tensor([prompt])).logits[0, -1].log_softmax(-1)
        sampled = int(scores.argmax())
        found = {
            f"token_id:{token}": max(float(scores[token]), -9999.0) for token in (sampled, *body["logprob_token_ids"])
        }
        name = f"token_id:{sampled}"
        logprobs = {"text_offset": [0], "token_logprobs": [found[name]], "tokens": [name], "top_logprobs": [found]}
        nothing = dict.fromkeys(("stop_reason", "token_ids", "prompt_logprobs"))
        return {"index": index, "text": "?", "finish_reason": "length", "logprobs": logprobs, **nothing}

    def answer(handler):
        if handler.path == "/v1/models":
            return handler.reply(MODELS)
        assert handler.path == "/v1/completions"
        body = json.loads(handler.body)
        if body["model"] != "movie":
            return handler.reply({"error": {"message": f"The model `{body['model']}` does not exist."}}, 404)
        choices = [choice(prompt, body, index) for index, prompt in enumerate(body["prompt"])]
        facts = {"id": "cmpl-1", "object": "text_completion", "created": 0, "model": body["model"], "usage": None}
        return handler.reply(facts | {"choices": choices[::-1]})

    return answer


def completions(server):
    """The requests for completions that a server has got."""
    return [json.loads(body) for path, body in server.requests if path == "/v1/completions"]
