"""Judges that score each answer alone."""

import torch
from win_pairs import nothing, pair

from eval.judges import reward_judge, rule_judge


def test_longer_and_shorter_count_characters_and_equal_lengths_tie():
    pairs = [pair("ab", "abc"), pair("abc", "ab"), pair("ab", "cd")]
    assert [one.win for one in rule_judge("longer")(pairs, nothing)] == [1, 0, 0.5]
    assert [one.win for one in rule_judge("shorter")(pairs, nothing)] == [0, 1, 0.5]


def test_a_gold_scorer_judges_what_the_user_said_last():
    prompt = [{"role": "user", "content": "a story"}]
    [judged] = rule_judge("vader")([pair("an awful, horrible day", "a lovely, happy day", prompt)], nothing)
    assert judged.win == 1 and judged.scores is not None and judged.scores[0] < 0 < judged.scores[1]


def test_a_reward_model_sees_token_ids_and_equal_answers_tie_whatever_its_batches_do():
    seen = []

    def scorer(completions, rows=()):
        """By the first letter; the last digits depend on the place in the batch, as on real hardware."""
        seen.extend(completions)
        return torch.tensor([one.response_ids[0] + 1e-3 * place for place, one in enumerate(completions)])

    pairs = [pair("a", "b"), pair("x", "x"), pair("c", "a")]
    judged = reward_judge(scorer)(pairs, nothing)
    assert [one.win for one in judged] == [1, 0.5, 0]
    assert len(seen) == 4  # a, b, x, c: each once
    assert all(one.prompt_ids == [1, 2] for one in seen)
