"""base_model/score_served.py: P(Yes) and P(No) by a server's log-probabilities.

The server (tests/support/served.py) answers in the form of vLLM 0.32 with real probabilities of the tiny model.

1. Probabilities and AUC are those of evaluate.py on base and adapter; the weights of the folder are not read.
2. Prompts go out as token ids in several requests, and answers that come back in another order are put right.
3. Both answers are asked for by id; a server that does not know the field, or hands out logits, is an error.
4. The key comes from the environment only, and is in no file.
5. Whatever is no list of models or no answer of vLLM's, one choice for each prompt, is one line, and never a number.
6. A key that cannot be sent is refused first; keys and passwords that a server echoes are in no message.
7. Several served models, an unknown one, a server that is down or refuses, an incomplete folder: one line each.
"""

import asyncio
import json
import shutil
import socket
import threading
from urllib.parse import quote

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

from tests.support.hostile import serving
from tests.support.served import Server
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
def exported(run_script, tiny_llama, tiny_adapter, tmp_path_factory):
    """(what a client has of the exported folder, its model)."""
    folder = tmp_path_factory.mktemp("exports") / "movie"
    flags = ["--base_model", tiny_llama, "--lora_weights", tiny_adapter, "--output_dir", folder, "--device", "cpu"]
    assert run_script("base_model/export_model.py", *flags)[0] == 0
    client = folder.with_name("client")
    shutil.copytree(folder, client, ignore=shutil.ignore_patterns("model*", "generation_config.json", "run.json"))
    return client, AutoModelForCausalLM.from_pretrained(folder).eval()


@pytest.fixture
def serve(exported, monkeypatch):
    """serve(**options) starts a Server of the exported model and points the environment at it."""
    servers = []

    def start(**options):
        server = Server(exported[1], **options)
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        servers.append(server)
        monkeypatch.setenv("OPENAI_BASE_URL", server.url)
        monkeypatch.delenv("OPENAI_API_KEY", raising=False)
        return server

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


@pytest.fixture
def score(run_script, exported, movie_test):
    def run(*flags, folder=exported[0]):
        return run_script(SCRIPT, "--model_folder", folder, "--test_data_path", movie_test, *flags)

    return run


def test_the_scores_are_those_of_base_and_adapter(
    serve, score, run_script, tiny_llama, tiny_adapter, movie_test, tmp_path, monkeypatch
):
    server = serve()
    monkeypatch.setenv("OPENAI_API_KEY", "sk-secret")
    train = ["--train_data_path", movie_test.with_name("train.json")]
    status, out, err = score("--output_dir", tmp_path / "served", "--target", "movie", *train)
    assert status == 0, err
    flags = ["--base_model", tiny_llama, "--lora_weights", tiny_adapter, "--device", "cpu"]
    flags += ["--test_data_path", movie_test]
    assert run_script("evaluate.py", *flags, "--output_dir", tmp_path / "local", *train)[0] == 0
    (served, by_server), (local, by_us) = (read_evaluation(tmp_path / name) for name in ("served", "local"))
    assert by_server["p_yes"] == pytest.approx(by_us["p_yes"], rel=1e-4)
    assert by_server["p_no"] == pytest.approx(by_us["p_no"], rel=1e-4)
    assert served["auc"] == pytest.approx(local["auc"], abs=1e-6) and served["floors"] == local["floors"]
    assert out.splitlines()[0].startswith(f"movie at {server.url}: 24 rows in ")
    assert out.splitlines()[0].endswith(", 0 with a cut prompt; frame: alpaca")
    assert out.splitlines()[-1] == f"===== auc: {served['auc']} ====="
    run = served["run"]
    assert (run["script"], run["served_name"], run["target"]) == ("score_served.py", "movie", "movie")
    assert server.keys == {"Bearer sk-secret"}
    assert not any("sk-secret" in path.read_text() for path in (tmp_path / "served").iterdir())


