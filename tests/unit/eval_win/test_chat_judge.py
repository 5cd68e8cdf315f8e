"""A judge behind a URL, with a real server on this machine."""

import itertools

import pytest
from chat_server import prefers_the_longer, serving, shown
from win_pairs import nothing, pair

from alignment.core.errors import RecipeError, SuiteError
from eval import chat_judge
from eval.chat_judge import ChatJudge, conversation, verdict_of
from eval.win_config import Judge

PAIRS = [pair("ab", "abcd"), pair("abcd", "ab", "another"), pair("ab", "cd")]


def judge_at(server, tmp_path, **settings) -> ChatJudge:
    return ChatJudge(Judge(url=server.url, model="judge", **settings), tmp_path / "replies.jsonl")


@pytest.fixture(autouse=True)
def short_waits(monkeypatch):
    monkeypatch.setattr(chat_judge, "FIRST_WAIT", 0.01)


def test_both_orders_are_asked_at_temperature_0_and_agree(tmp_path):
    with serving(prefers_the_longer) as server:
        judged = judge_at(server, tmp_path)(PAIRS, nothing)
    assert [one.win for one in judged] == [1, 0, 0.5]
    assert judged[0].verdicts == ("new", "new") and judged[0].replies == ("B", "A")
    assert judged[2].verdicts == ("tie", "tie")
    bodies = [body for _, body in server.requests]
    assert len(bodies) == 6 and all(body["temperature"] == 0 and body["model"] == "judge" for body in bodies)
    assert sorted(shown(body["messages"][0]["content"]) for body in bodies)[:2] == [("ab", "abcd"), ("ab", "abcd")]


def test_a_judge_that_always_takes_the_first_answer_gives_ties(tmp_path):
    with serving(lambda text: "A") as server:
        judged = judge_at(server, tmp_path)(PAIRS, nothing)
    assert [one.win for one in judged] == [0.5, 0.5, 0.5]
    assert judged[0].verdicts == ("reference", "new")


def test_a_tie_in_one_order_is_half_of_the_verdict(tmp_path):
    with serving(lambda text: "C" if shown(text)[0] == "ab" else "A") as server:
        [judged] = judge_at(server, tmp_path)([pair("ab", "abcd")], nothing)
    assert judged.verdicts == ("tie", "new") and judged.win == 0.75


def test_equal_answers_tie_without_asking(tmp_path):
    with serving(prefers_the_longer) as server:
        [judged] = judge_at(server, tmp_path)([pair("same", "same")], nothing)
    assert judged.win == 0.5 and judged.verdicts is None and server.requests == []


def test_a_reply_that_is_no_verdict_counts_as_none_and_only_a_judge_without_any_is_an_error(tmp_path):
    with serving(lambda text: None if "abcd" in text else "C") as server:
        judged = judge_at(server, tmp_path)(PAIRS, nothing)
    assert [one.win for one in judged] == [None, None, 0.5]
    with serving(lambda text: "I cannot decide") as server, pytest.raises(SuiteError) as caught:
        judge_at(server, tmp_path)(PAIRS, nothing)
    assert "no pair has a verdict in both orders" in caught.value.what and "I cannot decide" in caught.value.what


def test_half_a_verdict_is_none_because_the_other_order_might_contradict(tmp_path):
    with serving(lambda text: "A" if shown(text)[0] != "ab" else "hm") as server:
        judged = judge_at(server, tmp_path)([pair("ab", "abcd"), pair("x", "yz")], nothing)
    assert judged[0].verdicts == (None, "new") and judged[0].win is None


@pytest.mark.parametrize(
    ("reply", "side"),
    [
        ("A", "reference"),
        (" b.\n", "new"),
        ("**C**", "tie"),
        ("[[A]]", "reference"),
        ("A is short, B is kind. My choice: [[B]]", "new"),
        ("First I thought [[A]], but no: [[B]]", "new"),
        ("Answer A is better", None),
        ("", None),
        ("D", None),
        ("AB", None),
    ],
)
def test_what_is_a_verdict(reply, side):
    assert verdict_of(reply, ("reference", "new")) == side


def test_braces_and_placeholders_in_answers_stay_as_they_are(tmp_path):
    with serving(prefers_the_longer) as server:
        judge_at(server, tmp_path)([pair("{second}", "{0} {prompt} {{x}}")], nothing)
    assert sorted(shown(body["messages"][0]["content"]) for _, body in server.requests) == [
        ("{0} {prompt} {{x}}", "{second}"),
        ("{second}", "{0} {prompt} {{x}}"),
    ]


