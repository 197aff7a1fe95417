"""The command line: typer commands over `qmu_edge.api`, one result on stdout, progress on stderr."""
