"""What a benchmark completes: token ids of a given number, or three requests for a program."""

import random
from dataclasses import dataclass

from pyllama_mtp.bench.settings import SPACE_INVADERS, Settings
from pyllama_mtp.errors import ChatTemplateError
from pyllama_mtp.model import Model

SPACE_INVADERS_PROMPTS = {
    "html": "Write the HTML page of a Space Invaders game that runs in a browser: a canvas for the playing field, the "
    "score, the number of lives left, a start button and a message for the end of the game. Styles and logic are in "
    "style.css and game.js, which the page loads. Answer with the complete file and nothing else.",
    "css": "Write style.css for the page of a Space Invaders game in the look of an old arcade machine: a dark "
    "background with stars, a centred canvas with a glowing border, score and lives above it in a pixel font, a start "
    "button that reacts to the pointer, and a layout that also fits a small screen. Answer with the complete file and "
    "nothing else.",
    "javascript": "Write game.js for a Space Invaders game on an HTML canvas, without any library: rows of aliens that "
    "march sideways, come down at the edge and become faster, a ship that moves with the arrow keys and fires with the "
    "space bar, alien bombs, shields that crumble, score, lives, levels and the end of the game. Answer with the "
    "complete file and nothing else.",
}


@dataclass(frozen=True, slots=True)
class Case:
    """Prompts whose figures belong together: name -> token ids. chat_template: whether one made them; None: no text."""

    name: str
    prompts: dict[str, list[int]]
    chat_template: bool | None = None


def token_prompt(n_tokens: int, repetition: int, n_vocab: int) -> list[int]:
    """Random ids. They differ from the second one on between repetitions, so that a prefix in the KV cache is not
    reused.
    """
    drawn = random.Random(n_tokens * 1_000_003 + repetition)
    low = min(1000, n_vocab // 2)  # control tokens and bytes come first in Gemma's vocabulary
    return [2, *(drawn.randrange(low, n_vocab) for _ in range(n_tokens - 1))]


def make_cases(model: Model, settings: Settings, repetition: int) -> list[Case]:
    """The prompts of one repetition. A target without a chat template gets the requests as plain text."""
    if settings.prompts != SPACE_INVADERS:
        n_vocab = model.info.n_vocab
        return [Case(f"{n} tokens", {"tokens": token_prompt(n, repetition, n_vocab)}) for n in settings.contexts]
    try:
        prompts = {
            name: model.prompt_ids([{"role": "user", "content": text}]) for name, text in SPACE_INVADERS_PROMPTS.items()
        }
        templated = True
    except ChatTemplateError:
        prompts = {name: model.prompt_ids(text) for name, text in SPACE_INVADERS_PROMPTS.items()}
        templated = False
    return [Case(SPACE_INVADERS, prompts, templated)]
