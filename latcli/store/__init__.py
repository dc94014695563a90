"""Where runs are kept: SQLite for what is asked of them, a folder each for their files; must not know the engine."""
