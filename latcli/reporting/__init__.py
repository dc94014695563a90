"""Results made readable: tables, figures, pages."""
