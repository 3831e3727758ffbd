"""base_model/score_served.py: P(Yes) and P(No) by a server's log-probabilities.

The server (tests/support/served.py) answers in the form of vLLM 0.32 with real probabilities of the tiny model.

1. Probabilities and AUC are those of evaluate.py on base and adapter; the weights of the folder are not read.
2. Prompts go out as token ids in several requests, and answers that come back in another order are put right.
3. The key comes from the environment only, and is in no file; one that cannot be sent is refused first; keys and passwords
   that a server echoes are in no message.
4. Whatever is no list of models or no answer of vLLM's with both answers' log-probabilities for each prompt, several served
   models, an unknown one, a server that is down, an incomplete folder: one line each, and never a number.
"""

import asyncio
import json
import shutil
from urllib.parse import quote

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

from tests.support.hostile import serving
from tests.support.served import MODELS, completions, like_vllm
from tlrec.cot.client import Service
from tlrec.data.records import read_records
from tlrec.evaluation.results import read_evaluation
from tlrec.model.prompts import load_frame
from tlrec.scoring.served import answer_log_probabilities

SCRIPT = "base_model/score_served.py"


@pytest.fixture(scope="module")
def movie_test(tiny_workspace):
    return tiny_workspace / "rec_data" / "movie" / "test.json"


@pytest.fixture(scope="module")
def model(merged_folder):
    return AutoModelForCausalLM.from_pretrained(merged_folder).eval()


@pytest.fixture
def score(run_script, client_folder, movie_test, monkeypatch):
    """score(url, *flags): the script, asking the server there."""

    def run(url, *flags, folder=client_folder):
        monkeypatch.setenv("OPENAI_BASE_URL", url)
        return run_script(SCRIPT, "--model_folder", folder, "--test_data_path", movie_test, *flags)

    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    return run


def assert_one_line(result, url, message):
    status, out, err = result
    assert (status, out, err.count("\n")) == (2, "", 1) and err.startswith(f"error: {url}: ") and message in err, err


def test_the_scores_are_those_of_base_and_adapter(
    model, score, run_script, tiny_llama, tiny_adapter, movie_test, pieces, tmp_path, monkeypatch
):
    monkeypatch.setenv("OPENAI_API_KEY", "sk-secret")
    train = ["--train_data_path", movie_test.with_name("train.json")]
    with serving(like_vllm(model)) as server:
        status, out, err = score(server.url, "--output_dir", tmp_path / "served", "--target", "movie", *train)
    assert status == 0, err
    flags = ["--base_model", tiny_llama, "--lora_weights", tiny_adapter, "--device", "cpu"]
    flags += ["--test_data_path", movie_test]
    assert run_script("evaluate.py", *flags, "--output_dir", tmp_path / "local", *train)[0] == 0
    (served, by_server), (local, by_us) = (read_evaluation(tmp_path / name) for name in ("served", "local"))
    for name in ("p_yes", "p_no"):
        assert by_server[name] == pytest.approx(by_us[name], rel=1e-4)
    assert served["auc"] == pytest.approx(local["auc"], abs=1e-6) and served["floors"] == local["floors"]
    first, *_, last = out.splitlines()
    assert first.startswith(f"movie at {server.url}: 24 rows in ")
    assert first.endswith(", 0 with a cut prompt; frame: alpaca") and last == f"===== auc: {served['auc']} ====="
    run = served["run"]
    assert (run["script"], run["served_name"], run["target"]) == ("score_served.py", "movie", "movie")
    assert server.keys == {"Bearer sk-secret"}
    assert not any("sk-secret" in path.read_text() for path in (tmp_path / "served").iterdir())
    (body,) = completions(server)
    frame = load_frame("alpaca")
    prompts = [[1, *pieces.encode(frame.prompt(record))] for record in read_records(movie_test)]
    answers = [pieces.piece_to_id("Yes"), pieces.piece_to_id("No")]
    assert body == {
        "model": "movie",
        "prompt": prompts,
        "max_tokens": 1,
        "temperature": 0,
        "logprobs": 0,
        "logprob_token_ids": answers,
        "return_tokens_as_token_ids": True,
    }


