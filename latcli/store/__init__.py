"""Where runs are kept: SQLite for what is asked of them, and a folder each for their files."""
