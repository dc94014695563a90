"""`python -m latcli` and the console script: signal handlers are set before anything else is imported."""

import signal
from typing import NoReturn


def main() -> NoReturn:
    """Run the command line and end the process with its exit code.

    Until the command line is imported there is nothing to close, and after it nothing left: Ctrl-C then ends at once,
    where Python would show a traceback.
    """
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    from latcli.cli import main as run

    run()


if __name__ == "__main__":
    main()
