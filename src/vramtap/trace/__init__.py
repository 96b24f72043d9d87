"""Research: recorded traces of written pages, replay of policies, the optimum, and tuning."""
