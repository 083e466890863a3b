"""Before anything is spent: what a run of a profile would do, and a first profile for a person's own files."""
