"""Speed, memory and quality figures; each script prints a table and writes JSON."""
