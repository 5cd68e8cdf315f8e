"""The lab's tokenizer: one token a word, one a digit, one a punctuation mark; a chat template; about 400 entries."""

from __future__ import annotations

from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from alignment.lab.vocabulary import ASSISTANT, END, MAX_LENGTH, PAD, UNKNOWN, USER, vocabulary

CHAT_TEMPLATE = (
    "{%- for message in messages -%}"
    "{%- if message.role == 'assistant' -%}"
    "<|assistant|>{% generation %}{{ message.content }}<|end|>{% endgeneration %}"
    "{%- else -%}<|user|>{{ message.content }}<|end|>{%- endif -%}"
    "{%- endfor -%}"
    "{%- if add_generation_prompt -%}<|assistant|>{%- endif -%}"
)


def make_tokenizer() -> PreTrainedTokenizerFast:
    """Decoding gives back the text exactly: no space before a mark or between the digits of a number."""
    tokenizer = Tokenizer(models.WordLevel(vocabulary(), unk_token=UNKNOWN))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(  # type: ignore[assignment]
        [pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.Punctuation()]
    )
    superfluous = Regex(r" (?=[.,?:])|(?<=\d) (?=\d)|^ ")
    tokenizer.decoder = decoders.Sequence(  # type: ignore[assignment]
        [decoders.Replace(Regex("^"), " "), decoders.Fuse(), decoders.Replace(superfluous, "")]
    )
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token=PAD,
        unk_token=UNKNOWN,
        eos_token=END,
        additional_special_tokens=[USER, ASSISTANT],
        model_max_length=MAX_LENGTH,
        padding_side="right",
        clean_up_tokenization_spaces=False,
    )
    fast.chat_template = CHAT_TEMPLATE
    return fast
