"""`align run` with win rates: cells, cache, terminal, results.json and the page."""

import json

import pytest
import yaml
from chat_server import prefers_the_longer, serving

RECIPE = """
name: test/wins
question: Whose answers are preferred?
seeds: [0, 1]
stages:
  base: {kind: pretrain, seed: 0, hidden_size: 64, layers: 1, steps: 60, batch_tokens: 512}
  sft: {kind: sft, model: {stage: base}, data: {lab: demonstrations, rows: 100}, steps: 12, batch_size: 8}
  pairs: {kind: preferences, model: {stage: sft}, prompts: {lab: guests, rows: 40}, gold: lab_service, max_new_tokens: 12, engine: hf}
  reward: {kind: reward, model: {stage: sft}, data: {stage: pairs}, pooling: mean, epochs: 1}
evaluation:
  models: [base, sft]
  target: [lab_service]
  retained: [lab_facts]
  limit: 20
"""


@pytest.mark.slow
def test_a_recipe_with_three_judges(align, tmp_path):
    with serving(prefers_the_longer) as server:
        raw = yaml.safe_load(RECIPE)
        common = {
            "models": ["base", "sft"],
            "prompts": {"lab": "guests", "split": "test", "rows": 12},
            "max_new_tokens": 12,
        }
        judges = [{"reward": {"stage": "reward"}}, {"rule": "longer"}, {"url": server.url, "model": "judge"}]
        raw["evaluation"]["win_rates"] = [common | {"judge": judge} for judge in judges]
        (tmp_path / "wins.yaml").write_text(yaml.safe_dump(raw))
        done = align("run", "wins.yaml", cwd=tmp_path)
        assert done.returncode == 0, done.stdout + done.stderr
        asked = len(server.requests)
        again = align("run", "wins.yaml", cwd=tmp_path)
        assert again.returncode == 0 and len(server.requests) == asked > 0
    results = json.loads((tmp_path / "runs" / "test" / "wins" / "report" / "results.json").read_text())
    reward, rule, chat = results["win_rates"]
    assert (reward["judge"], rule["judge"]) == ("reward model reward", "rule longer") and chat["judge"].startswith(
        "judge at"
    )
    assert all(
        entry["n"] == 12 and entry["n_seeds"] == 2 and entry["scope"] == "method" for entry in (reward, rule, chat)
    )
    # the server prefers the longer answer too, and both judge the same samples
    assert chat["win_rate"] == rule["win_rate"] and chat["order"]["contradicted"] == 0
    assert f"sft wins {100 * rule['win_rate']:.1f} % against base" in " ".join(done.stdout.split())
    page = (tmp_path / "runs" / "test" / "wins" / "report" / "report.html").read_text()
    assert "Whose answers are preferred" in page and "rule longer" in page