def test_many_prompts_and_their_order(model):
    prompts = [[1, 300 + number % 300, 7][: 2 + number % 2] for number in range(140)]
    with serving(like_vllm(model)) as server:
        service = Service(server.url, timeout=60, attempts=1, key="none")
        log_p = asyncio.run(answer_log_probabilities(service, "movie", prompts, (5, 630)))
    asked = [body["prompt"] for body in completions(server)]
    assert [len(batch) for batch in asked] == [128, 12] and sum(asked, []) == prompts
    with torch.no_grad():
        rows = [model(input_ids=torch.tensor([ids])).logits[0, -1].log_softmax(-1) for ids in prompts]
    np.testing.assert_allclose(log_p, [[float(row[5]), float(row[630])] for row in rows], atol=1e-5)


def test_mistakes_before_a_server_is_asked(score, client_folder, tmp_path, monkeypatch):
    address = "error: OPENAI_BASE_URL is not set; for vLLM on this machine it is http://localhost:8000/v1\n"
    assert score("") == (2, "", address)
    for name in ("prompt_frame.json", "tokenizer.json"):
        folder = shutil.copytree(client_folder, tmp_path / name)
        (folder / name).unlink()
        lacks = f"error: --model_folder {folder}: prompt_frame.json or tokenizer is missing there; export_model.py "
        assert score("http://127.0.0.1:9/v1", folder=folder) == (2, "", f"{lacks}writes them\n")
    for key in ("sk-se\ncret", "sk-sécret"):
        monkeypatch.setenv("OPENAI_API_KEY", key)
        status, _, err = score("http://127.0.0.1:9/v1")
        assert status == 2 and err.startswith("error: OPENAI_API_KEY holds ") and "cret" not in err


def choices(count=24, value=-2.0, **changes):
    """What vLLM answers to `count` prompts, by the ids that were asked for; `changes` go into every choice."""

    def answer(body):
        found = {f"token_id:{token}": value for token in body["logprob_token_ids"]}
        return {"choices": [{"index": i, "logprobs": {"top_logprobs": [found]}, **changes} for i in range(count)]}

    return answer


@pytest.mark.parametrize(
    ("models", "answer", "message"),
    [
        (None, None, "answer"),
        (b"<html>", None, "answer"),
        ({"data": [{"id": 7}]}, None, "answer"),
        ({"data": []}, None, "serves no model; give --served_name"),
        ({"data": [{"id": "a"}, {"id": "b"}]}, None, "serves a, b; give --served_name"),
        (MODELS, lambda body: b"<html>", "the answer is not JSON"),
        (MODELS, choices(index=0), "does not answer with one choice for each of 24 prompts"),
        (MODELS, choices(logprobs=None), "does not return the log-probability of token_id:"),  # vLLM before 0.26
        (MODELS, choices(logprobs={"top_logprobs": [[1]]}), "does not answer in the form of vLLM"),
        (MODELS, choices(value=True), "is True, not a number"),
        (MODELS, choices(value=float("nan")), "is nan, not a number"),
        (MODELS, choices(value=0.5), "these are not log-probabilities; start vLLM without --logprobs-mode"),
    ],
)
def test_odd_servers(score, tmp_path, models, answer, message):
    def reply(handler):
        handler.reply(models if handler.path == "/v1/models" else answer(json.loads(handler.body)))

    with serving(reply) as server:
        assert_one_line(score(server.url, "--output_dir", tmp_path / "results"), server.url, message)
    assert not (tmp_path / "results").exists()


def test_an_unknown_model(model, score):
    with serving(like_vllm(model)) as server:
        assert_one_line(score(server.url, "--served_name", "x"), server.url, "404: The model `x` does not exist.")


def test_keys_and_passwords_are_not_told(score, monkeypatch):
    key, password = 'sk-Proj/7"9+&Zq_QR4=~wv83KmT', "Pa55/w0rd+17"
    monkeypatch.setenv("OPENAI_API_KEY", key)
    echo = f"Bearer {key} {json.dumps(key)} {quote(key, safe='')} {password}"
    for body, status in (
        ({"error": {"message": echo, "code": echo}}, 401),
        ({"data": [{"id": echo}, {"id": "b"}]}, 200),
    ):
        with serving(lambda handler: handler.reply(body, status)) as server:
            result = score(server.url.replace("//", f"//user:{quote(password, safe='')}@"))
        assert_one_line(result, server.url, "")
        assert not any(part in result[2] for part in (key[:10], key[8:18], quote(key)[:10], password, "Pa55"))
