"""A parser of arguments that says what a misspelt command or option may have meant, and knows how
much each command says.
"""

import argparse
import itertools
import re
import sys
from collections.abc import Sequence
from typing import Any, NoReturn

from hpc_bnn.spelling import nearest


class Parser(argparse.ArgumentParser):
    """As argparse's; parsers of commands below it are of this class, too.

    What it has parsed holds ``parser``, that of the innermost command, and ``verbosity`` where it
    was given.
    """

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._words: list[str] = []
        self.set_defaults(parser=self)
        loudness = self.add_mutually_exclusive_group()
        for flags, value, text in (
            (("-q", "--quiet"), -1, "log warnings only, and show no bar"),
            (("-v", "--verbose"), 1, "log more, and where an error came from"),
        ):
            loudness.add_argument(
                *flags,
                dest="verbosity",
                action="store_const",
                const=value,
                default=argparse.SUPPRESS,
                help=text,
            )

    # The type is that of typeshed, which has overloads.
    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        """Parse as argparse does; keep the words for messages."""
        self._words = list(sys.argv[1:] if args is None else args)
        return super().parse_known_args(args, namespace)

    def error(self, message: str) -> NoReturn:
        """End with the usage, the message and what may have been meant."""
        wrong = re.search(r"invalid choice: '([^']+)' \(choose from (.*)\)", message)
        if wrong is not None:
            message += nearest(wrong[1], re.findall(r"[\w.-]+", wrong[2]))
        for option, meant in self.misspelt(self._words):
            message = f"unknown option {option}{meant}"
            break
        super().error(message)

    def misspelt(self, words: Sequence[str]) -> list[tuple[str, str]]:
        """Return the words that are no option of this command, each with advice where one is
        near.
        """
        if self._subparsers is not None:  # the words behind a command are those of its own parser
            words = list(itertools.takewhile(lambda word: word.startswith("-"), words))
        known = self._option_string_actions
        options = [word.partition("=")[0] for word in words if word.startswith("--") and word[2:]]
        unknown = [o for o in options if not any(name.startswith(o) for name in known)]
        advice = [(option, nearest(option, known, prefix="--")) for option in unknown]
        return [(option, text) for option, text in advice if text]
