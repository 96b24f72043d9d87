"""The display: modes, pixel formats, regions, the screen and its damage."""
