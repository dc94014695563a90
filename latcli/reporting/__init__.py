"""Results made readable: tables, figures, pages; must not know how a result came to be."""
