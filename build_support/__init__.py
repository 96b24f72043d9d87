"""What the build hook does: a module for each thing fetched or compiled. Not part of the package."""
