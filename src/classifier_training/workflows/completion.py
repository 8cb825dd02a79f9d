"""`completion`: the code for a shell, and the words that it may complete."""

from __future__ import annotations

import os
import sys
from typing import Annotated, Literal

from classifier_training.conf.compose import compose_values
from classifier_training.conf.overrides import leaf_keys
from classifier_training.conf.store import group_options
from classifier_training.core.errors import UserError
from classifier_training.core.register import Word, entries, entry, register
from classifier_training.core.runtime import COMPLETION_REQUEST

SCRIPTS = {
    "bash": """_classifier_training() {{
  local IFS=$'\\n' line="${{COMP_LINE:0:COMP_POINT}}" found word
  found=($({request}="$line" "${{COMP_WORDS[0]}}" 2>/dev/null))
  word="${{line##* }}"
  # Bash breaks words at the equals sign, so only what follows it may be given back.
  [[ "$word" == *=* ]] && found=("${{found[@]#*=}}")
  COMPREPLY=("${{found[@]}}")
}}
complete -o nospace -o default -F _classifier_training classifier-training
""",
    "zsh": """_classifier_training() {{
  local -a found
  found=("${{(@f)$({request}="${{BUFFER[1,CURSOR]}}" ${{words[1]}} 2>/dev/null)}}")
  compadd -S '' -- $found || _files
}}
compdef _classifier_training classifier-training
""",
    "fish": """complete -c classifier-training -f -a '(env {request}=(commandline -cp) classifier-training 2>/dev/null)'
""",
}


@register(
    group="verb",
    name="completion",
    examples=("completion bash",),
)
def completion(*, shell: Annotated[Literal["bash", "zsh", "fish"], Word()]) -> str:
    """Print code for a shell, as in: eval "$(classifier-training completion shell=bash)".

    Args:
        shell: the shell that will read it.
    """
    return SCRIPTS[shell].format(request=COMPLETION_REQUEST)


def print_candidates() -> int:
    """Print what may follow the line in the environment; returns the exit code."""
    sys.stdout.write("".join(f"{word}\n" for word in candidates(os.environ[COMPLETION_REQUEST])))
    return 0


def candidates(line: str) -> list[str]:
    """List the words that may stand at the end of a line."""
    words = line.split(" ")[1:]
    last = words[-1] if words else ""
    if len(words) < 2:
        return [f"{verb.name} " for verb in entries("verb") if verb.name.startswith(last)]
    try:
        verb = entry("verb", words[0])
        sub_verbs = entries(verb.name)
        if sub_verbs and len(words) == 2:
            return [f"{one.name} " for one in sub_verbs if one.name.startswith(last)]
        if sub_verbs:
            verb = entry(verb.name, words[1])
        own = [f"{name}=" for name in verb.options] if verb.settings_of else []
        verb = entry("verb", verb.settings_of.verb) if verb.settings_of else verb
        groups = group_options(verb)
        group, equals, start = last.partition("=")
        if equals:
            return [f"{group}={name} " for name in groups.get(group, []) if name.startswith(start)]
        chosen = [word for word in words[1:-1] if word.partition("=")[0] in groups]
        keys = [*groups, *leaf_keys(compose_values(verb, chosen))]
    except UserError:
        # A line that is wrong already has no ending that would make it right.
        return []
    return [word for word in (*own, *(f"{key}=" for key in keys)) if word.startswith(last)]
