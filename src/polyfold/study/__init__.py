"""What is done above one run: comparing artifacts, ablating what a recipe does, extending a finished model."""
