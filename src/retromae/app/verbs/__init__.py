"""One file per verb of the command line, each with a `command`. They are imported when they are called for, so that
`retromae --help` does not wait for torch."""
