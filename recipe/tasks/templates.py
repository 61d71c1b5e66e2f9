"""The sentences around a problem that ask for its answer in a form the grader looks for."""

import hashlib
from typing import NamedTuple


class Template(NamedTuple):
    """The text before and after the problem."""

    before: str
    after: str

    @property
    def version(self) -> str:
        """Return a hash of the words; another hash means other prompts."""
        return hashlib.sha256(self.wrap("{problem}").encode()).hexdigest()[:12]

    def wrap(self, problem: str) -> str:
        """Return the content of the prompt."""
        return f"{self.before}{problem}{self.after}"

    def is_around(self, content: str) -> bool:
        """Return whether a prompt has this template already; the empty template never counts."""
        after = self.after.strip()
        return (
            bool(self.before or after)
            and content.startswith(self.before)
            and content.rstrip().endswith(after)
        )


TEMPLATES = {
    # As published with BytedTsinghua-SIA/DAPO-Math-17k, arXiv:2503.14476.
    "dapo": Template(
        "Solve the following math problem step by step. The last line of your response should be "
        "of the form Answer: $Answer (without quotes) where $Answer is the answer to the problem."
        "\n\n",
        '\n\nRemember to put your answer on its own line after "Answer:".',
    ),
    # As in the evaluation files of POLARIS-Project.
    "boxed": Template(
        "", r" Let's think step by step and output the final answer within \boxed{}."
    ),
    # Ours; asks for what reward/code/code_answer.py takes.
    "code": Template(
        "",
        "\n\nSolve this in Python. Where code to begin with is given, complete it; otherwise read "
        "the input from standard input and print the output. Give the whole program in one fenced "
        "block that begins with ```python and ends with ```.",
    ),
    "none": Template("", ""),
}


def bare(content: str) -> str:
    """Return the problem in a prompt: its content without the parts of any template."""
    text = content.strip()
    for template in TEMPLATES.values():
        text = text.removeprefix(template.before.strip()).removesuffix(template.after.strip())
        text = text.strip()
    return text


def prompt_content(given: str, template: Template) -> str:
    """Return the prompt under a template; a prompt that already has the template stays."""
    return given if template.is_around(given) else template.wrap(bare(given))