def test_what_is_asked(serve, score, pieces, movie_test):
    server = serve()
    status, out, err = score()
    assert status == 0, err
    (body,) = server.bodies
    prompts = body.pop("prompt")
    frame = load_frame("alpaca")
    assert prompts == [[1, *pieces.encode(frame.prompt(record))] for record in read_records(movie_test)]
    yes, no = pieces.piece_to_id("Yes"), pieces.piece_to_id("No")
    assert body == {
        "model": "movie",
        "max_tokens": 1,
        "temperature": 0,
        "logprobs": 0,
        "logprob_token_ids": [yes, no],
        "return_tokens_as_token_ids": True,
    }
    assert server.keys == {"Bearer none"}


def test_many_prompts_and_their_order(serve, exported):
    server = serve()
    prompts = [[1, 300 + number % 300, 7][: 2 + number % 2] for number in range(140)]
    service = Service(server.url, timeout=60, attempts=1, key="none")
    log_p = asyncio.run(answer_log_probabilities(service, "movie", prompts, (5, 630)))
    assert [len(body["prompt"]) for body in server.bodies] == [128, 12]
    assert sum((body["prompt"] for body in server.bodies), []) == prompts
    with torch.no_grad():
        rows = [exported[1](input_ids=torch.tensor([ids])).logits[0, -1].log_softmax(-1) for ids in prompts]
    np.testing.assert_allclose(log_p, [[float(row[5]), float(row[630])] for row in rows], atol=1e-5)


@pytest.mark.parametrize(
    "options, flags, message",
    [
        ({"knows_the_field": False}, [], "the server does not return the log-probability of token_id:"),
        ({"mode": "raw_logits"}, [], "these are not log-probabilities; start vLLM without --logprobs-mode"),
        ({"served": ("a", "b")}, [], "serves a, b; give --served_name"),
        ({"served": ()}, [], "serves no model; give --served_name"),
        ({}, ["--served_name", "x"], "Error code: 404 - The model `x` does not exist."),
    ],
    ids=["older vLLM", "logits", "several models", "no model", "unknown model"],
)
def test_servers_that_do_not_fit(serve, score, tmp_path, options, flags, message):
    server = serve(**options)
    status, out, err = score(*flags, "--output_dir", tmp_path / "results")
    assert (status, out) == (2, "")
    assert err.startswith(f"error: {server.url}") and message in err and err.count("\n") == 1
    assert not (tmp_path / "results").exists()


def test_mistakes_before_a_server_is_asked(serve, score, exported, tmp_path, monkeypatch):
    server = serve()
    monkeypatch.setenv("OPENAI_BASE_URL", "")
    assert score() == (
        2,
        "",
        "error: OPENAI_BASE_URL is not set; for vLLM on this machine it is http://localhost:8000/v1\n",
    )
    for name in ("prompt_frame.json", "tokenizer.json"):
        folder = shutil.copytree(exported[0], tmp_path / name)
        (folder / name).unlink()
        message = f"error: --model_folder {folder}: prompt_frame.json or tokenizer is missing there; export_model.py writes them\n"
        assert score(folder=folder) == (2, "", message)
    assert server.bodies == []


@pytest.mark.slow
def test_a_server_that_is_down(serve, score, monkeypatch):
    server = serve()
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{free.getsockname()[1]}/v1"
    monkeypatch.setenv("OPENAI_BASE_URL", url)
    assert score() == (2, "", f"error: {url}: Connection error.\n")
    assert server.bodies == []


MODELS = {"object": "list", "data": [{"id": "movie", "object": "model"}]}


def served_choices(n, **changes):
    """The answer of vLLM to n prompts, by the ids that were asked for; `changes` go into every choice."""

    def answer(body):
        found = {f"token_id:{token}": -2.0 for token in body["logprob_token_ids"]}
        choices = [{"index": index, "logprobs": {"top_logprobs": [found]}, **changes} for index in range(n or 24)]
        return {"object": "text_completion", "choices": choices}

    return answer


def values(value):
    return lambda body: served_choices(
        0, logprobs={"top_logprobs": [dict.fromkeys((f"token_id:{t}" for t in body["logprob_token_ids"]), value)]}
    )(body)


