"""What is made: Dagster assets and their checks, a file per stage."""
