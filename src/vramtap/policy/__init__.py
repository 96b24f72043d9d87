"""Pure decisions: when to protect, when to arm, when to poll."""
