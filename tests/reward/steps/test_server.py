"""A judge behind a server: what it is asked, what its replies mean, and what failures do."""

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from reward.steps import Attempt, JudgeSettings, begin
from reward.steps.server import question, share_of, steps_of

RESPONSE = "First.\nSecond, longer.\n\nThird."


@pytest.fixture
def server():
    """A server of the standard library whose replies a test chooses, and what it was asked."""
    asked, replies = [], {}

    class Handler(BaseHTTPRequestHandler):
        def log_message(self, *_):
            pass

        def answer(self, status, body):
            sent = json.dumps(body).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(sent)))
            self.end_headers()
            self.wfile.write(sent)

        def do_GET(self):
            self.answer(200, {"object": "list", "data": [{"id": "judge", "object": "model"}]})

        def do_POST(self):
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            asked.append(body)
            said = body["messages"][0]["content"]
            reply = next(text for mark, text in replies.items() if mark in said)
            status = reply if isinstance(reply, int) else 200
            message = {"role": "assistant", "content": str(reply)}
            choice = {"index": 0, "finish_reason": "stop", "message": message}
            self.answer(status, {"id": "1", "object": "chat.completion", "choices": [choice]})

    found = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=found.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{found.server_port}/v1", replies, asked
    found.shutdown()
    thread.join()
    found.server_close()


def judge(url: str, retries: int = 0):
    return begin(JudgeSettings("server", url, None, 5.0, retries, 4, 64))


def attempt(problem: str) -> Attempt:
    return Attempt(problem, RESPONSE, "9")


def test_each_response_is_asked_about_once(server):
    url, replies, asked = server
    replies |= {"apples": "Step 2 adds wrongly.\nAnswer: 2", "pears": "All good.\nAnswer: 0"}
    found = judge(url)
    apples, pears = attempt("apples"), attempt("pears")
    assert found([apples, pears, apples]) == pytest.approx([6 / 27, 1.0, 6 / 27])
    assert found([pears]) == [1.0]
    assert len(asked) == 2
    assert {body["model"] for body in asked} == {"judge"}
    assert {(body["temperature"], body["max_tokens"]) for body in asked} == {(0, 64)}


def test_what_fails_has_no_verdict_and_is_asked_again_later(server):
    url, replies, asked = server
    replies |= {"apples": "Answer: 1", "pears": 500, "plums": "I cannot say."}
    found = judge(url, retries=1)
    batch = [attempt("apples"), attempt("pears"), attempt("plums")]
    assert found(batch) == [0.0, None, None]
    # Two requests for the one that broke.
    assert len(asked) == 4
    replies["pears"] = "Answer: 3"
    assert found(batch) == pytest.approx([0.0, 21 / 27, None])


def test_a_server_that_answers_nothing_stops_the_run():
    with pytest.raises(RuntimeError, match=r"has answered none of 1 requests: .* Start it, or set"):
        judge("http://127.0.0.1:9/v1")([attempt("apples")])


def test_the_question_numbers_the_steps():
    asked = question(attempt("How many apples?"))
    assert "How many apples?" in asked and "Correct answer: 9" in asked
    assert "1. First.\n2. Second, longer.\n3. Third." in asked


def test_one_line_is_cut_into_sentences():
    assert steps_of("One is 1. Two is 2! Done") == ["One is 1.", "Two is 2!", "Done"]


@pytest.mark.parametrize(
    ("reply", "share"),
    [
        ("Answer: 1", 0.0),
        ("Answer: 0", 1.0),
        ("Is it Answer: 1? No.\nAnswer: 3", 21 / 27),
        ("Answer: 4", None),
        ("Answer: none", None),
        ("", None),
    ],
)
def test_a_reply_names_a_step_or_none(reply, share):
    assert share_of(RESPONSE, reply) == (share if share is None else pytest.approx(share))
