"""Steps of the build hook, one module for each thing to fetch or compile. Not part of the package."""
