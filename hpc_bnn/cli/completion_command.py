"""``hpc-bnn completion bash|zsh``: a script that lets the shell complete the words of a command.

The script asks ``hpc-bnn completion words WORD...`` at each TAB for what the last word may become;
where that says nothing the shell completes names of files.
"""

import argparse
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

from hpc_bnn.cli.arguments import commands_of, new_parser
from hpc_bnn.cli.completion_keys import PACKAGE, keys

BASH = r"""# Of hpc-bnn, for bash: eval "$(hpc-bnn completion bash)"
_hpc_bnn() {
  local line=${COMP_LINE:0:COMP_POINT} start="" word
  local -a words
  IFS=$' \t' read -ra words <<<"$line"
  [[ $line != *[[:space:]] ]] || words+=("")
  while ((${#words[@]} > 1)) && [[ ${words[0]##*/} != hpc-bnn ]]; do words=("${words[@]:1}"); done
  # Of a word with = bash completes what is behind it.
  word=${words[${#words[@]} - 1]}
  [[ $COMP_WORDBREAKS != *=* || $word != *=* ]] || start=${word%%=*}=
  COMPREPLY=()
  while IFS= read -r word; do
    COMPREPLY+=("${word#"$start"}")
  done < <("${words[0]}" completion words "${words[@]:1}" 2>/dev/null)
  [[ ${#COMPREPLY[@]} -ne 1 || ${COMPREPLY[0]} != *[=./] ]] || compopt -o nospace 2>/dev/null
}
complete -o default -F _hpc_bnn hpc-bnn
"""
ZSH = r"""#compdef hpc-bnn
# Of hpc-bnn, for zsh, after compinit: eval "$(hpc-bnn completion zsh)"
_hpc_bnn() {
  local -a found whole open
  found=("${(@f)$("${words[1]}" completion words "${(@)words[2,CURRENT]}" 2>/dev/null)}")
  found=("${(@)found:#}")
  if ((${#found} == 0)); then
    _files
    return
  fi
  whole=("${(@)found:#*[=.\/]}")
  open=("${(@M)found:#*[=.\/]}")
  ((${#whole} == 0)) || compadd -- "${whole[@]}"
  ((${#open} == 0)) || compadd -S '' -- "${open[@]}"
}
if [[ ${funcstack[1]-} == _hpc_bnn ]]; then _hpc_bnn "$@"; else compdef _hpc_bnn hpc-bnn; fi
"""
SCRIPTS = {"bash": BASH, "zsh": ZSH}


def completion_command(options: argparse.Namespace) -> int:
    """Write the script, or what the last of some words may become, and return the status."""
    if options.what == "words":
        words = candidates(options.words or [""])
        sys.stdout.write("".join(f"{word}\n" for word in words))
    else:
        sys.stdout.write(SCRIPTS[options.what])
    return 0


def candidates(words: Sequence[str]) -> list[str]:
    """Return what the last of the words behind ``hpc-bnn`` may become, sorted; nothing where only
    the name of a file can stand.
    """
    *before, current = words
    parser: argparse.ArgumentParser = new_parser()
    while commands := commands_of(parser):
        at = next((i for i, word in enumerate(before) if not word.startswith("-")), None)
        if at is None:
            return _starting(current, [*commands, *_options(parser, current)])
        if before[at] not in commands:
            return []
        name, parser, before = before[at], commands[before[at]], before[at + 1 :]
        if name == "run" and (inner := _behind_ranks(before)) is not None:
            return candidates([*inner, current])
    flags = parser._option_string_actions
    asked = flags.get(before[-1]) if before else None
    if asked is not None and asked.nargs != 0:
        return _starting(current, _of_action(asked, current))
    if current.startswith("-"):
        return _starting(current, _options(parser, current))
    names = [action.dest for action in parser._actions if not action.option_strings]
    if "run_folder" in names and not [word for word in before if not word.startswith("-")]:
        return []
    has_config = any(word.endswith((".yaml", ".yml")) for word in before)
    found: list[str] = []
    for action in parser._actions:
        if not action.option_strings and not (action.dest == "config" and has_config):
            found += _of_action(action, current)
    return _starting(current, found)


def _behind_ranks(before: Sequence[str]) -> list[str] | None:
    """Return the words of the command that ``run`` starts; None where its own are not over."""
    words = list(before)
    while words and words[0].startswith("-"):
        takes_value = words[0] in ("-n", "--ranks")
        if words[0] == "--":
            return words[1:]
        if takes_value and len(words) == 1:
            return None
        words = words[2 if takes_value else 1 :]
    return words


def _of_action(action: argparse.Action, current: str) -> list[str]:
    """Return what an argument may be."""
    if action.choices is not None:
        return [str(choice) for choice in action.choices]
    if action.metavar is not None and str(action.metavar).startswith("key=value"):
        return _keys(current)
    if action.dest in ("config", "study"):
        bundled = [path.name for path in (PACKAGE / "configs").glob("*.yaml")]
        wanted = [n for n in bundled if n.startswith("scaling_") == (action.dest == "study")]
        return wanted + _settings_files(current)
    if action.dest == "page":
        return [path.stem for path in (PACKAGE / "guide").glob("*.md")]
    if action.dest == "section":
        return sorted({word.partition(".")[0] for word in keys() if "." in word})
    return []


def _keys(current: str) -> list[str]:
    """Return sections first, then the keys of one, then the values of one."""
    if "=" in current:
        return [word for word in keys() if not word.endswith("=")]
    if "." in current:
        return [word for word in keys() if word.endswith("=")]
    return list({f"{word.partition('.')[0]}." if "." in word else word for word in keys()})


def _settings_files(current: str) -> list[str]:
    """Return settings files and folders of the user that start with a word."""
    head = current[: current.rfind("/") + 1]
    try:
        found = [path for path in Path(head).iterdir() if not path.name.startswith(".")]
    except OSError:
        return []
    files = [f"{head}{path.name}" for path in found if path.suffix in (".yaml", ".yml")]
    return files + [f"{head}{path.name}/" for path in found if path.is_dir()]


def _options(parser: argparse.ArgumentParser, current: str) -> list[str]:
    if not current.startswith("-"):
        return []
    shown = [a for a in parser._actions if a.help != argparse.SUPPRESS]
    return [flag for action in shown for flag in action.option_strings if flag.startswith("--")]


def _starting(current: str, words: Iterable[str]) -> list[str]:
    return sorted({word for word in words if word.startswith(current)})
