"""What people type who come from other programs: each line runs, or is answered with a command that runs.

`foreign_commands.csv` has a line for each: the kind of system, the command there, the words that are typed here in that
habit, and the command that they come to. Where the two are the same the words run as they are; otherwise they are
answered with it. The commands are composed and their arguments validated; some are run.
"""

from __future__ import annotations

import csv
import shlex
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from tests.conftest import SMALL, make_class_folders, read_csv

from classifier_training import cli
from classifier_training.conf.aliases import resolve
from classifier_training.conf.command_line import read_words
from classifier_training.conf.compose import compose
from classifier_training.conf.foreign_commands import translate
from classifier_training.core.errors import UserError
