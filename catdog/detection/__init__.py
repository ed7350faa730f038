"""Photos -> boxes around pets' heads, without torch."""
