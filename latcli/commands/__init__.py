"""A module or a folder for each subcommand: options in, a result dataclass out; must not know how a result is shown."""
