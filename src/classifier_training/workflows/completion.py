"""`completion`: the code for a shell, and the words that it may complete."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING, Annotated, Literal

from classifier_training.conf.aliases import short_words
from classifier_training.conf.command_line import is_flag
from classifier_training.conf.compose import compose_values
from classifier_training.conf.overrides import leaf_keys
from classifier_training.conf.store import group_options
from classifier_training.core.errors import UserError
from classifier_training.core.register import Word, entries, entry, register
from classifier_training.core.runtime import COMPLETION_REQUEST
from classifier_training.core.settings import Names
from classifier_training.registry.references import BEST, LATEST

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from classifier_training.core.register import Entry

RUNS = [LATEST, BEST]

SCRIPTS = {
    "bash": """_classifier_training() {{
  local IFS=$'\\n' line="${{COMP_LINE:0:COMP_POINT}}" found word
  found=($({request}="$line" "${{COMP_WORDS[0]}}" 2>/dev/null))
  word="${{line##* }}"
  # Bash breaks words at the equals sign, so only what follows it may be given back.
  if [[ "$word" == *=* ]]; then
    found=("${{found[@]#*=}}")
  elif [[ "${{#found[@]}}" -gt 0 && "$word" != -* && -n "$word" ]]; then
    # Where nothing is found bash completes paths by itself.
    while read -r word; do
      [[ -d "$word" ]] && word+=/
      found+=("$(printf %q "$word")")
    done < <(compgen -f -- "$word")
  fi
  COMPREPLY=("${{found[@]}}")
}}
complete -o nospace -o default -F _classifier_training classifier-training
""",
    "zsh": """_classifier_training() {{
  local -a found
  found=("${{(@f)$({request}="${{BUFFER[1,CURSOR]}}" ${{words[1]}} 2>/dev/null)}}")
  [[ -n "$found" ]] && compadd -S '' -- $found
  compset -P '*='
  _files
}}
compdef _classifier_training classifier-training
""",
    "fish": """complete -c classifier-training -a '(env {request}=(commandline -cp) classifier-training 2>/dev/null)'
""",
}


@register(
    group="verb",
    name="completion",
    examples=("completion bash",),
)
def completion(*, shell: Annotated[Literal["bash", "zsh", "fish"], Word()]) -> str:
    """Print code for a shell, as in: eval "$(classifier-training completion bash)".

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
            verb, words = entry(verb.name, words[1]), words[1:]
        return _settings(verb, words[1:])
    except UserError:
        # A line that is wrong already has no ending that would make it right.
        return []


def _settings(verb: Entry, words: list[str]) -> list[str]:
    """List the keys, values and names of runs that may stand at the end of the words after a verb."""
    *before, last = words
    dashes = "--" if last.startswith("--") else ""
    key, equals, start = last.removeprefix(dashes).partition("=")
    known = entry("verb", verb.settings_of.verb) if verb.settings_of else verb
    groups = group_options(known)
    if before and before[-1].startswith("--") and "=" not in before[-1] and not is_flag(verb, before[-1][2:]):
        return [f"{value} " for value in _values(verb, groups, before[-1][2:]) if value.startswith(last)]
    if equals:
        return [f"{dashes}{key}={value} " for value in _values(verb, groups, key) if value.startswith(start)]
    chosen = [word for word in before if word.partition("=")[0] in groups and "=" in word]
    own = verb.options if verb.settings_of else {}
    short = short_words(verb)
    keys = [*own, *groups, *leaf_keys(compose_values(known, chosen)), *short]
    found = [f"--{name} " if dashes and is_flag(verb, name) else f"{dashes}{name}=" for name in dict.fromkeys(keys)]
    runs = [
        f"{name} " for key in verb.words for one in verb.settings_at(key) if one.names is Names.RUN for name in RUNS
    ]
    return [word for word in (*runs, *found) if word.startswith(last)]


def _values(verb: Entry, groups: Mapping[str, Sequence[str]], key: str) -> list[str]:
    """List the values of a setting that can be listed."""
    options = verb.settings_at(key)
    found = [*groups.get(key, ()), *(str(value) for option in options for value in option.literals)]
    found += ["true", "false"] if any(option.accepts(bool) for option in options) else []
    found += RUNS if any(option.names is Names.RUN for option in options) else []
    return list(dict.fromkeys(found))
