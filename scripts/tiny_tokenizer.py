"""The tokenizer of the CPU demo's small model, and its chat template."""

import re

from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from scripts import arithmetic

PAD, START, END, UNKNOWN = "<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|unknown|>"
CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
MAX_POSITIONS = 512


def build_tokenizer() -> PreTrainedTokenizerFast:
    """A tokenizer of words for the texts of the task and of characters for all else.

    Each digit is a token. Each sentence of the template is one, since a prompt costs what its
    tokens cost. Every ASCII text comes back from its tokens unchanged.
    """
    sentences = re.split(r"(\n\n|(?<=\.) )", arithmetic.TEMPLATE.format(expression=""))
    words = re.findall(r" ?\w+", arithmetic.CHECK)
    signs = [" + ", " - ", " = ", ": "]
    pieces = {*sentences, *words, *signs, "Answer", "system", "user", "assistant"} - {""}
    longest_first = sorted(pieces, key=lambda piece: (-len(piece), piece))
    characters = ["\n", "\t", *map(chr, range(ord(" "), 127))]
    vocabulary = dict.fromkeys([PAD, START, END, UNKNOWN, *longest_first, *characters])

    ids = {token: i for i, token in enumerate(vocabulary)}
    backend = Tokenizer(models.WordLevel(ids, unk_token=UNKNOWN))
    pattern = "|".join([*map(re.escape, longest_first), r"[\s\S]"])
    backend.pre_tokenizer = pre_tokenizers.Split(Regex(pattern), "isolated")
    backend.decoder = decoders.Fuse()
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        pad_token=PAD,
        eos_token=END,
        unk_token=UNKNOWN,
        additional_special_tokens=[START],
        chat_template=CHAT_TEMPLATE,
        model_max_length=MAX_POSITIONS,
        clean_up_tokenization_spaces=False,
    )