@pytest.mark.parametrize("models", [b"<html>", None, 5, {}, {"data": [None]}, {"data": [{"id": 7}]}, b"[" * 100_000])
def test_odd_lists_of_models(score, monkeypatch, models):
    with serving(lambda handler: handler.reply(models)) as server:
        monkeypatch.setenv("OPENAI_BASE_URL", server.url)
        status, out, err = score()
    assert (status, out) == (2, "") and err.startswith(f"error: {server.url}: ") and err.count("\n") == 1
    assert "the answer is not JSON" in err or "/models does not answer with a list of models" in err


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (lambda body: b"<html>", "the answer is not JSON"),
        (lambda body: None, "does not answer in the form of vLLM"),
        (lambda body: {"choices": None}, "does not answer in the form of vLLM"),
        (served_choices(23), "does not answer with one choice for each of 24 prompts"),
        (served_choices(25), "does not answer with one choice for each of 24 prompts"),
        (served_choices(24, index=0), "does not answer with one choice for each of 24 prompts"),
        (served_choices(24, logprobs=None), "does not return the log-probability of token_id:"),
        (served_choices(24, logprobs={"top_logprobs": []}), "does not return the log-probability of token_id:"),
        (served_choices(24, logprobs={"top_logprobs": [[1]]}), "does not answer in the form of vLLM"),
        (values("-2.0"), "is '-2.0', not a number"),
        (values(True), "is True, not a number"),
        (values(float("nan")), "is nan, not a number"),
        (values(-(10**400)), "not a number"),
        (values(0.5), "these are not log-probabilities"),
    ],
)
def test_odd_choices(score, monkeypatch, tmp_path, answer, message):
    def reply(handler):
        handler.reply(MODELS if handler.path == "/v1/models" else answer(json.loads(handler.body)))

    with serving(reply) as server:
        monkeypatch.setenv("OPENAI_BASE_URL", server.url)
        status, out, err = score("--output_dir", tmp_path / "results")
    assert (status, out) == (2, "") and err.startswith(f"error: {server.url}: ") and err.count("\n") == 1
    assert message in err and not (tmp_path / "results").exists()


@pytest.mark.slow
def test_keys_and_passwords_are_not_told(score, monkeypatch, tmp_path):
    key, password = 'sk-Proj/7"9+&Zq_QR4=~wv83KmT', "Pa55/w0rd+17"
    monkeypatch.setenv("OPENAI_API_KEY", key)
    for echo in (key, f"Bearer {key}", repr(key), json.dumps(key), quote(key, safe=""), password):
        for body, status in (
            ({"error": {"message": f"Incorrect API key provided: {echo}", "code": echo}}, 401),
            ({"error": echo}, 400),
            ({"detail": {echo: [echo]}}, 422),
            (echo.encode(), 404),
            ({"data": [{"id": echo}, {"id": f"other {echo}"}]}, 200),
            ({echo: echo}, 200),
        ):
            with serving(lambda handler: handler.reply(body, status)) as server:
                monkeypatch.setenv("OPENAI_BASE_URL", server.url.replace("//", f"//user:{quote(password, safe='')}@"))
                code, out, err = score("--output_dir", tmp_path / "results")
            assert (code, out, err.count("\n")) == (2, "", 1) and err.startswith(f"error: {server.url}: ")
            assert not any(part in err for part in (key[:10], key[8:18], quote(key, safe="")[:10], password, "Pa55"))


@pytest.mark.parametrize("key", ["sk-se\ncret", "sk-sécret"])
def test_keys_that_cannot_be_sent(score, monkeypatch, key):
    monkeypatch.setenv("OPENAI_API_KEY", key)
    with serving(lambda handler: handler.reply(MODELS)) as server:
        monkeypatch.setenv("OPENAI_BASE_URL", server.url)
        status, out, err = score()
        assert server.requests == []
    assert (status, out) == (2, "") and err.startswith("error: OPENAI_API_KEY holds ") and "cret" not in err
