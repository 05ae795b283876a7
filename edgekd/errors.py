"""Every error edgekd raises on purpose, with the exit code of the command line.

EdgekdError                       1
├── ConfigError                   2   a file, an option or a user's function says what cannot be accepted
│   └── Disagreement              2   teacher, student and data do not fit together
├── BudgetInfeasible              3   no student of the family fits the target
├── PluginError                   4
│   ├── UnknownPlugin             4   no such file in the plugin family
│   └── PluginUnavailable         4   the plugin is there, a package or a file that it needs is not
├── (5: every step worked, and the student breaks the budget; a verdict, not an error)
├── CorruptStep                   6   a finished step's files were changed or lost
├── RunLocked                     7   another process holds the run folder
├── ConvertError                  8   a converter gave up on a model
│   └── UnsupportedOperator       8   a format, a runtime or edgekd cannot express an operator
├── MeasureError                  9   an artifact cannot be executed or timed
│   └── DeviceUnreachable         9
├── StorageError                 10   the disk is full, or the folder cannot be written
├── TrainingDiverged             11   the loss stopped being a number
└── WorkerDied                   12   a worker process crashed, hung, or met an error of somebody's code
"""

from typing import ClassVar


class EdgekdError(Exception):
    """Base class: one line of what happened, and a `hint` of one line that says what to do next.

    try:
        edgekd.run("digits", "raspberry-pi-4")
    except edgekd.EdgekdError as error:
        print(error, error.hint)
    """

    exit_code: ClassVar[int] = 1

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message)
        self.hint = hint


class ConfigError(EdgekdError):
    """A recipe, a target, an option or a user's function says something that cannot be accepted."""

    exit_code = 2


class Disagreement(ConfigError):
    """Teacher, student and data differ in classes, channels or preprocessing."""


class BudgetInfeasible(EdgekdError):
    """No student of the family fits the target; the message says which limit, by how much, and what would fit."""

    exit_code = 3


class PluginError(EdgekdError):
    """A plugin could not be had."""

    exit_code = 4


class UnknownPlugin(PluginError):
    """No such file in the plugin family."""


class PluginUnavailable(PluginError):
    """The plugin is there, a package or a file that it needs is not."""


class CorruptStep(EdgekdError):
    """A finished step's files were changed or lost since they were made."""

    exit_code = 6


class RunLocked(EdgekdError):
    """Another process holds the run folder."""

    exit_code = 7


class ConvertError(EdgekdError):
    """A converter gave up on a model."""

    exit_code = 8


class UnsupportedOperator(ConvertError):
    """An operator that a format, a runtime or edgekd cannot express."""


class MeasureError(EdgekdError):
    """An artifact cannot be executed or timed."""

    exit_code = 9


class DeviceUnreachable(MeasureError):
    """The device does not answer."""


class StorageError(EdgekdError):
    """The disk is full, or the folder cannot be written."""

    exit_code = 10


class TrainingDiverged(EdgekdError):
    """The loss stopped being a number; the last good checkpoint is kept."""

    exit_code = 11


class WorkerDied(EdgekdError):
    """A worker process crashed, hung, or met an error in a library or in a user's function."""

    exit_code = 12


BUDGET_BROKEN = 5
"""Exit code of a run in which every step worked and the student breaks the budget."""
