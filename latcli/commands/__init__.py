"""One module a subcommand: options in, a result dataclass out; must not know how a result is shown."""
