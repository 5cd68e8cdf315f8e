"""What a recipe says about win rates: whose answers, to which prompts, judged by whom. No torch here."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, model_validator

from alignment.core.config import Config, DataRef, ModelRef, StageConfig
from alignment.gold import NAMES

LENGTH_RULES = ("longer", "shorter")
PLACES = ("{prompt}", "{first}", "{second}")


def _known_rule(name: str) -> str:
    if name not in (*NAMES, *LENGTH_RULES):
        raise ValueError(f"no rule {name!r}; there are {', '.join((*NAMES, *LENGTH_RULES))}")
    return name


class Judge(Config):
    """Who says which of two answers is better: exactly one of a reward model, a rule and a language model at a URL.

    reward: its scores are compared. rule: the scores of a gold scorer are compared, or the lengths in characters.
    url: base of a server with OpenAI's chat completions, up to and with `/v1`; its `model` is shown both answers, in both
    orders, at temperature 0. key_env: name of the environment variable that holds the server's key. template: the text it
    is shown; its reply is to be A (the first is better), B (the second) or C (equal), alone or, after reasons, as `[[A]]`.
    options: more fields of the request, null for one that the server does not take.
    """

    reward: ModelRef | None = None
    rule: Annotated[str, AfterValidator(_known_rule)] | None = None
    url: str | None = Field(None, pattern=r"^https?://[^\s/]+")
    model: str | None = None
    key_env: str | None = None
    template: str | None = None
    options: dict[str, Any] = {}

    @model_validator(mode="after")
    def _one_judge(self) -> Judge:
        given = [name for name in ("reward", "rule", "url") if getattr(self, name) is not None]
        if len(given) != 1:
            raise ValueError(f"give exactly one of reward, rule, url (given: {', '.join(given) or 'none'})")
        if self.url is None and (self.model or self.key_env or self.template or self.options):
            raise ValueError("model, key_env, template and options belong to a judge at a url")
        if self.url is not None and self.model is None:
            raise ValueError("a judge at a url needs `model`, the name that its server knows")
        missing = [place for place in PLACES[1:] if self.template is not None and place not in self.template]
        if missing:
            raise ValueError(f"the template has no {' and no '.join(missing)}")
        return self

    @property
    def name(self) -> str:
        """As reports call it."""
        if self.reward is not None:
            return f"reward model {self.reward.stage or self.reward.path or self.reward.hub}"
        return f"rule {self.rule}" if self.rule else f"{self.model} at {self.url}"


class WinRate(Config):
    """How often the second model's answers beat the first's: models = [reference, new], at every seed. Answers to the same
    prompts are sampled anew, by transformers in fp32. How many prompts: `prompts.rows`."""

    models: tuple[str, str]
    prompts: DataRef
    judge: Judge
    max_new_tokens: int = Field(48, gt=0)
    temperature: float = Field(1.0, ge=0)
    batch_size: int = Field(64, gt=0, description="answers sampled at once")

    @model_validator(mode="after")
    def _two_models(self) -> WinRate:
        if self.models[0] == self.models[1]:
            raise ValueError(f"{self.models[0]!r} against itself: name two different models")
        return self


class WinRateConfig(StageConfig):
    """One cell: two models of one seed. The runner makes these from `evaluation.win_rates`."""

    kind: Literal["win_rate"] = "win_rate"
    reference: ModelRef
    model: ModelRef
    prompts: DataRef
    judge: Judge
    max_new_tokens: int = Field(48, gt=0)
    temperature: float = Field(1.0, ge=0)
    batch_size: int = Field(64, gt=0)
