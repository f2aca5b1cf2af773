"""Tasks: what an example is and how it is taught; a file for each task."""
