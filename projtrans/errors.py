"""The errors that are not mistakes in the code, as one tree.

    ProjtransError            shown to the user as one line: what, which value, what to do
    ├── ConfigError      2    a flag, a setting or a configuration file
    ├── DataError        1    a corpus, a text file or a prepared data folder
    │   └── LineError    1    a line of a text to be translated
    ├── RunError         1    a run folder, a checkpoint or a tokenizer in it
    ├── DivergedError    3    training with a loss or gradients that are not finite
    └── Interrupted    130    training stopped by SIGINT (143: SIGTERM, 129: SIGHUP), its state saved

The number is the exit status of the command. Mistakes in the code raise ordinary exceptions.
"""


class ProjtransError(Exception):
    """Base of all errors that a user can cause and fix; the message is one line."""

    exit_status = 1


class ConfigError(ProjtransError):
    """A flag, setting or configuration file that cannot be used."""

    exit_status = 2


class DataError(ProjtransError):
    """A corpus, text file or data folder that cannot be used."""


class LineError(DataError):
    """A line that cannot be translated, where no line may be omitted."""


class RunError(ProjtransError):
    """A run folder, checkpoint or tokenizer that cannot be used."""


class DivergedError(ProjtransError):
    """Training stopped because its loss or gradients were no longer finite."""

    exit_status = 3


class Interrupted(ProjtransError):
    """Training stopped by a signal, its state saved."""

    def __init__(self, message: str, signal_number: int) -> None:
        super().__init__(message)
        self.exit_status = 128 + signal_number