def test_template_and_options_shape_the_request_and_the_key_comes_from_the_environment(tmp_path, monkeypatch):
    monkeypatch.setenv("JUDGE_KEY", "secret-key")
    settings = {
        "template": "{first}|{second}",
        "options": {"max_tokens": 5, "temperature": None},
        "key_env": "JUDGE_KEY",
    }
    with serving(lambda text: "A") as server:
        judge_at(server, tmp_path, **settings)([pair("x", "y")], nothing)
    headers, body = server.requests[0]
    assert headers["Authorization"] == "Bearer secret-key"
    assert body == {"model": "judge", "messages": body["messages"], "max_tokens": 5}
    assert {body["messages"][0]["content"] for _, body in server.requests} == {"x|y", "y|x"}
    assert "secret-key" not in (tmp_path / "replies.jsonl").read_text()


def test_a_key_that_is_not_set_is_told_before_anything_is_asked(tmp_path, monkeypatch):
    monkeypatch.delenv("JUDGE_KEY", raising=False)
    with serving(prefers_the_longer) as server, pytest.raises(RecipeError, match="JUDGE_KEY is not set"):
        judge_at(server, tmp_path, key_env="JUDGE_KEY")
    assert server.requests == []


def test_a_busy_or_ill_server_is_asked_again(tmp_path):
    turns = itertools.count()

    def reply(text):
        match next(turns):
            case 0:
                return (429, {"Retry-After": "0"}, "slow down")
            case 1:
                return (503, {"Retry-After": "Wed, 21 Oct 2026 07:28:00 GMT"}, "starting")
        return prefers_the_longer(text)

    with serving(reply) as server:
        [judged] = judge_at(server, tmp_path)([pair("ab", "abcd")], nothing)
    assert judged.win == 1 and len(server.requests) == 4


def test_a_server_that_stays_ill_ends_the_cell_and_keeps_the_replies(tmp_path):
    def reply(text):
        return (500, {}, "out of memory") if "ill" in text else prefers_the_longer(text)

    with serving(reply) as server, pytest.raises(SuiteError, match=r"no answer in 6 tries \(HTTP 500: out of memory\)"):
        judge_at(server, tmp_path)([*PAIRS, pair("ill", "very ill")], nothing)
    healthy = len((tmp_path / "replies.jsonl").read_text().split("\n")) - 1
    assert healthy > 0


def test_a_refusal_is_told_at_once(tmp_path):
    with serving(lambda text: (401, {}, "wrong key")) as server:
        with pytest.raises(SuiteError, match="HTTP 401: wrong key"):
            judge_at(server, tmp_path)([pair("ab", "abcd")], nothing)
        assert len(server.requests) <= 2  # one of each order, no second try


def test_a_server_of_another_kind_is_told(tmp_path):
    html = (200, {}, "<html>hello</html>")
    with serving(lambda text: html) as server, pytest.raises(SuiteError, match="no chat completion") as caught:
        judge_at(server, tmp_path)([pair("ab", "abcd")], nothing)
    assert "judge.url" in caught.value.remedy


def test_nobody_there_is_told_before_the_sampling(tmp_path):
    with serving(prefers_the_longer) as server:
        pass  # its port is free again
    with pytest.raises(SuiteError, match="no answer in 6 tries"):
        judge_at(server, tmp_path)


def test_replies_are_kept_so_that_nothing_is_asked_twice(tmp_path):
    with serving(prefers_the_longer) as server:
        first = judge_at(server, tmp_path)(PAIRS, nothing)
        asked = len(server.requests)
        file = tmp_path / "replies.jsonl"
        file.write_text(file.read_text() + '\n{"key": "cut sho')  # a kill in the middle of a line
        again = judge_at(server, tmp_path)([*PAIRS, pair("one", "more")], nothing)
        third = judge_at(server, tmp_path)([pair("one", "more")], nothing)
    assert first == again[:3] and third == again[3:]
    assert asked == 6 and len(server.requests) == 8


def test_another_model_or_template_is_another_question(tmp_path):
    with serving(lambda text: "C") as server:
        judge_at(server, tmp_path)([pair("x", "y")], nothing)
        judge_at(server, tmp_path, template="{second} {first}")([pair("x", "y")], nothing)
        ChatJudge(Judge(url=server.url, model="other"), tmp_path / "replies.jsonl")([pair("x", "y")], nothing)
    assert len(server.requests) == 6


def test_a_conversation_reads_by_role_where_there_are_several_messages():
    assert conversation([{"role": "user", "content": "hello"}]) == "hello"
    both = [{"role": "system", "content": "be kind"}, {"role": "user", "content": "hello"}]
    assert conversation(both) == "system: be kind\n\nuser: hello"
