"""A module for each subcommand: options in, a result dataclass out; independent of how a result is shown."""
