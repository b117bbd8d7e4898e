"""The tests. One module here for each module of the project."""
