"""The tap: joins target, tracker, screen and viewers."""
